"""The monitor on simulated series: when it warns, intervenes and halts, and when it must not."""

import json
import math
import random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critic.monitor.decide import check
from critic.monitor.replay import replay
from critic.monitor.settings import DEFAULT_RULES, ActionKind, MonitorSettings
from critic.monitor.state import Health, MonitorState
from data.errors import UserError

Signals = dict[str, float | None]
SETTINGS = MonitorSettings()
FLAT: dict[str, float] = {
    "token_entropy": 0.50,
    "answer_entropy_across": 2.60,
    "answer_entropy_within": 1.10,
    "mutual_information": 1.50,
    "distinct_ratio": 0.80,
    "effective_groups": 0.70,
    "probe_gain": 0.0,
    "probe_nll": 0.90,
    "probe_mean_at_8": 0.40,
    "proxy_gold_gap": 0.05,
    "critic_ece": 0.10,
}


def series(num: int, seed: int = 0, **ends: float) -> list[Signals]:
    """Four flat checks, then each named signal moves in a line to its end; a little noise."""
    rng = random.Random(seed)
    rows: list[Signals] = []
    for t in range(num):
        share = max(t - 3, 0) / max(num - 4, 1)
        rows.append(
            {
                name: start
                + share * (ends.get(name, start) - start)
                + rng.gauss(0, DEFAULT_RULES[name].std_floor / 4)
                for name, start in FLAT.items()
            }
        )
    return rows


def with_signals(**changes: float | None) -> Signals:
    return {**FLAT, **changes}


def judge(rows: list[Signals], settings: MonitorSettings = SETTINGS) -> list[Health]:
    state, verdicts = MonitorState(), []
    for signals in rows:
        state, health = check(state, signals, settings)
        verdicts.append(health)
    return verdicts


@pytest.mark.parametrize("seed", range(5))
def test_healthy_rl_never_halts(seed: int) -> None:
    healthy = series(
        40,
        seed,
        token_entropy=0.20,
        answer_entropy_within=0.40,
        mutual_information=2.20,
        distinct_ratio=0.55,
        effective_groups=0.45,
        probe_mean_at_8=0.75,
        probe_nll=0.55,
        critic_ece=0.05,
    )
    verdicts = judge(healthy)
    assert not any(health.halted for health in verdicts)
    assert not any("E" in health.channels for health in verdicts)
    assert "token_entropy" in verdicts[-1].alarms  # seen, and rightly not enough


@pytest.mark.parametrize("also", [{}, {"answer_entropy_within": 0.1}])
def test_token_entropy_alone_never_intervenes(also: dict[str, float]) -> None:
    verdicts = judge(series(60, token_entropy=0.0, **also))
    assert {health.state for health in verdicts} <= {"ok", "warn"}
    assert "token_entropy" in verdicts[-1].alarms
    # Broken on purpose: with a full weight it would act, which the settings therefore refuse.
    with pytest.raises(ValueError, match="token entropy alone does not detect a collapse"):
        MonitorSettings.model_validate({"rules": {"token_entropy": {"weight": 1.0}}})


@pytest.mark.parametrize("seed", range(5))
def test_collapse_halts_before_accuracy_has_halved(seed: int) -> None:
    rows = series(
        24,
        seed,
        token_entropy=0.10,
        answer_entropy_across=1.0,
        mutual_information=0.4,
        distinct_ratio=0.2,
        effective_groups=0.2,
        probe_mean_at_8=0.10,
        probe_nll=2.0,
    )
    verdicts = judge(rows)
    first = next(health for health in verdicts if health.halted)
    assert first.channels == ("N", "E") or "still alarms" in first.reasons[0]
    assert (rows[first.check]["probe_mean_at_8"] or 0) > 0.2
    assert all(health.halted for health in verdicts[first.check :])


def test_abrupt_collapse_is_the_entropy_threshold() -> None:
    bad = with_signals(
        probe_mean_at_8=0.2, answer_entropy_across=1.0, mutual_information=0.3, distinct_ratio=0.3
    )
    verdicts = judge([with_signals()] * 5 + [bad] * 2)
    assert [health.state for health in verdicts] == ["ok"] * 5 + ["warn", "halt"]
    assert verdicts[-1].channels == ("N", "E")
    assert "Entropy Threshold" in verdicts[-1].reasons[0]
    assert not verdicts[-1].actions


