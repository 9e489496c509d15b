"""What a run reads for the monitor, and what its interventions leave alone."""

import json
import math
from dataclasses import replace
from typing import cast

import pytest
from critic_cases import chain_task
from critique_cases import critique
from pipeline_cases import CONFIG

from critic.calibration import measure
from critic.monitor.readings import Reading
from critic.monitor.repair import CriticRecord
from critic.monitor.settings import DEFAULT_RULES, GOLD, ActionKind, MonitorSettings
from critic.monitor.state import Action, MonitorState
from pipelines.game.audit import CriticAudit
from pipelines.game.bout import Bout
from pipelines.game.curriculum import Curriculum, build_source
from pipelines.game.evaluation import Evaluation, RolloutFigures
from pipelines.game.examiner import Probe
from pipelines.rollouts.sample import Sample
from pipelines.run.monitoring import Interventions, RunMonitor, read_signals
from pipelines.settings.load import load_settings
from pipelines.training.trainer import RoleTrainer
from rewards.solution import Solution
from rewards.verdict import Verdict

RIGHT, WRONG = Verdict("correct", "exact", "0", 1.0), Verdict("incorrect", "exact", "0", 0.0)
MASKED = Verdict("timeout", "exact", "0", None)
TASKS = [chain_task([4, number]) for number in range(4)]


def bout(task: int, verdict: Verdict, reward: float | None = None, answer: str = "5") -> Bout:
    sample = Sample(answer, [1, 2], [-1.0, -2.0], False)
    return Bout(TASKS[task], sample, Solution(answer, (), answer, None), verdict, None, reward)


def test_every_rule_names_a_signal_that_a_round_gives() -> None:
    """One that nothing can read would be missing in every round."""
    assert set(read_signals([], probe())) == set(DEFAULT_RULES)


def test_an_all_correct_group_is_not_effective_however_its_rewards_are_shaded() -> None:
    """The monitor counted a group of right solutions as one that teaches."""
    same = [[bout(task, RIGHT, reward) for reward in (0.99, 0.8)] for task in range(2)]
    assert value("effective_groups", probe(same)) == 0
    assert value("effective_groups", probe([*same, [bout(2, RIGHT), bout(2, WRONG)]])) == 1 / 3


def test_novelty_and_gold_are_of_the_probe_whatever_the_rollouts_are() -> None:
    """Retiring tasks or raising the temperature moves a round's rollouts, never these."""
    groups = [[bout(task, RIGHT), bout(task, WRONG, answer="7")] for task in range(3)]
    rollouts = [bout(3, WRONG, 0.25, str(n)) for n in range(5)] + [bout(2, RIGHT, 0.75)]
    with_them, without = read_signals(rollouts, probe(groups)), read_signals([], probe(groups))
    assert with_them.pop("training_reward") == Reading(value=0.5, error=0.25)
    assert without.pop("training_reward") is None
    assert with_them == without
    assert value("token_entropy", probe(groups)) == 1.5
    assert value("answer_entropy_within", probe(groups)) == pytest.approx(math.log(2))
    assert value(GOLD, probe(groups)) == 0.5 and value("gold_form", probe(groups)) == 1


def test_what_the_verifier_did_not_judge_is_no_fall_of_gold_accuracy() -> None:
    groups = [[bout(task, RIGHT), bout(task, MASKED)] for task in range(4)]
    assert value(GOLD, probe(groups)) == 1
    assert read_signals([], probe([[bout(0, MASKED)]]))[GOLD] is None


def test_a_learner_that_breaks_the_verifier_is_not_measured_on_the_rest() -> None:
    """Right in one sample of four, out of time in three: gold accuracy read 1."""
    groups = [[bout(task, RIGHT), *[bout(task, MASKED)] * 3] for task in range(4)]
    found = read_signals([], probe(groups))
    assert found[GOLD] is None and found["effective_groups"] is None


def test_the_announced_power_is_that_of_the_tasks_there_are() -> None:
    """A list of sixty problems gives six gold tasks, and the line spoke of the 32 configured."""
    few = probe([[bout(task, RIGHT), bout(task, WRONG)] for task in range(3)])
    assert RunMonitor(MonitorSettings()).power(few).startswith("gold probe: 3 tasks x 2 samples")


def test_a_run_is_compared_with_the_mean_of_several_readings_of_its_start() -> None:
    """A single one is mostly luck, and a run that falls from its start on has no other."""
    groups = [[bout(task, RIGHT), bout(task, WRONG)] for task in range(4)]
    lucky = [[bout(task, RIGHT), bout(task, RIGHT)] for task in range(4)]
    once, several = probe(groups), replace(probe(lucky), again=(probe(groups).groups,) * 3)
    single, mean = (
        RunMonitor(MonitorSettings()).begin(once),
        RunMonitor(MonitorSettings()).begin(several),
    )
    assert mean[GOLD].value == pytest.approx((1 + 3 * 0.5) / 4)
    assert mean[GOLD].error < single[GOLD].error
    assert mean["gold_nll"] == single["gold_nll"], "the same texts are read once"
    monitor = RunMonitor(MonitorSettings())
    monitor.begin(several)
    assert monitor.state.signals[GOLD].start == mean[GOLD]


