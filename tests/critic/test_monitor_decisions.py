"""The monitor on simulated runs: quiet in health, certain in collapse, and every state is left."""

import math
from collections import Counter
from typing import get_args

import pytest

from critic.monitor.calibrate import AFTER, BEFORE, ERRORS, HEALTHY, along, outcome, simulate
from critic.monitor.decide import begin, check
from critic.monitor.power import detectable, power_line, tasks_needed
from critic.monitor.readings import Reading
from critic.monitor.settings import DEFAULT_RULES, GOLD, ActionKind, MonitorSettings
from critic.monitor.state import Health

Readings = dict[str, Reading | None]
SETTINGS = MonitorSettings()
NUM_RUNS, NUM_CHECKS = 120, 40


def exact(**changes: float | None) -> Readings:
    """The readings of a run that has learned something, without noise, but with its errors."""
    means = {**along(0.5), **changes}
    return {
        name: None if mean is None else Reading(value=mean, error=ERRORS[name])
        for name, mean in means.items()
    }


def judge(
    rows: list[Readings], monitor: MonitorSettings = SETTINGS, start: Readings | None = None
) -> list[Health]:
    """The verdicts on a run whose cold start was like its first check, or `start`."""
    state, verdicts = begin(rows[0] if start is None else start, monitor), []
    for readings in rows:
        state, health = check(state, readings, monitor)
        verdicts.append(health)
    return verdicts


def states(verdicts: list[Health]) -> list[str]:
    return [health.state for health in verdicts]


# -- health -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_left_alone(name: str) -> None:
    """At most 5% are intervened or halted, and at most 5% are warned at their end."""
    counts = Counter[str]()
    for seed in range(NUM_RUNS):
        counts += outcome(simulate(HEALTHY[name], NUM_CHECKS, f"{name}/{seed}", SETTINGS))
    assert counts["intervened or halted"] <= 0.05 * NUM_RUNS, counts
    assert counts["warn at the end"] <= 0.05 * NUM_RUNS, counts
    assert counts["halted"] <= 1, counts


def test_learning_and_a_plateau_without_noise_are_ok_at_every_check() -> None:
    """Entropy to a tenth, distinct ratio to a quarter: the first version warned for ever."""
    path = [along(1 / (1 + math.exp(4 - t))) for t in range(30)]
    rows = [{n: Reading(value=v, error=ERRORS[n]) for n, v in means.items()} for means in path]
    assert set(states(judge(rows))) == {"ok"}


def test_a_run_that_learns_all_in_its_first_round_is_ok() -> None:
    """A round's reward is of rollouts from before its training, the probe from after it."""
    start = exact(gold_accuracy=0.05, training_reward=None)
    first = exact(gold_accuracy=0.75, training_reward=0.05)
    assert set(
        states(judge([first] + [exact(gold_accuracy=0.75, training_reward=0.75)] * 9, start=start))
    ) == {"ok"}


def test_a_reward_that_rises_alone_is_an_error_that_is_reinforced() -> None:
    """Never judged by a probe too small to say that gold accuracy did not rise."""
    hacked = [exact(training_reward=0.5)] * 4 + [exact(training_reward=0.9)] * 2
    assert judge(hacked)[-1].channels == ("E",)
    vague = [{**row, GOLD: Reading(value=0.5, error=0.18)} for row in hacked]
    assert set(states(judge(vague))) == {"ok"}


def test_one_novelty_signal_alone_changes_nothing() -> None:
    verdicts = judge([exact()] * 3 + [exact(token_entropy=0.0)] * 20)
    assert set(states(verdicts)) == {"ok"} and verdicts[-1].alarms == ("token_entropy",)
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        MonitorSettings(quorum=1)


@pytest.mark.parametrize(("gold", "level"), [(0.9, "ok"), (0.5, "intervene")])
def test_novelty_may_fade_on_a_plateau_as_far_as_errors_did(gold: float, level: str) -> None:
    """To a fifth of its start: at 90% right an eighth of the errors are left, at 50% five."""
    start = {name: Reading(value=mean, error=ERRORS[name]) for name, mean in BEFORE.items()}
    wide = exact(gold_accuracy=gold, answer_entropy_within=0.6, distinct_ratio=0.475)
    narrow = exact(gold_accuracy=gold, answer_entropy_within=0.24, distinct_ratio=0.19)
    verdicts = judge([wide] * 6 + [narrow] * 3, start={**start})
    assert verdicts[-1].state == level


