"""What needs no second check, what leads a fall, and what a rise of gold accuracy excuses."""

import math

import pytest
from monitor_cases import SETTINGS, Readings, exact, judge

from critic.monitor.calibrate import ERRORS, along
from critic.monitor.decide import begin
from critic.monitor.readings import Reading
from critic.monitor.settings import GOLD, MonitorSettings
from critic.monitor.state import Health, MonitorState

DULL = {"token_entropy": 0.02, "answer_entropy_within": 0.1, "distinct_ratio": 0.1}


def states(verdicts: list[Health]) -> list[str]:
    return [health.state for health in verdicts]


# -- one check suffices ---------------------------------------------------------------------------


def test_gold_accuracy_that_is_gone_halts_in_one_check() -> None:
    """Before the event of the proof, which takes two checks; the check before is the clean one."""
    state, verdicts = judge([exact()] * 5 + [exact(gold_accuracy=0.1)])
    assert states(verdicts)[4:] == ["ok", "halt"] and state.last_clean_check == 4
    assert verdicts[5].reasons[0] == f"{GOLD} collapsed in one check, and needs no second"
    assert verdicts[5].channels == ("E",) and not verdicts[5].actions


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (SETTINGS, 0.08),  # most of it seems lost, by 5 standard errors
        (MonitorSettings(overwhelming_share=0.9), ERRORS[GOLD]),
        (MonitorSettings(threshold=30.0), ERRORS[GOLD]),
    ],
)
def test_it_must_be_most_of_it_and_certain(settings: MonitorSettings, error: float) -> None:
    """A run that is only watched, by a threshold beyond all, is not halted by another bound."""
    gone = {**exact(), GOLD: Reading(value=0.1, error=error)}
    _, verdicts = judge(
        [{**exact(), GOLD: Reading(value=0.55, error=error)}] * 5 + [gone], settings
    )
    assert not verdicts[-1].halted


def test_nothing_else_halts_in_one_check() -> None:
    """Form and novelty swing with the learning rate; and the critic never halts the learner."""
    for bad in (
        exact(gold_form=0.0),
        exact(**DULL),
        exact(training_reward=1.0),
        exact(critic_location=0.0, critic_brier=1.0),
        exact(gold_form=0.3, gold_accuracy=0.45, **DULL),
    ):
        _, verdicts = judge([exact()] * 5 + [bad] + [exact()] * 6)
        assert states(verdicts)[5:7] == ["warn", "ok"]


# -- what leads a fall ----------------------------------------------------------------------------


@pytest.mark.parametrize("led", [DULL, {"training_reward": 0.9}, {"gold_nll": 3.0}])
def test_a_fall_that_was_led_halts_at_its_first_check(led: dict[str, float]) -> None:
    """Novelty lost, or rewards that rise, for two checks: then 8 points of accuracy are enough."""
    _, led_by = judge([exact()] * 4 + [exact(**led)] * 2 + [exact(**led, gold_accuracy=0.47)])
    assert states(led_by)[4:] == ["warn", "intervene", "halt"]
    assert "and now gold_accuracy falls" in led_by[-1].reasons[0]
    _, alone = judge([exact()] * 6 + [exact(gold_accuracy=0.47)])
    assert alone[-1].state == "ok"
    _, small = judge([exact()] * 4 + [exact(**led)] * 2 + [exact(**led, gold_accuracy=0.51)])
    assert small[-1].state == "intervene", "4 points do not matter"


def test_a_fall_that_is_no_alarm_needs_more_than_an_alarm_beside_it() -> None:
    """Novelty of a healthy plateau may fade to two thirds, and its accuracy dip for a check."""
    start = along(0.5)
    fading = {name: start[name] * 0.6 for name in DULL}
    _, verdicts = judge(
        [exact()] * 4 + [exact(**fading)] * 3 + [exact(**fading, gold_accuracy=0.48)]
    )
    assert verdicts[-1].state == "intervene" and verdicts[-1].channels == ("N",)


# -- what a rise excuses --------------------------------------------------------------------------

# A verifier-only run on doublings that the monitor halted while it climbed.
CLIMB = (0.0, 0.0, 0.0, 0.0, 0.01, 0.01, 0.0, 0.0, 0.0, 0.02, 0.02, 0.04, 0.07, 0.18, 0.23, 0.30)


def climbing(accuracies: tuple[float, ...], form: float, fades_at: int = 11) -> list[Readings]:
    rows = []
    for number, gold in enumerate(accuracies):
        error = math.hypot(math.sqrt(gold * (1 - gold) / 256), 1 / 256)
        lost = form if number >= fades_at else 0.98
        row = exact(gold_form=lost, training_reward=gold)
        rows.append({**row, GOLD: Reading(value=gold, error=error)})
    return rows


def test_form_that_falls_while_accuracy_rises_is_a_warning_at_most() -> None:
    """From 0.98 to 0.87, while accuracy went from 0.02 to 0.30: it was halted in the last check."""
    state, verdicts = judge(climbing(CLIMB, 0.87))
    assert states(verdicts) == ["ok"] * 12 + ["warn"] * 4
    assert "gold_form got worse while gold_accuracy rose" in verdicts[-1].reasons[0]
    assert "but gold accuracy rose" in verdicts[-1].reasons[1]
    assert state.last_clean_check == 15, "the check to go back to is not one of 2%"


def test_the_same_form_halts_where_accuracy_stands_or_falls_again() -> None:
    still = climbing((*CLIMB[:11], *[0.02] * 5), 0.87)
    assert states(judge(still)[1])[11:] == ["ok", "warn", "intervene", "intervene", "halt"]
    again = climbing((*CLIMB, 0.30, 0.30, 0.0, 0.0), 0.87)
    assert "halt" not in states(judge(again)[1])[:18] and judge(again)[1][-1].halted


def test_a_state_of_an_earlier_version_excuses_nothing() -> None:
    state = begin(climbing(CLIMB, 0.87)[0], SETTINGS).model_dump(mode="json")
    for signal in state["signals"].values():
        del signal["gold_at_best"]
    assert MonitorState.model_validate(state).signals["gold_form"].gold_at_best is None


# -- near the ceiling -----------------------------------------------------------------------------


def fading(gold: float, num_checks: int = 16) -> list[Readings]:
    """A policy that stands still, and whose samples become more alike at every check."""
    rows = []
    for number in range(num_checks):
        left = 0.85**number
        row = exact(**{name: along(0.5)[name] * left for name in DULL})
        gold_error = math.hypot(math.sqrt(gold * (1 - gold) / 256), 1 / 256)
        small = {name: Reading(value=one.value, error=one.value * 0.05)
                 for name in DULL if (one := row[name]) is not None}  # fmt: skip
        rows.append({**row, **small, GOLD: Reading(value=gold, error=gold_error)})
    return rows


@pytest.mark.parametrize(("gold", "level"), [(1.0, "ok"), (0.97, "ok"), (0.6, "intervene")])
def test_few_errors_leave_little_to_be_diverse_about(gold: float, level: str) -> None:
    """At 97% right the share of errors that is left is hardly known: it was intervened."""
    assert states(judge(fading(gold))[1])[-1] == level
    unread = {**fading(gold)[0], GOLD: None}
    assert states(judge([unread, *fading(gold)])[1])[-1] == level, (
        "the start is where both are read"
    )
