"""A critic that got worse: silenced, restored, retrained, heard again, each effect said."""

import random
import statistics

import pytest
from monitor_cases import SETTINGS, Readings, exact, judge

from critic.monitor.decide import begin, check
from critic.monitor.evidence import WEIGHED, weigh_critic
from critic.monitor.readings import Reading
from critic.monitor.settings import AUROC, DEFAULT_RULES, GOLD, MonitorSettings, table_of_run
from critic.monitor.state import Health, MonitorState

CRITIC = [name for name, rule in DEFAULT_RULES.items() if rule.channel == "critic"]


def accuser() -> Readings:
    return exact(critic_false_accusations=0.95, critic_brier=0.5, critic_bias=-0.5)


def orders(verdicts: list[Health]) -> dict[str, list[int]]:
    """The checks at which each action was ordered."""
    found: dict[str, list[int]] = {}
    for health in verdicts:
        for action in health.actions:
            found.setdefault(action.kind, []).append(health.check)
    return found


def said(health: Health, action: str) -> str:
    return next(line for line in health.reasons if f"checks after {action}" in line)


def test_it_is_silenced_and_put_back_to_its_last_good_check_at_once() -> None:
    _, verdicts = judge([exact()] * 4 + [accuser()] * 2 + [exact()] * 8)
    assert orders(verdicts)["silence_critic"] == orders(verdicts)["restore_critic"] == [5]
    values = {action.kind: action.value for action in verdicts[5].actions}
    assert values == {"silence_critic": 0.0, "restore_critic": 3.0}, "check 4 alarmed already"
    effect = said(verdicts[7], "silence_critic, restore_critic")
    assert "critic_brier 0.5 → 0.15 (-0.35 ± 0.042)" in effect
    assert f"{GOLD} " in said(verdicts[7], "silence_critic:"), "silencing is meant for the learner"


@pytest.mark.parametrize(
    ("auroc", "error", "warned"),
    [
        (0.5, 0.0, True),  # none of its critiques can be read
        (0.55, 0.03, True),  # at random, with some luck, which stays as long as the audit does
        (0.3, 0.05, True),  # it clears the flawed and accuses the sound
        (0.65, 0.06, False),
        (None, 0.0, False),  # no critic is at work
    ],
)
def test_one_that_knows_nothing_is_warned_of(auroc: float, error: float, warned: bool) -> None:
    """A critic with random weights was never better, so that nothing of it gets worse."""
    verdict = {AUROC: None if auroc is None else Reading(value=auroc, error=error)}
    state, verdicts = judge([{**exact(), **verdict}] * (SETTINGS.chance_checks + 3))
    silent = ["ok"] * (SETTINGS.chance_checks - 1)
    assert [health.state for health in verdicts] == [*silent, *["warn" if warned else "ok"] * 4]
    assert not orders(verdicts), "asked more often, it says no more"
    assert state.critic.champion == (None if warned else 7)
    said = "over 5 checks the critic's verdicts were no better than chance: AUROC"
    assert (said in verdicts[-1].reasons[0]) if warned else not verdicts[-1].reasons
    for readings in [{**exact(), AUROC: Reading(value=0.9, error=0.02)}] * 3:
        state, health = check(state, readings, SETTINGS)
    assert health.state == "ok", "it has learned"


def test_silenced_one_that_knows_nothing_is_not_heard_again() -> None:
    verdict = {AUROC: Reading(value=0.5, error=0.05)}
    path = [exact()] * 4 + [accuser()] * 2 + [exact()] * 8
    _, verdicts = judge([{**row, **verdict} for row in path])
    assert "silence_critic" in orders(verdicts) and "unsilence_critic" not in orders(verdicts)
    assert verdicts[-1].state == "ok", "a silenced critic decides nothing"


def test_checks_without_its_verdicts_are_left_out_of_the_count() -> None:
    verdict = {AUROC: Reading(value=0.5, error=0.05)}
    _, verdicts = judge([{**exact(), **verdict}, exact()] * SETTINGS.chance_checks)
    assert [health.state for health in verdicts] == ["ok"] * 8 + ["warn"] * 2


def test_what_was_measured_of_other_weights_is_forgotten_with_them() -> None:
    low, high = (({AUROC: Reading(value=value, error=0.02)}) for value in (0.5, 0.9))
    good = [{**exact(), **high}] * 4
    state, verdicts = judge([*good, *[{**accuser(), **low}] * 2])
    assert orders(verdicts)["restore_critic"] == [5] and not state.critic.auroc