def test_a_small_change_does_not_alarm_however_certain_and_a_large_one_must_be_certain() -> None:
    sure = Reading(value=0.52, error=1e-6), Reading(value=0.48, error=1e-6)
    rows = [{**exact(), GOLD: sure[0]}] * 6 + [{**exact(), GOLD: sure[1]}] * 6
    assert set(states(judge(rows))) == {"ok"}
    vague = [{**exact(), GOLD: Reading(value=value, error=0.18)} for value in (0.6, 0.3)]
    assert set(states(judge([vague[0]] * 6 + [vague[1]] * 6))) == {"ok"}


# -- collapse ---------------------------------------------------------------------------------

DULL = {"token_entropy": 0.02, "answer_entropy_within": 0.1, "distinct_ratio": 0.1}


def test_gold_and_novelty_that_collapse_together_are_the_entropy_threshold() -> None:
    verdicts = judge([exact()] * 6 + [exact(gold_accuracy=0.3, **DULL)] * 3)
    assert states(verdicts)[5:8] == ["ok", "intervene", "halt"]
    assert verdicts[7].channels == ("N", "E") and not verdicts[7].actions
    assert "Entropy Threshold" in verdicts[7].reasons[0]
    assert all(health.halted for health in verdicts[7:])


def test_a_collapse_in_the_first_round_is_seen_against_the_cold_start() -> None:
    broken = exact(gold_form=0.0, **DULL)
    assert states(judge([broken] * 3, start=exact())) == ["warn", "halt", "halt"]


