"""A round's training of the critic stays unless the critic got worse on the round's solutions."""

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline_cases import learner_role, random_moe, save
from pointing_cases import PLAN, Judge, bouts_judged_by, referee_of

from pipelines.game.critic import CriticGame
from pipelines.game.lessons import Lessons
from pipelines.game.referee import Referee
from pipelines.policy.tensors import weights_hash
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.sample import Prompt, Sample, Scorer
from pipelines.training.trainer import RoleTrainer
from rewards.verifiers import Verifiers


@pytest.fixture(scope="module")
def referee() -> Iterator[Referee]:
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        yield referee_of(verifiers, "pointing.source=critic", "critic.steps_per_round=0")


@pytest.mark.parametrize(
    ("right", "learns_to_be", "stays"),
    [(True, False, False), (False, True, True), (True, True, True), (False, False, True)],
)
def test_only_a_critic_that_got_worse_is_taken_back(
    referee: Referee, right: bool, learns_to_be: bool, stays: bool
) -> None:
    critic, remarks = Judge(right, learns_to_be), list[str]()
    bouts = bouts_judged_by(referee, critic)
    game = CriticGame(referee, critic, remarks.append)
    game.train(bouts, PLAN)
    assert critic.right == (learns_to_be if stays else right)
    assert bool(remarks) == (not stays)
    assert all("got worse" in remark for remark in remarks)
    assert game.spent["trials"] > 0
    right_ones, num = game.trust.planted
    assert (right_ones > 0.9 * num) == critic.right, "trusted for what it says that stays"


def test_the_trial_is_of_other_tasks_and_of_what_no_critic_claimed(referee: Referee) -> None:
    """A flaw that the champion's own words located would count for it by construction."""
    critic = Judge(True, True)
    bouts, lessons = bouts_judged_by(referee, critic), Lessons(referee, critic)
    taught, held_out = lessons.split(bouts, random.Random(0))
    assert not {b.task.id for b in taught} & {b.task.id for b in held_out}
    assert len(held_out) == 4 and len(taught) == 20, "two solutions of each of a dozen tasks"
    items = lessons.for_trial(held_out, 12, random.Random(0))
    claimed = {b.solution.text for b in bouts if b.pointing is not None}
    assert claimed and not claimed & {i.solution.text for i in items if not i.planted}
    assert {item.sound for item in items} == {True, False}


def test_a_critic_that_retrains_imitates_in_place_of_its_rewarded_steps(referee: Referee) -> None:
    """As many steps in all, so that no schedule of the learning rate ends early."""
    settings = ("critic.steps_per_round=2", "critic.imitation_steps=1", "critic.champion=false")
    rewarded = referee_of(referee.verifiers, "pointing.source=critic", *settings)
    critic, taught = Judge(True, True), list[int]()
    critic.imitate = lambda prompts, *_: taught.append(len(prompts))  # type: ignore[method-assign, misc]
    critic.prompts_per_block = lambda steps: 4 * steps  # type: ignore[attr-defined]
    game = CriticGame(rewarded, critic)
    bouts = bouts_judged_by(rewarded, critic)
    assert game.choose(bouts, PLAN)
    retrains = replace(PLAN, critic_retrains=True)
    assert game.choose(bouts, retrains) == []
    game.imitate(bouts, PLAN)
    game.imitate(bouts, retrains)
    assert taught == [critic.replies_per_block(1), critic.replies_per_block(3)]


def test_what_the_critic_writes_to_be_rewarded_is_counted(referee: Referee) -> None:
    """Else a critic that learns by reward would look cheaper than it is."""
    critic, written = Judge(True, True), list[Sample]()

    def play(prompts: list[Prompt], block: Scorer, purpose: str) -> None:
        written.extend(one for (one,) in critic.sample(prompts, purpose))
        block(list(range(len(prompts))), written)

    critic.play = play  # type: ignore[attr-defined]
    game = CriticGame(referee, critic)
    items = game.lessons.items(bouts_judged_by(referee, critic), 4, random.Random(0))
    assert len(game.play(items, PLAN)) == 4
    assert game.spent["critic_rollouts"] == sum(len(one.token_ids) for one in written) > 0


def test_without_training_there_is_no_trial(referee: Referee) -> None:
    untrained = referee_of(
        referee.verifiers, "critic.steps_per_round=0", "critic.imitation_steps=0"
    )
    critic = Judge(True, False)
    game = CriticGame(untrained, critic)
    game.train(bouts_judged_by(untrained, critic), PLAN)
    assert critic.right and not game.spent


def test_weights_come_back_and_go_to_the_sampler(tmp_path: Path) -> None:
    checkpoint = save(random_moe(character_tokenizer()), tmp_path / "moe")
    role = learner_role(RoleTrainer, checkpoint, per_device_train_batch_size=4, num_generations=4)
    champion, before = role.weights_copy(), weights_hash(role.policy)
    role.imitate(["a4b1\n"] * 4, ["a4=40\nb1=50>50"] * 4, "lesson")
    assert weights_hash(role.policy) != before
    version = role.sampler.version
    role.put_back(champion)
    assert weights_hash(role.policy) == before and role.sampler.version == version + 1
    (drawn,) = role.sample(["a4b1\n"], "after")
    assert drawn[0].weights_hash == before
