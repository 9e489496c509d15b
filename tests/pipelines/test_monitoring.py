"""What a run reads for the monitor."""

import pytest

from critic.monitor.settings import DEFAULT_RULES
from pipelines.game.evaluation import Evaluation
from pipelines.game.examiner import Probe
from pipelines.run.monitoring import read_signals


@pytest.mark.parametrize("name", DEFAULT_RULES)
def test_every_default_rule_names_a_signal_that_a_round_gives(name: str) -> None:
    """A rule that nothing can read would make the monitor warn in every round."""
    evaluation = Evaluation(1, 1, 0.5, (0.0, 1.0), 1.0, 0.5, (0.0, 1.0), 0.5)
    assert name in read_signals([], 0.0, Probe(0.0, 0.0, evaluation, None))