def test_errors_that_persist_after_the_run_intervened_halt_it() -> None:
    verdicts = judge([exact()] * 4 + [exact(gold_accuracy=0.3)] * 5)
    assert states(verdicts)[4:7] == ["intervene", "intervene", "halt"]
    assert [a.kind for a in verdicts[4].actions] == ["silence_critic"]
    every = MonitorSettings(offers=get_args(ActionKind))
    ordered = judge([exact()] * 4 + [exact(gold_accuracy=0.3)], every)[4].actions
    assert {a.kind: a.value for a in ordered} == {
        "verified_only": 1.0, "raise_real_share": 0.3, "silence_critic": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_collapse_is_halted_before_a_fifth_of_accuracy_is_lost(seed: int) -> None:
    """Majority votes as the reward: it rises 2 points a check while gold accuracy falls by 1.5."""

    def voting(number: int) -> dict[str, float]:
        past = max(number - 5, 0)
        start = {**BEFORE, GOLD: 0.55, "training_reward": 0.55}
        fallen = {GOLD: 0.55 - 0.015 * past, "training_reward": min(0.55 + 0.02 * past, 1)}
        lost = {name: start[name] * 0.95**past for name in ("token_entropy", "distinct_ratio")}
        return {**start, **fallen, **lost}

    verdicts = simulate(voting, 25, seed, SETTINGS)
    first = next(health for health in verdicts if health.halted)
    assert voting(first.check)[GOLD] > 0.55 - 0.2


@pytest.mark.parametrize("seed", range(5))
def test_a_learner_that_turns_wrong_and_certain_is_halted(seed: int) -> None:
    def collapse(number: int) -> dict[str, float]:
        left = 0.7 ** max(number - 8, 0)
        fading = ("token_entropy", "answer_entropy_within", "mutual_information", "distinct_ratio")
        start = {**BEFORE, GOLD: 0.5}
        return {**start, **{name: start[name] * left for name in (*fading, GOLD)}}

    verdicts = simulate(collapse, 20, seed, SETTINGS)
    assert not any(h.halted for h in verdicts[:8])
    assert any(h.halted for h in verdicts[:14])


@pytest.mark.parametrize("fall", [0.08, 0.10, 0.15, 0.30])
def test_the_first_check_of_a_fall_is_not_the_one_to_go_back_to(fall: float) -> None:
    """Two readings make an alarm: at the first bad one there was none yet, and it was clean."""
    state = begin(exact(), SETTINGS)
    for readings in [exact()] * 6 + [exact(gold_accuracy=0.55 - fall)] * 6:
        state, health = check(state, readings, SETTINGS)
    assert health.halted and state.last_clean_check == 5


def test_no_new_information_intervenes_and_never_halts_alone() -> None:
    """A learner that is sure of its errors: novelty to a tenth, gold accuracy where it was."""
    verdicts = judge([exact()] * 4 + [exact(**DULL)] * 12)
    assert states(verdicts)[4:6] == ["warn", "intervene"]
    assert [a.kind for a in verdicts[5].actions] == ["raise_temperature", "retire_saturated"]
    assert not any(health.halted for health in verdicts)
    said = next(line for line in verdicts[7].reasons if "checks after raise_temperature" in line)
    assert f"{GOLD} 0.55 → 0.55 (+0 ± 0.035)" in said
    rising = [exact(**DULL, gold_accuracy=0.55 + 0.08 * t) for t in range(1, 6)]
    assert set(states(judge([exact()] * 4 + rising))) == {"ok"}


def test_actions_are_capped_and_cooled_down() -> None:
    verdicts = judge([exact()] * 4 + [exact(**DULL)] * 30)
    acted = [h.check for h in verdicts for a in h.actions if a.kind == "raise_temperature"]
    assert acted == [5, 8]


def test_a_run_that_never_earns_anything_is_not_ok() -> None:
    """open-r1 255, trl 6966: nothing failed, no group ever taught anything, and nobody said so."""
    none = Reading(value=0.0, error=0.02)  # none of 32 groups
    dead = {**exact(gold_accuracy=0.0), "effective_groups": none}
    verdicts = judge([dead] * 12 + [exact(gold_accuracy=0.1, effective_groups=0.2)])
    assert states(verdicts) == ["ok"] * 4 + ["warn"] * 8 + ["ok"]
    unrewarded = {**exact(gold_accuracy=0.1), "training_reward": Reading(value=0.0, error=0.0)}
    assert states(judge([unrewarded] * 6)) == ["ok"] * 4 + ["warn"] * 2
    few = {**dead, "effective_groups": Reading(value=0.0, error=0.15)}  # none of 4
    assert set(states(judge([few] * 12))) == {"ok"}
    solved = {**exact(gold_accuracy=1.0), "effective_groups": none}
    assert set(states(judge([solved] * 12))) == {"ok"}


# -- the critic -------------------------------------------------------------------------------


def accuser() -> Readings:
    """It calls everything wrong: the gap that the first version read as a good one."""
    return exact(critic_false_accusations=0.95, critic_brier=0.5, critic_bias=-0.5)


def test_a_critic_turned_accuser_is_silenced_and_the_learner_goes_on() -> None:
    verdicts = judge([exact()] * 4 + [accuser()] * 10)
    assert states(verdicts)[4:6] == ["warn", "intervene"]
    assert [a.kind for a in verdicts[5].actions] == ["silence_critic", "restore_critic"]
    assert not any(health.halted for health in verdicts)
    assert verdicts[-1].state == "ok", "a silenced critic decides nothing"
    assert "silenced" in verdicts[-1].reasons[-1]


@pytest.mark.parametrize("bias", [-0.5, 0.5])
def test_a_critic_may_become_too_harsh_or_too_lenient(bias: float) -> None:
    assert "critic_bias" in judge([exact()] * 4 + [exact(critic_bias=bias)] * 2)[5].alarms
    assert not judge([exact(critic_bias=bias)] * 4 + [exact()] * 4)[-1].alarms


def test_a_silenced_critic_leaves_clean_checks_and_no_halt() -> None:
    """Two bad rounds, then perfect readings; what needs critiques cannot be read any more."""
    silent = exact(**dict.fromkeys(n for n in DEFAULT_RULES if n.startswith("critic_")))
    state = begin(exact(), SETTINGS)
    for readings in [exact()] * 4 + [accuser()] * 2 + [silent] * 30:
        state, health = check(state, readings, SETTINGS)
    assert health.state == "ok" and state.last_clean_check == 35
    assert health.missing == tuple(n for n in SETTINGS.active if n.startswith("critic_"))


@pytest.mark.parametrize("table", [{"offers": ()}, {"max_interventions": 0}])
def test_where_the_critic_cannot_be_silenced_the_run_warns(table: dict[str, object]) -> None:
    deaf = MonitorSettings.model_validate(table)
    assert set(states(judge([exact()] * 4 + [accuser()] * 9, deaf))[4:]) == {"warn"}


def test_errors_that_were_left_behind_do_not_hasten_the_next_halt() -> None:
    """Beside a critic that is warned of for ever, and cannot be silenced, two falls are two."""
    fallen = {**accuser(), GOLD: exact(gold_accuracy=0.3)[GOLD]}
    rows = [exact()] * 4 + [accuser()] * 2 + [fallen] * 2 + [accuser()] * 20 + [fallen] * 5
    verdicts = judge(rows, MonitorSettings(offers=("verified_only",)))
    assert states(verdicts)[6:8] == ["intervene", "intervene"]
    assert states(verdicts)[28:] == ["warn", *["halt"] * 4], "ordered once, it cannot help again"


# -- every state can be left, and nothing unreadable decides ------------------------------------


@pytest.mark.parametrize("bad", [{"gold_accuracy": 0.3}, DULL, {"critic_brier": 0.6}])
def test_every_state_is_left_when_the_run_is_well_again(bad: dict[str, float]) -> None:
    verdicts = judge([exact()] * 4 + [exact(**bad)] * 2 + [exact()] * 12)
    assert states(verdicts)[5] == "intervene"
    assert set(states(verdicts)[-8:]) == {"ok"}


def test_it_intervenes_until_enough_checks_are_calm() -> None:
    verdicts = judge([exact()] * 4 + [exact(critic_brier=0.6)] * 2 + [exact()] * 3)
    assert states(verdicts)[4:] == ["warn", "intervene", "intervene", "ok", "ok"]
    assert "intervene is held: 1 of 2 calm" in verdicts[6].reasons


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 1e200])
@pytest.mark.parametrize("name", [n for n, rule in DEFAULT_RULES.items() if rule.watched])
def test_a_signal_without_a_reading_leaves_the_decision(name: str, value: float | None) -> None:
    gone = exact()
    gone[name] = None if value is None else Reading(value=value, error=0.1)
    verdicts = judge([exact()] * 4 + [gone] * 10 + [exact()] * 4)
    assert verdicts[4].missing == (name,) and not any(h.alarms for h in verdicts)
    assert f"no reading, so not judged: {name}" in verdicts[4].reasons
    assert states(verdicts)[:5] == ["ok"] * 5 and verdicts[-1].state == "ok"
    assert verdicts[10].state == ("warn" if name == GOLD else "ok")