def test_gold_tasks_are_read_again_where_they_may_have_fallen() -> None:
    """And judged by the fresh samples alone; those of the critic and the rollouts stay."""

    def sampled(right: int) -> Probe:
        return probe(
            [[bout(t, RIGHT if n < right else WRONG) for n in range(40)] for t in range(4)]
        )

    monitor, fallen = RunMonitor(MonitorSettings(reads_again=2)), sampled(14)
    monitor.begin(sampled(20))
    assert not monitor.wants_more([], sampled(20)) and monitor.wants_more([], fallen)
    was_luck = replace(fallen, again=(sampled(19).groups,))
    assert not RunMonitor(MonitorSettings(reads_again=0)).wants_more([], fallen)
    reward = [bout(0, RIGHT, 1.0), bout(1, WRONG, 0.0)]
    monitor.check(reward, was_luck)
    assert monitor.first[GOLD] == read_signals([], fallen)[GOLD] and "gold_nll" not in monitor.first
    assert monitor.history[-1][GOLD] == read_signals([], sampled(19))[GOLD]
    assert monitor.history[-1]["training_reward"] == read_signals(reward, fallen)["training_reward"]
    assert monitor.state.level == "ok"
    monitor.check([], sampled(20))
    assert monitor.first == {}


def test_rollouts_that_begin_within_a_solution_are_no_training_reward() -> None:
    own = [bout(0, WRONG, 0.0), bout(1, WRONG, 0.0), replace(bout(2, RIGHT, 1.0), prefix="4")]
    assert read_signals(own, probe())["training_reward"] == Reading(value=0.0, error=0.0)


def test_the_critics_figures_come_from_its_fixed_audit() -> None:
    tasks = [f"t{number}" for number in range(8)]
    found = [critique(0.9, sound=False, task=task) for task in tasks]
    audit = CriticAudit(measure(found), ())
    assert value("critic_brier", probe(audit=audit)) == pytest.approx(0.81)
    assert read_signals([], probe())["critic_brier"] is None


def audited(parsed: bool) -> Probe:
    """A critic that accuses every sound solution, or writes what nobody can read."""
    tasks = [f"t{number}" for number in range(16)]
    every = [critique(0.1, sound=True, task=task) for task in tasks]
    silent = [replace(one, p_sound=0.5, parsed=False) for one in every]
    return replace(probe(), audit=CriticAudit(measure(every if parsed else silent), ()))


def test_a_critic_that_cannot_be_read_is_no_baseline() -> None:
    """It accuses nobody, and each word that it learned would be worse than that silence."""
    monitor = RunMonitor(MonitorSettings())
    assert monitor.begin(audited(parsed=False))["critic_false_accusations"] is None
    monitor.check([], audited(parsed=True))
    assert monitor.history[-1]["critic_false_accusations"] is not None
    resumed = RunMonitor(MonitorSettings())
    resumed.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    for one in (monitor, resumed):  # one that falls silent later is read: it lost what it could
        one.check([], audited(parsed=False))
        assert one.history[-1]["critic_brier"] is not None


def test_a_critic_at_work_that_is_never_read_is_warned_of_and_one_without_work_is_not() -> None:
    states = []
    groups = [[bout(task, RIGHT), bout(task, WRONG, answer="7")] for task in range(4)]
    every = [critique(0.1, sound=task < 4, task=task) for task in range(8)]
    silent = [replace(one, p_sound=0.5, parsed=False) for one in every]
    mute = replace(probe(groups), audit=CriticAudit(measure(silent), ()))
    for works in (True, False):
        monitor = RunMonitor(MonitorSettings(), critic_works=works)
        monitor.begin(mute)
        checks = [monitor.check([], mute) for _ in range(5)]
        states.append(["better than chance" in " ".join(health.reasons) for health in checks])
    assert states == [[False] * 4 + [True], [False] * 5]


def test_the_monitor_goes_on_where_it_was_saved() -> None:
    groups = [[bout(task, RIGHT), bout(task, WRONG, answer="7")] for task in range(4)]
    first, second = RunMonitor(MonitorSettings()), RunMonitor(MonitorSettings())
    first.begin(probe(groups))
    for _ in range(3):
        first.check([], probe(groups))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.history == first.history and len(second.history) == 3
    assert second.check([], probe(groups)) == first.check([], probe(groups))
    assert second.state == first.state