def test_errors_alone_intervene_then_halt_after_two_more_checks() -> None:
    bad = with_signals(probe_mean_at_8=0.2, probe_nll=1.6)
    verdicts = judge([with_signals()] * 4 + [bad] * 4)
    assert [health.state for health in verdicts[4:]] == ["warn", "intervene", "intervene", "halt"]
    assert verdicts[5].channels == ("E",)
    assert {a.kind: a.value for a in verdicts[5].actions} == {
        "silence_critic": 0.0,
    }
    assert not verdicts[6].actions  # cooling down
    all_kinds = MonitorSettings(offers=get_args(ActionKind))
    ordered = judge([with_signals()] * 4 + [bad] * 2, all_kinds)[5].actions
    assert {a.kind: a.value for a in ordered} == {
        "verified_only": 1.0,
        "raise_real_share": 0.3,
        "silence_critic": 0.0,
    }


def test_errors_that_stop_after_the_intervention_do_not_halt() -> None:
    bad, good = with_signals(probe_mean_at_8=0.2, probe_nll=1.6), with_signals()
    verdicts = judge([good] * 4 + [bad] * 2 + [good] * 5)
    states = [health.state for health in verdicts[4:]]
    # Restarted at h/2 = 2: 1.5, 1.0, 0.5 are the calm checks; the third one leaves the state.
    assert states == ["warn", "intervene", "intervene", "intervene", "ok", "ok", "ok"]


def test_decline_inside_the_baseline_is_seen_as_a_drawdown() -> None:
    rows = [with_signals(probe_mean_at_8=value) for value in (0.7, 0.5, 0.3, 0.1)]
    assert [health.state for health in judge(rows)] == ["ok", "warn", "intervene", "intervene"]


def test_no_new_information_intervenes_unless_the_probe_just_improved() -> None:
    dull = {"distinct_ratio": 0.3, "effective_groups": 0.2}
    flat = judge([with_signals()] * 4 + [with_signals(**dull)] * 8)
    assert flat[5].state == "intervene"
    assert [a.kind for a in flat[5].actions] == ["raise_temperature", "retire_saturated"]
    assert not any(health.halted for health in flat)
    rising = [with_signals(**dull, probe_mean_at_8=0.41 + t / 100) for t in range(8)]
    assert {health.state for health in judge([with_signals()] * 4 + rising)[4:]} == {"warn"}


def test_a_state_is_left_only_after_calm_checks() -> None:
    off = with_signals(proxy_gold_gap=0.21)  # z = 3.2: warns on the second check, opens no channel
    verdicts = judge([with_signals()] * 3 + [off] * 2 + [with_signals()] * 12)
    states = [health.state for health in verdicts]
    assert states[:5] == ["ok"] * 4 + ["warn"]
    # CUSUM 5.4 falls by k a check: below h/2 after 7 checks, and the third calm one leaves.
    assert states[5:] == ["warn"] * 8 + ["ok"] * 4
    again = judge([with_signals()] * 3 + [off] * 2 + [with_signals()] * 7 + [off] * 2)
    assert again[-1].state == "warn" and "held" not in again[-1].reasons[0]


def test_one_outlier_warns_and_never_alarms() -> None:
    verdicts = judge([with_signals()] * 4 + [with_signals(probe_nll=9.0)] + [with_signals()] * 30)
    assert verdicts[4].state == "warn"
    assert not any(health.alarms for health in verdicts)
    assert verdicts[-1].state == "ok"


def test_actions_are_capped_and_cooled_down() -> None:
    dull = with_signals(distinct_ratio=0.3, effective_groups=0.2)
    verdicts = judge([with_signals()] * 4 + [dull] * 30)
    acted = [h.check for h in verdicts for a in h.actions if a.kind == "raise_temperature"]
    assert acted == [5, 8]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 1e200])
def test_an_unreadable_signal_is_named_and_never_silently_ok(value: float | None) -> None:
    verdicts = judge([with_signals()] * 4 + [with_signals(effective_groups=value)])
    assert verdicts[3].state == "ok"
    assert verdicts[4].state == "warn" and verdicts[4].missing == ("effective_groups",)
    assert any(reason.startswith("effective_groups (N): ") for reason in verdicts[4].reasons)


def test_a_signal_cannot_leave_its_alarm_by_going_missing() -> None:
    bad = with_signals(probe_mean_at_8=0.2)
    gone: Signals = {k: v for k, v in FLAT.items() if k != "probe_mean_at_8"}
    states = [health.state for health in judge([with_signals()] * 4 + [bad] * 2 + [gone] * 2)]
    assert states[-3:] == ["intervene", "intervene", "halt"]


def test_a_blind_channel_is_not_assumed_good() -> None:
    novel_only: Signals = {k: v for k, v in FLAT.items() if DEFAULT_RULES[k].channel == "N"}
    states = [health.state for health in judge([with_signals()] * 3 + [novel_only] * 4)]
    assert states[3:] == ["warn", "intervene", "intervene", "halt"]
    assert [health.state for health in judge([{}, {}])] == ["warn", "halt"]


