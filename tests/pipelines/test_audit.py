"""The critic's audits: the set kept on disk, the share of a round, and the round's rollouts."""

import json
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from critic_cases import chain_task
from hypothesis import given
from hypothesis import strategies as st
from pipeline_cases import CONFIG, SHORT_RUN
from pointing_cases import Solver

from data.records import Task
from pipelines.errors import UserError
from pipelines.game.audit import (
    AuditedSolution,
    audit_critic,
    audit_rollouts,
    audit_set,
    audit_share,
    load_audit,
    save_audit,
)
from pipelines.game.bout import Bout, CritiqueItem
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Sample
from pipelines.settings.load import load_settings
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers

TASK = chain_task([4, 1])
RIGHT, WRONG = "a4=40\nb1=50>50", "a4=40\nb1=60>60"


@pytest.fixture(scope="module")
def referee() -> Iterator[Referee]:
    with closing(Verifiers(5.0)) as verifiers:
        yield Referee(load_settings(CONFIG, SHORT_RUN), verifiers)


def _bout(referee: Referee, text: str, task: Task = TASK, critique: str | None = None) -> Bout:
    sample = Sample(text, [1], [-1.0], False)
    solution, verdict = referee.read(task, sample)
    judged = None
    if critique is not None:
        item = referee.item(task, solution, verdict.passed)
        judged = referee.check(item, Sample(critique, [1], [-1.0], False))
    return Bout(task, sample, solution, verdict, judged, None)


def _with_outcome(bout: Bout, outcome: str) -> Bout:
    return replace(bout, verdict=Verdict(outcome, "exact", "0", None))


# -- the set on disk ------------------------------------------------------------------------------


def test_the_labels_are_stored_and_never_verified_again(referee: Referee, tmp_path: Path) -> None:
    """A timeout on a resume turned a sound item into a "flawed" one."""
    solutions = audit_set(referee, [[_bout(referee, RIGHT), _bout(referee, WRONG)]], 0)
    save_audit(tmp_path / "audit.json", solutions)
    broken = Referee(referee.settings, Verifiers(5.0))
    broken.verifiers.close()
    broken.verifiers.verify = None  # type: ignore[method-assign,assignment]
    assert load_audit(tmp_path / "audit.json", broken) == solutions
    by_sound = {solution.item.sound: solution for solution in solutions}
    assert by_sound[False].item.first_bad == "b" and by_sound[False].kind == "off_by_one"
    assert by_sound[True].item.first_bad is by_sound[True].kind is None


def test_a_set_of_an_older_version_is_refused(referee: Referee, tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    for content, version in (([{"text": RIGHT}], 1), ({"version": 3, "solutions": []}, 3)):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=f"audit set of version {version}.*start a new run"):
            load_audit(path, referee)


def test_a_set_of_another_dialect_is_refused(referee: Referee, tmp_path: Path) -> None:
    solutions = audit_set(referee, [[_bout(referee, RIGHT), _bout(referee, WRONG)]], 0)
    save_audit(tmp_path / "audit.json", solutions)
    tagged = Referee(load_settings(CONFIG, (*SHORT_RUN, "tasks.dialect=tagged")), referee.verifiers)
    with pytest.raises(UserError, match=r"the dialect 'tagged' does not read"):
        load_audit(tmp_path / "audit.json", tagged)


# -- the share of a round -------------------------------------------------------------------------


def _set_of(referee: Referee, texts_by_task: dict[int, list[bool]], seed: int) -> list:
    """An audit set of tasks whose solutions are sound or flawed."""
    groups = []
    for number, sounds in texts_by_task.items():
        task = chain_task([number, 1])
        right = referee.dialect.write_solution(task, random.Random(0), 0.0)
        flawed = [f"{right[:-2]}{slip}" for slip in ("99", "98", "97")]
        texts = [right] * any(sounds) + flawed[: sounds.count(False)]
        groups.append([_bout(referee, text, task) for text in texts])
    return audit_set(referee, groups, seed)


@given(
    tasks=st.dictionaries(
        st.integers(1, 40), st.lists(st.booleans(), min_size=1, max_size=3), max_size=20
    ),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    seed=st.integers(0, 5),
)
def test_a_share_is_balanced_of_whole_tasks_and_the_beginning_of_a_larger_one(
    referee: Referee, tasks: dict[int, list[bool]], shares: tuple[float, float], seed: int
) -> None:
    """The first half in task order was not balanced, and doubling it changed it."""
    whole = _set_of(referee, tasks, seed)
    small, large = (audit_share(whole, share) for share in sorted(shares))
    assert large[: len(small)] == small
    assert audit_share(whole, 1.0) == whole
    labels = {solution.item.sound for solution in whole}
    for part, share in ((small, min(shares)), (large, max(shares))):
        assert len(part) >= share * len(whole) - 1e-6
        inside = {s.item.task.id for s in part}
        assert inside.isdisjoint(s.item.task.id for s in whole[len(part) :])
        if len(labels) == 2:
            assert sum(s.item.sound for s in part) == len(part) / 2


