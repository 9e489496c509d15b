"""Earlier critics that check the present one's word, and one that only audits."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pointing_cases import (
    PLAN,
    RIGHT,
    TASK,
    WITHHELD,
    WRONG,
    Judge,
    block_of,
    bouts_judged_by,
    referee_of,
    samples_of,
)

from data.records import Task
from pipelines.game.bout import Bout, Start
from pipelines.game.critic import CriticGame
from pipelines.game.evaluation import Examinee, play_unrewarded
from pipelines.game.examiner import Examiner, HeldOutTasks
from pipelines.game.lessons import Lessons
from pipelines.game.pool import START, Pool
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Weights
from rewards.verifiers import Verifiers

ASKED = replace(PLAN, critic_is_trusted=True, others_decide=True)


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        yield verifiers


def _save(path: Path, weights: Weights) -> None:
    path.write_text(json.dumps(dict(weights)))


def _pool(folder: Path, critic: Judge, size: int, **others: object) -> Pool:
    return Pool(
        folder / "pool", critic, _save, lambda path: json.loads(path.read_text()),
        lambda one, other: dict(one) == dict(other), size, every=2, **others,
    )  # type: ignore[arg-type]  # fmt: skip


def test_the_start_and_the_latest_snapshots_are_members(tmp_path: Path) -> None:
    critic = Judge(True, True)
    pool = _pool(tmp_path, critic, size=3)
    assert pool.members() == []
    pool.begin()
    for round_ in range(8):
        pool.after(round_)
    kept = [START, "round_00007", "round_00005", "round_00003"]
    assert pool.members() == kept, "every second round; one more than are asked"
    assert len(list(pool.folder.iterdir())) == 4
    pool.drop_from(6)
    assert pool.members() == [START, *kept[2:]], "round 7 is played again"
    alone = _pool(tmp_path / "alone", critic, size=1)
    alone.begin()
    alone.after(1)
    assert alone.members() == [START]
    reader = _pool(tmp_path / "reader", critic, size=2, owner=False)
    reader.begin()
    reader.after(1)
    assert not reader.folder.exists(), "another process writes"


@pytest.mark.parametrize(("first_was_right", "status"), [(True, "agreed"), (False, "unknown")])
def test_what_stays_open_counts_if_every_member_names_the_same_step(
    tmp_path: Path, verifiers: Verifiers, first_was_right: bool, status: str
) -> None:
    """The others see the solution, not the claim; agreement gives credit, and teaches nothing."""
    referee = referee_of(verifiers, WITHHELD, "pointing.meta_checks=2")
    critic = Judge(first_was_right, True)
    pool = _pool(tmp_path, critic, size=2)
    pool.begin()
    critic.right, critic.age = True, 1
    pool.after(1)
    critic.age = 2
    block = block_of(referee, critic, [Start(TASK)])
    block.pool, block.plan = pool, ASKED
    right, wrong = block([0, 0], samples_of(RIGHT, WRONG))
    assert critic.right, "its own weights came back"
    bout = block.bouts[1]
    assert bout.pointing is not None and bout.pointing.status == status
    assert (wrong.flaw is not None) == (status == "agreed") and right.flaw is None
    said = len(block.bouts[1].judged.text) if block.bouts[1].judged else 0
    assert said < block.spent["meta_checks"] < 3 * said, "of both members"
    assert bout.located is None and referee.lesson(bout).first_bad is None
    known = Lessons(referee, critic).for_trial(block.bouts, 4, random.Random(0))
    assert WRONG not in {item.solution.text for item in known}


def test_nobody_confirms_its_own_word(tmp_path: Path, verifiers: Verifiers) -> None:
    """A critic that the pool holds already is no other one; too few others confirm nothing."""
    referee = referee_of(verifiers, WITHHELD, "pointing.meta_checks=2")
    critic = Judge(True, True)
    pool = _pool(tmp_path, critic, size=2)
    pool.begin()

    def status() -> str:
        block = block_of(referee, critic, [Start(TASK)])
        block.pool, block.plan = pool, ASKED
        block([0], samples_of(WRONG))
        pointing = block.bouts[0].pointing
        assert pointing is not None
        return pointing.status

    assert status() == "unknown", "the start is the critic itself"
    critic.age = 1
    assert status() == "unknown", "one other, where two must agree"
    pool.after(1)
    assert status() == "unknown", "the snapshot is the critic itself"
    critic.age = 2
    assert status() == "agreed"


def test_the_critics_weights_come_back_whatever_happens(
    tmp_path: Path, verifiers: Verifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    referee, critic = referee_of(verifiers), Judge(False, True)
    pool = _pool(tmp_path, critic, size=1)
    pool.begin()
    critic.right = True
    monkeypatch.setattr(critic, "sample", lambda *given: 1 / 0)
    solution = referee.dialect.parse_solution(WRONG, truncated=False)
    with pytest.raises(ZeroDivisionError):
        pool.ask(referee, [(TASK, solution)], "test")
    assert critic.right


def test_agreement_adds_to_trust_and_takes_its_place_where_nothing_can_be_planted(
    verifiers: Verifiers,
) -> None:
    critic, asked = Judge(True, True), "pointing.meta_checks=1"

    def plan_of(*overrides: str, right: bool = True, points: bool = True) -> tuple[bool, bool]:
        game = CriticGame(referee_of(verifiers, WITHHELD, *overrides), critic)
        if game.asks_trust:
            critic.right = right
            game.audit_before([bout.task for bout in bouts_judged_by(game.referee, critic)], PLAN)
        plan = game.what_counts(replace(PLAN, critic_points=points), lambda own: own)
        return plan.critic_is_trusted, plan.others_decide

    assert plan_of() == (True, False), "trusted alone"
    assert plan_of(asked) == (True, True)
    assert plan_of(asked, right=False) == (False, False), "the audits speak against it"
    assert plan_of(asked, points=False) == (False, False)
    assert plan_of(asked, "pointing.trust=1") == (False, False), "trusts no critic"
    assert plan_of(asked, "pointing.confirm=false") == (False, False), "nothing stays open"
    tagged = ("tasks.dialect=tagged", "critic.planted_share=0")
    assert plan_of(asked, *tagged) == (False, True), "nothing says how far to trust it"
    assert plan_of(*tagged) == (False, False)


@pytest.mark.parametrize(("auditor_is_right", "agreement"), [(True, 1.0), (False, 0.0)])
def test_the_auditor_judges_what_the_critic_judged(
    tmp_path: Path,
    verifiers: Verifiers,
    monkeypatch: pytest.MonkeyPatch,
    auditor_is_right: bool,
    agreement: float,
) -> None:
    referee, critic = referee_of(verifiers, WITHHELD), Judge(True, True)
    pool = _pool(tmp_path, critic, size=0, auditor={"right": auditor_is_right})
    tasks = HeldOutTasks([], [TASK], [])
    monkeypatch.setattr(Judge, "score", lambda self, asked, said: [[-1.0]], raising=False)
    examiner = Examiner(referee, critic, critic, tasks, lambda own: own, pool)
    bouts = [replace(bout, judged=None) for bout in bouts_judged_by(referee, critic)]
    row = examiner.probe(PLAN, bouts).row()
    assert row["auditor/agreement"] == agreement
    assert row["auditor/location_accuracy"] == agreement and row["auditor/num_solutions"] == 24
    assert row["critic/fresh/location_accuracy"] == 1.0
    assert critic.right
    alone = Examiner(referee, critic, critic, tasks, lambda own: own)
    purposes = list[str]()

    def sampled(
        referee: Referee, player: Examinee, tasks: Sequence[Task], num: int, purpose: str
    ) -> list[list[Bout]]:
        purposes.append(purpose)
        return play_unrewarded(referee, player, tasks, num, purpose)

    monkeypatch.setattr("pipelines.game.examiner.play_unrewarded", sampled)
    again, num = alone.before().again, referee.settings.evaluate.start_probes
    assert len(again) == num - 1 == len(set(purposes)) - 1, "each has seeds of its own"
    found = alone.probe(PLAN, bouts)
    assert not any(name.startswith("auditor") for name in found.row())
    more = alone.again(PLAN, found, 2)
    assert len(set(purposes)) == len(purposes) == num + 3
    assert (len(more.again), more.row()["probe/reads"], found.row()["probe/reads"]) == (2, 3, 1)
    assert more.groups == found.groups and more.evaluation == found.evaluation, "no selection"