def test_nobody_is_warned_where_no_checks_are_asked_for() -> None:
    verdict = {AUROC: Reading(value=0.5, error=0.0)}
    _, verdicts = judge([{**exact(), **verdict}] * 8, MonitorSettings(chance_checks=0))
    assert {health.state for health in verdicts} == {"ok"}


def test_it_is_heard_again_when_its_signals_are_calm() -> None:
    state, verdicts = judge([exact()] * 4 + [accuser()] * 2 + [exact()] * 8)
    assert orders(verdicts)["unsilence_critic"] == [7] and not state.critic_is_silenced
    assert "well again for 2 checks" in verdicts[7].actions[-1].why
    assert "critic_brier 0.15 → 0.15" in said(verdicts[9], "unsilence_critic")
    assert [health.state for health in verdicts[7:]] == ["ok"] * 7


def test_one_that_stays_bad_is_retrained_and_stays_silent() -> None:
    state, verdicts = judge([exact()] * 4 + [accuser()] * 20)
    found = orders(verdicts)
    assert found == {
        "double_audit": [4], "silence_critic": [5], "restore_critic": [5],
        "retrain_critic": [6, 9],
    }  # fmt: skip
    assert verdicts[6].actions[0].value == SETTINGS.retrain_rounds
    assert "critic_brier 0.5 → 0.5 (+0" in said(verdicts[8], "retrain_critic")
    assert state.critic_is_silenced and verdicts[-1].state == "ok"


def test_one_that_gets_worse_again_is_silenced_for_good() -> None:
    """As often as `max_interventions` says: a critic that relapses is not heard a third time."""
    relapse = [accuser()] * 2 + [exact()] * 6
    state, verdicts = judge([exact()] * 4 + relapse * 4)
    found = orders(verdicts)
    assert found["silence_critic"] == [5, 13] and found["unsilence_critic"] == [7]
    assert state.critic_is_silenced
    assert not any(health.halted for health in verdicts)


def test_nothing_is_known_of_a_critic_that_nobody_could_read() -> None:
    """It stays silent; and one that was bad from the start has nothing to be put back to."""
    unread = exact(**dict.fromkeys(CRITIC))
    _, verdicts = judge([exact()] * 4 + [accuser()] * 2 + [unread] * 8)
    assert "unsilence_critic" not in orders(verdicts)
    state = begin(exact(), SETTINGS)
    found = []
    for readings in [accuser()] * 4:
        state, health = check(state, readings, SETTINGS)
        found.append(health)
    assert orders(found)["silence_critic"] == [1] and "restore_critic" not in orders(found)


def test_a_critic_silenced_for_the_learners_errors_waits_for_them_to_end() -> None:
    fallen = exact(gold_accuracy=0.3)
    _, verdicts = judge([exact()] * 4 + [fallen] * 2 + [exact()] * 6)
    found = orders(verdicts)
    assert found["silence_critic"] == [4] and "restore_critic" not in found
    assert found["unsilence_critic"] == [7]


def test_where_nothing_is_offered_nothing_is_ordered() -> None:
    _, verdicts = judge([exact()] * 4 + [accuser()] * 9, MonitorSettings(offers=()))
    assert orders(verdicts) == {}
    only = MonitorSettings(offers=("restore_critic", "retrain_critic"))
    _, verdicts = judge([exact()] * 4 + [accuser()] * 9, only)
    assert set(orders(verdicts)) == {"restore_critic"}, "a critic that is heard is not retrained"
    assert verdicts[5].state == "intervene"


def test_a_run_that_cannot_act_on_the_critic_warns() -> None:
    """Retraining is for a critic that is silenced: with it alone the run intervened for ever."""
    _, verdicts = judge(
        [exact()] * 4 + [accuser()] * 9, MonitorSettings(offers=("retrain_critic",))
    )
    assert {health.state for health in verdicts[4:]} == {"warn"} and orders(verdicts) == {}


def test_the_state_survives_json() -> None:
    state, _ = judge([exact()] * 4 + [accuser()] * 3)
    assert state.critic.bad == 3 and state.critic.champion == 3
    assert MonitorState.model_validate_json(state.model_dump_json()) == state
    older = state.model_dump(mode="json")
    del older["critic"]  # a run that an earlier version saved
    assert MonitorState.model_validate(older).critic.champion is None


