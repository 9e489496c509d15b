"""A round's training of the critic stays unless the critic got worse on the round's solutions."""

import random
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pipeline_cases import learner_role, random_moe, save
from pointing_cases import (
    CHAIN,
    PLAN,
    RIGHT,
    WRONG,
    Solver,
    block_of,
    referee_of,
    samples_of,
    sum_task,
)  # fmt: skip

from critic.format import true_critique
from pipelines.game.bout import Bout, Start
from pipelines.game.critic import CriticGame
from pipelines.game.lessons import Lessons
from pipelines.game.referee import Referee
from pipelines.policy.tensors import weights_hash
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.sample import Prompt, Sample, Weights
from pipelines.training.trainer import RoleTrainer
from rewards.verifiers import Verifiers


class Judge(Solver):
    """A critic that is told how right to be, and whose training changes that.

    Args:
        right: whether it finds the flaw now.
        learns_to_be: what its training makes of it.
    """

    name = "critic"

    def __init__(self, right: bool, learns_to_be: bool) -> None:
        super().__init__()
        self.right, self.learns_to_be = right, learns_to_be

    def sample(
        self,
        prompts: list[Prompt],
        purpose: str,
        num: int = 1,
        temperature: float | None = None,
    ) -> list[list[Sample]]:
        return [samples_of(self._judge(str(prompt))) for prompt in prompts]

    def _judge(self, prompt: str) -> str:
        problem, _, text = prompt.removesuffix("\n!").partition("\n")
        solution = CHAIN.parse_solution(text, truncated=False)
        if not self.right:
            return f"{solution.steps[0].id}99x~0"
        task = sum_task(*[int(term) for term in re.findall("[0-9]+", problem)])
        return true_critique(task, solution, CHAIN, random.Random(0))

    def weights_copy(self) -> Weights:
        return {"right": self.right}

    def put_back(self, weights: Weights) -> None:
        self.right = bool(weights["right"])

    def imitate(self, *given: object) -> None:
        self.right = self.learns_to_be

    def replies_per_block(self, steps: int) -> int:
        return 8 * steps


@pytest.fixture(scope="module")
def referee() -> Iterator[Referee]:
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        yield referee_of(verifiers, "pointing.source=critic", "critic.steps_per_round=0")


def _bouts(referee: Referee, critic: Judge) -> list[Bout]:
    """A right and a wrong solution of each of a dozen tasks, judged by the critic."""
    starts = [Start(sum_task(4, 1, 7, 6, term)) for term in range(12)]
    block = block_of(referee, critic, starts)
    texts = []
    for term in range(12):
        for value, text in ((18, RIGHT), (8, WRONG)):
            total = f"{value + term:02d}"[::-1]
            texts.append(f"{text.split('>')[0]}\ne{term}={total}>{total}")
    block([index // 2 for index in range(24)], samples_of(*texts))
    return block.bouts


@pytest.mark.parametrize(
    ("right", "learns_to_be", "stays"),
    [(True, False, False), (False, True, True), (True, True, True), (False, False, True)],
)
def test_only_a_critic_that_got_worse_is_taken_back(
    referee: Referee, right: bool, learns_to_be: bool, stays: bool
) -> None:
    critic, remarks = Judge(right, learns_to_be), list[str]()
    bouts = _bouts(referee, critic)
    game = CriticGame(referee, critic, remarks.append)
    game.train(bouts, PLAN)
    assert critic.right == (learns_to_be if stays else right)
    assert bool(remarks) == (not stays)
    assert all("got worse" in remark for remark in remarks)
    assert game.spent["trials"] > 0


def test_the_trial_is_of_other_tasks_and_of_what_no_critic_claimed(referee: Referee) -> None:
    """A flaw that the champion's own words located would count for it by construction."""
    critic = Judge(True, True)
    bouts, lessons = _bouts(referee, critic), Lessons(referee, critic)
    taught, held_out = lessons.split(bouts, random.Random(0))
    assert not {b.task.id for b in taught} & {b.task.id for b in held_out}
    assert len(held_out) == 4 and len(taught) == 20, "two solutions of each of a dozen tasks"
    items = lessons.for_trial(held_out, 12, random.Random(0))
    claimed = {b.solution.text for b in bouts if b.pointing is not None}
    assert claimed and not claimed & {i.solution.text for i in items if not i.planted}
    assert {item.sound for item in items} == {True, False}


def test_without_training_there_is_no_trial(referee: Referee) -> None:
    untrained = referee_of(
        referee.verifiers, "critic.steps_per_round=0", "critic.imitation_steps=0"
    )
    critic = Judge(True, False)
    game = CriticGame(untrained, critic)
    game.train(_bouts(untrained, critic), PLAN)
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