@pytest.mark.parametrize("error", [math.nan, math.inf, -0.1])
def test_an_error_that_is_none_is_no_reading(error: float) -> None:
    odd = {**exact(), GOLD: Reading(value=0.0, error=error)}
    assert judge([exact()] * 4 + [odd])[-1].missing == (GOLD,)


def test_an_alarm_ends_when_its_signal_cannot_be_read() -> None:
    gone = exact(gold_form=None)
    verdicts = judge([exact()] * 4 + [exact(gold_form=0.2)] * 2 + [gone] * 4)
    assert states(verdicts)[4:] == ["warn", "intervene", "intervene", "ok", "ok", "ok"]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_units_do_not_matter_to_relative_rules(scale: float) -> None:
    def scaled(**changes: float) -> Readings:
        rows = exact(**changes)
        for name in ("token_entropy", "answer_entropy_within"):
            one = rows[name]
            assert one is not None
            rows[name] = Reading(value=one.value * scale, error=one.error * scale)
        return rows

    lost = scaled(token_entropy=0.02, answer_entropy_within=0.1)
    assert states(judge([scaled()] * 4 + [lost] * 2))[4:] == ["warn", "intervene"]


def test_signals_that_never_move_are_ok() -> None:
    frozen = {name: Reading(value=mean, error=0.0) for name, mean in AFTER.items()}
    assert set(states(judge([frozen] * 30))) == {"ok"}


# -- what a probe can see -----------------------------------------------------------------------


def test_the_announced_fall_is_confirmed_within_three_checks() -> None:
    fall = detectable(ERRORS[GOLD], SETTINGS)

    def falls(number: int) -> dict[str, float]:
        return {**BEFORE, GOLD: 0.5 - (fall if number >= 8 else 0)}

    seen = sum(any(h.channels for h in simulate(falls, 11, s, SETTINGS)[8:]) for s in range(100))
    assert seen >= 90
    assert tasks_needed(0.05, 4, SETTINGS) == pytest.approx(
        16 * tasks_needed(0.2, 4, SETTINGS), rel=0.05
    )
    line = power_line(64, 4, SETTINGS)
    assert "a fall of 10 points within 3 checks" in line
    assert f"num_probe_tasks = {tasks_needed(0.05, 4, SETTINGS)}" in line
    assert "takes" not in power_line(10_000, 4, SETTINGS)


@pytest.mark.parametrize(("num_tasks", "level"), [(16, "ok"), (64, "intervene")])
def test_a_probe_that_cannot_judge_pairs_says_so(num_tasks: int, level: str) -> None:
    """A hacked reward beside a gold accuracy that stands still, at the error the line assumes."""
    gold = Reading(value=0.55, error=0.5 / math.sqrt(num_tasks * 4))
    rows = [{**exact(training_reward=mean), GOLD: gold} for mean in (0.5,) * 6 + (0.9,) * 2]
    assert judge(rows)[-1].state == level
    assert ("stood still" in power_line(num_tasks, 4, SETTINGS)) == (level == "ok")