def critic_with(located: float, accused: float) -> Readings:
    """An audit of 17 sound solutions and 15 located flaws, as SmolLM2's."""
    rows = exact()
    rows["critic_location"] = Reading(value=located, error=0.12)
    rows["critic_false_accusations"] = Reading(value=accused, error=0.10)
    return rows


def test_a_critic_that_learns_to_point_may_accuse_too() -> None:
    """SmolLM2's second seed: it was put back to the critic that named nothing, and stayed there."""
    path = [(0.0, 0.0), (0.27, 0.24), (0.67, 0.41), (0.63, 0.26), (0.70, 0.30), (0.70, 0.25)]
    state, verdicts = judge([critic_with(*one) for one in path])
    assert all(health.state == "ok" and not health.actions for health in verdicts)
    assert state.critic.champion == 5, "the one to put back is the one that learned"


@pytest.mark.parametrize("worse", [(0.7, 0.95), (0.05, 0.0), (0.1, 0.6)])
def test_one_that_learned_and_then_accuses_all_or_points_at_nothing_is_worse(
    worse: tuple[float, float],
) -> None:
    """Whatever it began with: the reference is its best, not the silence of its start."""
    path = [(0.0, 0.0), (0.3, 0.2), *[(0.7, 0.2)] * 5, *[worse] * 4]
    _, verdicts = judge([critic_with(*one) for one in path])
    assert {health.state for health in verdicts[:7]} == {"ok"}
    assert "restore_critic" in orders(verdicts)


@pytest.mark.parametrize(
    ("was", "worse"), [((0.0, 0.0), (0.0, 0.95)), ((0.05, 0.0), (0.05, 0.95)), ((0.9, 1.0), (0, 1))]
)
def test_one_that_is_worse_in_one_of_both_and_bad_in_the_other_is_worse(
    was: tuple[float, float], worse: tuple[float, float]
) -> None:
    """Nothing was bought with it: a mean that is 0 where either is 0 never saw it."""
    _, verdicts = judge([critic_with(*one) for one in [was] * 4 + [worse] * 4])
    assert {health.state for health in verdicts[:4]} == {"ok"}
    assert "restore_critic" in orders(verdicts)


def test_one_that_points_at_nothing_is_retrained_without_being_silenced() -> None:
    """Silence would change nothing, and without it no retraining was ever ordered."""
    table = table_of_run({}, critic_points=False, feeds_back=False)
    settings = MonitorSettings.model_validate(table)
    good, worse = critic_with(0.7, 0.2), critic_with(0.7, 0.95)
    found = orders(judge([good] * 5 + [worse] * 10, settings)[1])
    assert found["restore_critic"] == [6, 10], "not while it is retrained"
    assert found["retrain_critic"] == [7, 10] and "silence_critic" not in found
    assert "retrain_critic" not in orders(judge([good] * 5 + [worse] * 2 + [good] * 4, settings)[1])


def test_a_state_that_was_saved_without_both_together_is_gone_on_with() -> None:
    """Its best would else be what the critic is when the run is resumed."""
    good, worse = critic_with(0.7, 0.2), critic_with(0.7, 0.95)
    state, _ = judge([good] * 5)
    older = state.model_dump(mode="json")
    del older["signals"][WEIGHED]
    resumed, found = MonitorState.model_validate(older), []
    for _ in range(3):
        resumed, health = check(resumed, worse, SETTINGS)
        found.append(health)
    assert found == judge([good] * 5 + [worse] * 3)[1][5:] and "restore_critic" in orders(found)


def test_both_together_are_the_mean_of_what_is_located_and_what_is_spared() -> None:
    found = weigh_critic(critic_with(0.6, 0.25))
    assert found is not None and found.value == pytest.approx((0.6 + 0.75) / 2)
    rng = random.Random(0)
    drawn = [(rng.gauss(0.6, 0.12) + rng.gauss(0.75, 0.10)) / 2 for _ in range(4000)]
    assert found.error == pytest.approx(statistics.stdev(drawn), rel=0.1)
    assert weigh_critic({"critic_location": Reading(value=0.5, error=0.1)}) is None
