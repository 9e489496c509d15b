"""Resets: which beginnings wait, and which of them start a later group."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from pipeline_cases import CONFIG
from pointing_cases import (
    RIGHT,
    TASK,
    WITHHELD,
    WRONG,
    bouts_of,
    referee_of,
    sum_task,
)

from critic.value_drop import expected_value
from pipelines.game.bout import Pointing, Start
from pipelines.game.curriculum import Curriculum, build_source
from pipelines.game.evaluation import rollout_figures
from pipelines.game.resets import Resets
from pipelines.settings.load import load_settings
from rewards.verifiers import Verifiers


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        yield verifiers


def _resets(share: float = 0.5, max_age: int = 10, focus: float = 2.0) -> Resets:
    overrides = [f"pointing.reset_share={share}", f"pointing.reset_max_age={max_age}"]
    overrides.append(f"pointing.reset_focus={focus}")
    return Resets(load_settings(CONFIG, overrides).pointing, 0)


def test_the_beginning_before_a_flaw_starts_a_later_group_once(verifiers: Verifiers) -> None:
    resets = _resets()
    resets.collect(bouts_of(verifiers, WRONG, WRONG), version=3)
    tasks = [sum_task(1, 2, n) for n in range(4)]
    starts = resets.starts(tasks, 1, version=4)
    begun = [start for start in starts if start.prefix]
    assert begun == [Start(TASK, "a4=40\nb1=50\n", 3)]
    assert [s.task for s in starts if not s.prefix] == [t for t in tasks if t in
                                                        [s.task for s in starts]]  # fmt: skip
    assert all(not start.prefix for start in resets.starts(tasks, 2, version=5)), "used up"


def test_any_beginning_of_a_solution_that_passed_may_start_a_group(verifiers: Verifiers) -> None:
    resets = _resets()
    resets.collect(bouts_of(verifiers, RIGHT, RIGHT), version=3)
    assert [start.prefix for start, _ in resets.waiting] == [
        "a4=40\n", "a4=40\nb1=50\n", "a4=40\nb1=50\nc7=21\n", "a4=40\nb1=50\nc7=21\nd6=81"
    ]  # fmt: skip
    values = [value for _, value in resets.waiting]
    assert values == sorted(values), "the later, the likelier to pass"
    nothing = _resets(share=0.0)
    nothing.collect(bouts_of(verifiers, RIGHT), version=3)
    assert nothing.waiting == []


@pytest.mark.parametrize(("focus", "least", "most"), [(0.0, 15, 35), (2.0, 45, 50)])
def test_beginnings_that_pass_half_of_the_time_are_preferred_as_asked(
    focus: float, least: int, most: int
) -> None:
    """Of 50 that pass half of the time and 50 that pass in 5%, 50 are taken."""
    resets = _resets(share=0.5, focus=focus)
    for place in range(100):
        start = Start(sum_task(1, 2, place), "a1=10\n", 0)
        resets.waiting.append((start, 0.5 if place % 2 else 0.05))
    starts = resets.starts([sum_task(3, 4, n) for n in range(100)], 1, version=1)
    taken = {start.task.id for start in starts if start.prefix}
    promising = {sum_task(1, 2, place).id for place in range(1, 100, 2)}
    assert len(taken) == 50
    assert least <= len(taken & promising) <= most


def test_no_group_begins_behind_a_wrong_step_of_a_lucky_solution(verifiers: Verifiers) -> None:
    """Two slips that cancel: only a slip passes from between them, and would be taught."""
    lucky = "a4=40\nb1=60\nc7=31\nd6=81>81"
    for overrides, begun in (
        ((), ["a4=40\n"]),
        ((WITHHELD,), ["a4=40\n", "a4=40\nb1=60\n", lucky[:18], lucky[:23]]),  # nobody knows
    ):
        referee, resets = referee_of(verifiers, *overrides), _resets()
        bouts = bouts_of(verifiers, lucky, RIGHT, overrides=overrides)
        assert bouts[0].verdict.passed
        resets.collect(bouts[:1], 0, referee.first_bad_step)
        assert [start.prefix for start, _ in resets.waiting] == begun


def test_what_is_too_old_or_not_asked_for_starts_nothing(verifiers: Verifiers) -> None:
    tasks = [sum_task(1, 2, n) for n in range(4)]
    for resets, version in ((_resets(max_age=2), 6), (_resets(share=0.0), 3)):
        resets.collect(bouts_of(verifiers, WRONG), version=3)
        assert resets.starts(tasks, 1, version) == [Start(task) for task in tasks]
    resets = _resets(max_age=2)
    resets.collect(bouts_of(verifiers, WRONG), version=3)
    assert resets.starts(tasks, 1, 5) != [Start(task) for task in tasks], "as old as it may be"


def test_a_refuted_pointing_and_a_first_step_start_nothing(verifiers: Verifiers) -> None:
    (bout,) = bouts_of(verifiers, WRONG)
    for pointing in (Pointing(2, "critic", "refuted"), Pointing(0, "code", "confirmed"), None):
        resets = _resets()
        resets.collect([replace(bout, pointing=pointing)], version=0)
        assert resets.waiting == []


def test_where_chance_points_a_group_begins_only_if_something_passed_from_there(
    verifiers: Verifiers,
) -> None:
    """Late places of a failed solution look promising, and mostly carry its flaw."""
    (bout,) = bouts_of(verifiers, WRONG)
    for value, status, begins in (
        (None, "unknown", False), (0.0, "unknown", False), (0.1, "unknown", True),
        (None, "confirmed", True),
    ):  # fmt: skip
        resets = _resets()
        pointing = Pointing(3, "chance", status, value)
        resets.collect([replace(bout, pointing=pointing)], version=0)
        assert bool(resets.waiting) == begins, (value, status)


def test_states_that_succeed_half_of_the_time_go_first(verifiers: Verifiers) -> None:
    (bout,) = bouts_of(verifiers, WRONG)
    taken = []
    for round_ in range(200):
        resets = _resets(share=0.5)
        for value, index in ((0.5, 2), (0.02, 1)):
            pointing = Pointing(index, "critic", "confirmed", value)
            resets.collect([replace(bout, pointing=pointing)], version=0)
        (state,) = [
            s for s in resets.starts([sum_task(1, 2), sum_task(2, 2)], round_, 0) if s.prefix
        ]
        taken.append(state.prefix == "a4=40\nb1=50\n")
    assert 0.8 < sum(taken) / len(taken) < 1


def test_waiting_states_survive_a_commit(verifiers: Verifiers) -> None:
    resets, again = _resets(), _resets()
    resets.collect(bouts_of(verifiers, WRONG), version=3)
    again.load_state_dict(resets.state_dict())
    assert again.waiting == resets.waiting and len(again.waiting) == 1


def test_a_task_is_not_retired_because_its_end_was_easy(verifiers: Verifiers) -> None:
    curriculum = Curriculum(build_source(load_settings(CONFIG)), seed=0)
    curriculum.retiring = True
    whole = bouts_of(verifiers, RIGHT, WRONG)
    begun = [replace(bout, prefix="a4=40\n") for bout in bouts_of(verifiers, RIGHT, RIGHT)]
    curriculum.learn_from(begun)
    assert not curriculum.retired
    curriculum.learn_from([*begun, whole[0]])
    assert curriculum.retired == {TASK.id}


def test_what_begins_elsewhere_does_not_count_as_the_rounds_pass_rate(verifiers: Verifiers) -> None:
    begun = [replace(bout, prefix="a4=40\n") for bout in bouts_of(verifiers, RIGHT, RIGHT)]
    found = rollout_figures([*bouts_of(verifiers, RIGHT, WRONG, WRONG, WRONG), *begun])
    assert found.pass_rate == 0.25


def test_a_beginning_that_was_given_starts_no_other_group(verifiers: Verifiers) -> None:
    given, resets = RIGHT[: RIGHT.index("c7")], _resets()
    resets.collect(bouts_of(verifiers, RIGHT[len(given) :], prefix=given), version=0)
    prefixes = [start.prefix for start, _ in resets.waiting]
    assert prefixes == [RIGHT[: RIGHT.index("d6")], RIGHT[: RIGHT.index(">")]]


def test_resets_are_spread_over_the_block() -> None:
    """Each batch of it gets its share."""
    resets = _resets(share=0.5)
    resets.waiting = [(Start(sum_task(1, 2, n), "a1=10\n", 0), 0.5) for n in range(9)]
    starts = resets.starts([sum_task(3, 4, n) for n in range(8)], 1, version=1)
    assert [bool(start.prefix) for start in starts] == [False, True] * 4


def test_the_newest_beginnings_wait(verifiers: Verifiers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.game.resets.MAX_WAITING", 2)
    resets = _resets()
    resets.collect(bouts_of(verifiers, RIGHT), version=0)
    assert [start.prefix for start, _ in resets.waiting] == [RIGHT[:18], RIGHT[:23]]


def test_success_is_guessed_from_whole_solutions(verifiers: Verifiers) -> None:
    """Those that were begun for it pass more easily."""
    given, resets = RIGHT[: RIGHT.index("d6")], _resets()
    easy = bouts_of(verifiers, *[RIGHT[len(given) :]] * 3, prefix=given)
    resets.collect([*bouts_of(verifiers, WRONG), *easy], version=0)
    prefix = WRONG[: WRONG.index("c7")]
    (value,) = [value for start, value in resets.waiting if start.prefix == prefix]
    assert value == expected_value(0.25, len(prefix) / len(WRONG)), "none of one: 0.5 of 2"