def test_a_share_is_hardly_larger_than_asked_for(referee: Referee) -> None:
    tasks = {n: [n % 2 == 0] if n % 3 else [True, False] for n in range(1, 61)}
    whole = _set_of(referee, tasks, 0)
    for share in (0.1, 0.25, 0.5, 0.75):
        assert len(audit_share(whole, share)) <= share * len(whole) + 4


def test_the_share_of_nothing_is_nothing(referee: Referee) -> None:
    assert audit_share([], 0.5) == []
    one_sided = _set_of(referee, {n: [False] for n in range(1, 11)}, 0)
    assert len(audit_share(one_sided, 0.5)) == 5


def test_the_order_of_a_set_is_random_and_fixed(referee: Referee) -> None:
    tasks = {n: [True, False] for n in range(1, 21)}
    orders = [[s.item.task.id for s in _set_of(referee, tasks, seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


# -- a round's rollouts ---------------------------------------------------------------------------


def test_a_rounds_rollouts_are_measured_at_their_own_base_rate(referee: Referee) -> None:
    """3 sound and 1 flawed stay 3 and 1, and each critique counts."""
    sound = _bout(referee, RIGHT, critique="a4=40.b1=50.>50.~9")
    bouts = [
        *[sound] * 2,
        _bout(referee, RIGHT, critique="a4=40.b1=60.~9"),  # a false accusation
        _bout(referee, WRONG, critique="a4=40.b1=50.~9"),  # the true first flaw
        _bout(referee, WRONG, critique="a4"),  # not read
    ]
    found = audit_rollouts(referee, bouts)
    assert found is not None
    figures = {name: each.value for name, each in found.measures.figures.items()}
    assert figures["false_accusations"] == pytest.approx(1 / 3)
    assert figures["location_accuracy"] == 1 / 2
    assert figures["parsed"] == 4 / 5
    assert found.measures.num_critiques == 5
    kind = found.measures.by_kind["off_by_one"]
    assert (kind.share, kind.num, kind.location_accuracy.value) == (1, 2, 1 / 2)


def test_what_cannot_be_judged_is_not_measured_against(referee: Referee) -> None:
    sound = _bout(referee, RIGHT, critique="a4=40.b1=50.>50.~9")
    unjudged = [
        _bout(referee, RIGHT),  # no critique was asked for
        _with_outcome(sound, "timeout"),
        _with_outcome(sound, "error"),
        _bout(referee, "a4", critique="~9"),  # malformed
    ]
    assert audit_rollouts(referee, unjudged) is None
    assert audit_rollouts(referee, []) is None
    found = audit_rollouts(referee, [*unjudged, sound])
    assert found is not None and found.measures.num_critiques == 1
    assert found.measures.figures["auroc"].value is None, "one class only"


def test_a_flaw_that_code_cannot_find_is_of_unknown_kind(referee: Referee) -> None:
    """In prose without equations nothing says where the mistake is: it is not counted as missed."""
    settings = load_settings(CONFIG, (*SHORT_RUN, "tasks.dialect=tagged"))
    tagged = Referee(settings, referee.verifiers)
    text = "<think>\n1. I guess so.\n</think>\n<answer>6</answer>"
    found = audit_rollouts(tagged, [_bout(tagged, text, critique="not a critique")])
    assert found is not None
    assert found.measures.figures["location_accuracy"].value is None
    assert found.measures.by_kind["unknown"].num == 1


def test_items_keep_their_task_and_text(referee: Referee) -> None:
    solution = audit_set(referee, [[_bout(referee, RIGHT), _bout(referee, WRONG)]], 0)[0]
    assert isinstance(solution, AuditedSolution) and isinstance(solution.item, CritiqueItem)
    assert solution.item.task == TASK


def test_a_solution_too_long_for_the_critic_is_left_out_and_counted(referee: Referee) -> None:
    short = AuditedSolution(_bout_item(referee, RIGHT), None, -1.0, 1)
    steps = "\n".join(f"{label}6={'6' * 16}" for label in "abcdefghijklmnopqrst")
    long = AuditedSolution(_bout_item(referee, f"{steps}>60"), "carry", -1.0, 1)
    assert long.item.solution.well_formed
    critic = Solver(writes="a4=40.b1=50.~9")  # counts a character as a token
    audit = audit_critic(referee, critic, [short, long], "audit")
    assert audit is not None and {c.sound for c in audit.critiques} == {True}
    assert referee.take_num_too_long() == 1 and referee.take_num_too_long() == 0
    assert audit_critic(referee, critic, [long], "audit") is None
    pairs = [(long.item.task, long.item.solution), (short.item.task, short.item.solution)]
    asked = referee.criticise(pairs, critic, "game")
    assert asked[0] is None and asked[1] is not None
    assert referee.take_num_too_long() == 2


def _bout_item(referee: Referee, text: str) -> CritiqueItem:
    solution = referee.dialect.parse_solution(text, truncated=False)
    return CritiqueItem(TASK, solution, sound=text == RIGHT, first_bad=None)
