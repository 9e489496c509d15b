"""Measures the monitor's signals, asks it for its verdict, and carries out what it orders.

The decisions are `critic/monitor/decide.py`'s, pure functions of what is recorded here; this file
only reads the run and turns knobs.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from critic.monitor import signals
from critic.monitor.decide import check
from critic.monitor.state import Action, Health, MonitorState
from data.records import signature
from pipelines.game.audit import CriticAudit
from pipelines.game.bout import Bout
from pipelines.game.curriculum import Curriculum
from pipelines.game.evaluation import Evaluation
from pipelines.settings.tables import Settings
from pipelines.training.trainer import RoleTrainer

MAX_TEMPERATURE = 1.5


@dataclass
class Knobs:
    """What interventions have changed so far; part of every checkpoint."""

    critic_weight: float
    audit_factor: float = 1.0
    retiring: bool = False


@dataclass(frozen=True)
class Probe:
    """One round's gold readings: the learner on the probe split, the critic on the audit set."""

    nll: float
    evaluation: Evaluation
    audit: CriticAudit | None


class Guard:
    """The monitor's hands and eyes in a run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = MonitorState()
        self.history: list[dict[str, float | None]] = []

    def check(
        self, bouts: Sequence[Bout], token_entropy: float, probe: Probe, previous_nll: float | None
    ) -> Health:
        """Read this round's signals and judge them."""
        readings = read_signals(bouts, token_entropy, probe, previous_nll)
        active = self.settings.monitor.active
        readings = {name: value for name, value in readings.items() if name in active}
        self.history.append(readings)
        self.state, health = check(self.state, readings, self.settings.monitor)
        return health


def read_signals(
    bouts: Sequence[Bout], token_entropy: float, probe: Probe, previous_nll: float | None
) -> dict[str, float | None]:
    """All signals of both channels that a round gives; None where it gives none."""
    groups: dict[str, list[Bout]] = defaultdict(list)
    for bout in bouts:
        groups[bout.task.id].append(bout)
    answers = signals.answer_entropy([[b.solution.answer for b in g] for g in groups.values()])
    valid = [signature(b.task.question, b.sample.text) for b in bouts if b.solution.well_formed]
    judged = [b for b in bouts if b.judged is not None and b.judged.view is not None]
    proxy = [b.judged.view.p_sound for b in judged]  # type: ignore[union-attr]
    gap = (
        signals.proxy_gold_gap(proxy, [float(b.verdict.passed) for b in judged])
        if judged
        else math.nan
    )
    readings = {
        "token_entropy": token_entropy,
        "answer_entropy_across": answers.across,
        "answer_entropy_within": answers.within,
        "mutual_information": answers.mutual_information,
        "distinct_ratio": signals.distinct_ratio(valid),
        "effective_groups": signals.effective_groups(
            [[b.reward for b in g] for g in groups.values()]
        ),
        "probe_gain": signals.probe_gain(previous_nll, probe.nll),
        "probe_nll": probe.nll,
        "probe_mean_at_8": probe.evaluation.mean,
        "proxy_gold_gap": gap,
        "critic_ece": math.nan if probe.audit is None else probe.audit.report.ece,
    }
    return {name: value if math.isfinite(value) else None for name, value in readings.items()}


def apply_actions(
    actions: Sequence[Action], knobs: Knobs, learner: RoleTrainer, curriculum: Curriculum
) -> None:
    """Carry out the monitor's interventions; each acts from the next round on."""
    for action in actions:
        if action.kind == "raise_temperature":
            learner.set_temperature(min(learner.temperature + action.value, MAX_TEMPERATURE))
        elif action.kind == "retire_saturated":
            knobs.retiring = True
        elif action.kind == "critic_weight_zero":
            knobs.critic_weight = action.value
        elif action.kind == "double_audit":
            knobs.audit_factor *= action.value
        else:
            raise AssertionError(f"{action.kind} was ordered, but is not among monitor.offers")
    curriculum.retiring = knobs.retiring