def test_the_critics_repairs_are_carried_out_and_survive_a_resume() -> None:
    settings = load_settings(CONFIG, [])
    curriculum, restored = Curriculum(build_source(settings), seed=0), list[int]()
    learner = cast(RoleTrainer, None)  # none of these orders is for it

    def order(kind: ActionKind, value: float) -> None:
        action = Action(kind=kind, value=value, why="")
        own.apply([action], learner, curriculum, restored.append, round_=7)

    own = Interventions()
    order("silence_critic", 0.0)
    order("restore_critic", 3.0)
    order("retrain_critic", 2.0)
    assert restored == [3] and not own.plan(8, settings).critic_points
    assert [own.plan(n, settings).critic_retrains for n in (8, 9, 10)] == [True, True, False]
    order("unsilence_critic", 1.0)
    again = Interventions()
    again.load_state_dict(json.loads(json.dumps(own.state_dict())))
    assert again == own and again.plan(8, settings).critic_points
    older = {key: value for key, value in own.state_dict().items() if key != "retrains_before"}
    again.load_state_dict(older)
    assert again.retrains_before == 0


def test_a_restricted_feedback_takes_the_rounds_whose_check_was_clean() -> None:
    settings = load_settings(CONFIG, ["feedback.steps=1"])
    curriculum, own = Curriculum(build_source(settings), seed=0), Interventions()
    order = Action(kind="verified_only", value=1.0, why="")
    for round_, is_clean in enumerate((True, True, False, True)):
        own.note_check(round_, is_clean)
    assert own.plan(4, settings).fed_rounds is None and own.restriction() == ""
    own.apply([order], cast(RoleTrainer, None), curriculum, lambda round_: None, round_=3)
    assert own.plan(4, settings).fed_rounds == (0, 1, 3)
    assert own.restriction().endswith("so far 0, 1, 3")
    again = Interventions()
    again.load_state_dict(json.loads(json.dumps(own.state_dict())))
    again.note_check(4, True)
    assert again.plan(5, settings).fed_rounds == (0, 1, 3, 4)
    older = {k: v for k, v in own.state_dict().items() if k not in ("verified_only", "clean")}
    again.load_state_dict(older)
    assert again.plan(5, settings).fed_rounds is None
    suspended = Interventions(verified_only=True)
    assert suspended.plan(1, settings).fed_rounds == () and "suspended" in suspended.restriction()


def test_what_is_fed_back_is_judged_where_anything_is() -> None:
    """Its audited accuracy falls while gold accuracy stands still: the run restricts it."""
    settings = load_settings(CONFIG, ["feedback.steps=1"]).monitor
    groups = [[bout(task, RIGHT), bout(task, WRONG, answer="7")] for task in range(4)]
    monitor, deaf = RunMonitor(settings), RunMonitor(MonitorSettings())
    monitor.begin(probe(groups))
    for fed in (0.9, 0.9, 0.9, 0.9, 0.4):
        health = monitor.check([], probe(groups), Reading(value=fed, error=0.03))
        assert deaf.check([], probe(groups), Reading(value=fed, error=0.03)).state == "ok"
        assert monitor.is_clean == (fed == 0.9)
    assert (health.state, health.alarms) == ("warn", ("fed_accuracy",))
    health = monitor.check([], probe(groups), Reading(value=0.4, error=0.03))
    assert health.state == "intervene" and health.channels == ("E",)
    assert [action.kind for action in health.actions] == ["verified_only", "silence_critic"]
    healed = [monitor.check([], probe(groups), None) for _ in range(4)]
    assert healed[-1].state == "ok", "what is no longer fed leaves the decision"


def test_the_champions_checkpoint_is_kept_where_it_may_come_back() -> None:
    record = MonitorState(last_clean_check=5, critic=CriticRecord(champion=3))
    kept = []
    for offers in (MonitorSettings().offers, ()):
        monitor = RunMonitor(MonitorSettings(offers=offers))
        monitor.state = record
        kept.append(monitor.kept_rounds())
    assert kept == [{3, 5}, {5}]
    assert RunMonitor(MonitorSettings()).kept_rounds() == set()


def value(name: str, read: Probe) -> float:
    found = read_signals([], read)[name]
    assert found is not None
    return found.value


def probe(groups: list[list[Bout]] | None = None, audit: CriticAudit | None = None) -> Probe:
    evaluation = Evaluation(1, 1, 0.5, (0.0, 1.0), 1.0, 0.5, (0.0, 1.0), 0.5, 0, (0,))
    gold = ((-0.5,), (-0.5,))
    own = tuple(map(tuple, groups or []))
    return Probe(own, gold, evaluation, audit, None, RolloutFigures(None, 0))