def test_a_switched_off_signal_is_not_missed() -> None:
    without = MonitorSettings.model_validate({"rules": {"effective_groups": {"weight": 0}}})
    signals: Signals = {k: v for k, v in FLAT.items() if k != "effective_groups"}
    assert judge([signals], without)[0].state == "ok"


def test_last_clean_check_ignores_token_entropy_but_not_errors() -> None:
    state = MonitorState()
    rows = series(20, token_entropy=0.1)
    rows += [with_signals(probe_mean_at_8=0.2, token_entropy=0.1)] * 4
    for signals in rows:
        state, health = check(state, signals, SETTINGS)
    assert health.halted
    assert state.last_clean_check == 19


def test_unknown_signal_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"tokn_entropy.*token_entropy"):
        check(MonitorState(), {"tokn_entropy": 0.4}, SETTINGS)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rules": {"tokn_entropy": {"weight": 0.1}}}, "token_entropy"),
        (
            {"rules": {n: {"weight": 0.1} for n in ("probe_mean_at_8", "probe_nll", "critic_ece")}},
            "channel E sum to 0.8",
        ),
        (
            {
                "rules": {
                    "probe_mean_at_8": {"weight": 0},
                    "probe_nll": {"weight": 0},
                    "critic_ece": {"weight": 1},
                }
            },
            "labelled gold probe",
        ),
        ({"hysteresis": 3}, "hysteresis"),
        ({"h": math.inf}, "finite"),
    ],
)
def test_settings_refuse(table: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MonitorSettings.model_validate(table)


def test_settings_override_single_fields_and_add_signals() -> None:
    extra = {"channel": "N", "bad": "falling", "std_floor": 0.5, "weight": 0.25}
    own = MonitorSettings.model_validate(
        {"rules": {"effective_groups": {"std_floor": 0.2}, "vendi": extra}}
    )
    assert own.rules["effective_groups"].std_floor == 0.2
    assert own.rules["effective_groups"].channel == "N"
    assert own.rules["distinct_ratio"] == DEFAULT_RULES["distinct_ratio"]
    assert own.active["vendi"].weight == 0.25
    assert MonitorSettings.model_validate_json(own.model_dump_json()) == own


readings = st.one_of(
    st.none(), st.floats(), st.floats(-1, 3), st.sampled_from([math.nan, 1e300, -1e300])
)
checks = st.lists(
    st.dictionaries(st.sampled_from(sorted(FLAT)), readings, max_size=12), min_size=1, max_size=12
)


@settings(max_examples=40)
@given(checks)
def test_replay_equals_live_bit_for_bit(rows: list[Signals]) -> None:
    state, live, lines = MonitorState(), [], []
    for number, signals in enumerate(rows):
        state = MonitorState.model_validate_json(state.model_dump_json())  # as after a resume
        state, health = check(state, signals, SETTINGS)
        live.append(health)
        lines.append(json.dumps({"kind": "step", "round": number, "reward/mean": 0.5}))
        lines.append(json.dumps({"kind": "round", "round": number, "monitor/signals": signals}))
    assert replay([json.loads(line) for line in lines], SETTINGS) == live
    for health in live:
        assert Health.model_validate_json(health.model_dump_json()) == health
        assert not (health.missing and health.state == "ok")


@settings(max_examples=40)
@given(checks)
def test_state_round_trips_through_json(rows: list[Signals]) -> None:
    state = MonitorState()
    for signals in rows:
        state, _ = check(state, signals, SETTINGS)
        assert MonitorState.model_validate_json(state.model_dump_json()) == state


def test_check_leaves_its_arguments_alone() -> None:
    state, _ = check(MonitorState(), FLAT, SETTINGS)
    before, signals = state.model_dump_json(), dict(FLAT)
    first = check(state, signals, SETTINGS)
    assert check(state, signals, SETTINGS) == first
    assert state.model_dump_json() == before and signals == FLAT


def test_replay_takes_the_rerun_of_a_killed_round() -> None:
    rows = series(6)
    lines: list[dict[str, object]] = [
        {"kind": "round", "round": t, "monitor/signals": signals} for t, signals in enumerate(rows)
    ]
    killed: dict[str, object] = {"kind": "round", "round": 3, "monitor/signals": {}}
    assert replay([*lines[:3], killed, *lines[3:]], SETTINGS) == judge(rows)


@pytest.mark.parametrize("signals", [[1.0], {"probe_nll": "0.5"}, {"probe_nll": True}])
def test_replay_refuses_rows_that_are_not_numbers(signals: object) -> None:
    with pytest.raises(UserError, match="row 1"):
        replay([{"monitor/signals": signals}])
