"""What a run reads for the monitor."""

import pytest
from critic_cases import chain_task
from critique_cases import critique

from critic.calibration import measure
from critic.monitor.settings import DEFAULT_RULES
from pipelines.game.audit import CriticAudit
from pipelines.game.bout import Bout
from pipelines.game.evaluation import Evaluation, RolloutFigures
from pipelines.game.examiner import Probe
from pipelines.rollouts.sample import Sample
from pipelines.run.monitoring import read_signals
from rewards.solution import Solution
from rewards.verdict import Verdict


@pytest.mark.parametrize("name", DEFAULT_RULES)
def test_every_default_rule_names_a_signal_that_a_round_gives(name: str) -> None:
    """A rule that nothing can read would make the monitor warn in every round."""
    assert name in read_signals([], 0.0, _probe())


def test_an_all_correct_group_is_not_effective_however_its_rewards_are_shaded() -> None:
    """The monitor counted a group of right solutions as one that teaches."""
    verdict = Verdict("correct", "exact", "0", 1.0)
    sample, solution = Sample("5", [1], [-1.0], False), Solution("5", (), "5", None)
    task = chain_task([4, 1])
    shaded = [Bout(task, sample, solution, verdict, None, reward) for reward in (0.99, 0.8)]
    assert read_signals(shaded, 0.0, _probe())["effective_groups"] == 0
    wrong = Verdict("incorrect", "exact", "0", 0.0)
    mixed = [*shaded, Bout(task, sample, solution, wrong, None, 0.0)]
    assert read_signals(mixed, 0.0, _probe())["effective_groups"] == 1


def test_the_critics_calibration_comes_from_its_fixed_audit() -> None:
    audit = CriticAudit(measure([critique(0.9, sound=False)]), ())
    assert read_signals([], 0.0, _probe(audit))["critic_ece"] == pytest.approx(0.9)
    assert read_signals([], 0.0, _probe())["critic_ece"] is None


def _probe(audit: CriticAudit | None = None) -> Probe:
    evaluation = Evaluation(1, 1, 0.5, (0.0, 1.0), 1.0, 0.5, (0.0, 1.0), 0.5, 0, (0,))
    return Probe(0.0, 0.0, evaluation, audit, None, RolloutFigures(None, 0))
