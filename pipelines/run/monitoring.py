"""Measures the monitor's signals, asks it for its verdict, and carries out what it orders.

The decisions are those of `critic/monitor/decide.py`, pure functions of what is recorded here; this
file only reads the run and turns its knobs.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from critic.monitor import signals
from critic.monitor.decide import check
from critic.monitor.settings import MonitorSettings
from critic.monitor.state import Action, Health, MonitorState
from data.records import signature
from pipelines.game.audit import CriticAudit
from pipelines.game.bout import Bout, RoundPlan
from pipelines.game.curriculum import Curriculum
from pipelines.game.examiner import Probe
from pipelines.settings.tables import Settings
from pipelines.training.trainer import RoleTrainer

MAX_TEMPERATURE = 1.5


class RunMonitor:
    """The monitor's eyes in a run, and its memory.

    Attributes:
        history: the readings of every check so far.
    """

    def __init__(self, settings: MonitorSettings) -> None:
        self.settings, self.state = settings, MonitorState()
        self.history: list[dict[str, float | None]] = []

    def check(self, bouts: Sequence[Bout], token_entropy: float, probe: Probe) -> Health:
        """Read this round's signals and judge them.

        Args:
            bouts: the round's, of all processes.
            token_entropy: of the learner's rollouts, nats per token.
            probe: the round's gold readings.
        """
        readings = read_signals(bouts, token_entropy, probe)
        active = self.settings.active
        readings = {name: value for name, value in readings.items() if name in active}
        self.history.append(readings)
        self.state, health = check(self.state, readings, self.settings)
        return health

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {"state": json.loads(self.state.model_dump_json()), "history": self.history}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.state = MonitorState.model_validate_json(json.dumps(state["state"]))
        self.history = state["history"]


def read_signals(
    bouts: Sequence[Bout], token_entropy: float, probe: Probe
) -> dict[str, float | None]:
    """All signals of both channels that a round gives; None where it gives none.

    Groups that begin within an earlier solution are left out.
    """
    bouts = [bout for bout in bouts if not bout.prefix]
    groups: dict[str, list[Bout]] = defaultdict(list)
    for bout in bouts:
        groups[bout.task.id].append(bout)
    answers = signals.answer_entropy([[b.solution.answer for b in g] for g in groups.values()])
    valid = [signature(b.task.question, b.sample.text) for b in bouts if b.solution.well_formed]
    outcomes = [
        [b.verdict.passed if b.verdict.counted else None for b in g] for g in groups.values()
    ]
    readings = {
        "token_entropy": token_entropy,
        "answer_entropy_across": answers.across,
        "answer_entropy_within": answers.within,
        "mutual_information": answers.mutual_information,
        "distinct_ratio": signals.distinct_ratio(valid),
        "effective_groups": signals.effective_groups(outcomes),
        "probe_gain": signals.probe_gain(probe.previous_nll, probe.nll),
        "probe_nll": probe.nll,
        "probe_mean_at_8": probe.evaluation.mean,
        "proxy_gold_gap": _proxy_gold_gap(probe.fresh),
        "critic_ece": _figure(probe.audit, "ece"),
    }
    return {name: value if math.isfinite(value) else None for name, value in readings.items()}


def _figure(audit: CriticAudit | None, name: str) -> float:
    found = None if audit is None else audit.measures.figures[name].value
    return math.nan if found is None else found


def _proxy_gold_gap(fresh: CriticAudit | None) -> float:
    """What the critic believes of the round's solutions minus what the verifier says."""
    if fresh is None:
        return math.nan
    proxy = [critique.p_sound for critique in fresh.critiques]
    return signals.proxy_gold_gap(proxy, [float(critique.sound) for critique in fresh.critiques])


@dataclass
class Interventions:
    """What the monitor's orders have changed so far; each acts from the next round on.

    Attributes:
        critic_points: whether the critic may point at the learner's flaws.
        audit_factor: how many times the configured share of the audit set is used.
        retiring: whether tasks that a whole group solved are not drawn again.
    """

    critic_points: bool = True
    audit_factor: float = 1.0
    retiring: bool = False

    def plan(self, round_: int, settings: Settings) -> RoundPlan:
        """What a round is played with."""
        share = self.audit_factor * settings.evaluate.audit_share
        return RoundPlan(
            round=round_,
            critic_points=self.critic_points and round_ >= settings.critic.warm_up_rounds,
            audit_share=min(1.0, share),
        )

    def apply(
        self, actions: Sequence[Action], learner: RoleTrainer, curriculum: Curriculum
    ) -> None:
        """Carry out the monitor's orders."""
        for action in actions:
            if action.kind == "raise_temperature":
                learner.set_temperature(min(learner.temperature + action.value, MAX_TEMPERATURE))
            elif action.kind == "retire_saturated":
                self.retiring = True
            elif action.kind == "silence_critic":
                self.critic_points = False
            elif action.kind == "double_audit":
                self.audit_factor *= action.value
            else:
                raise AssertionError(f"{action.kind} was ordered, but is not among monitor.offers")
        curriculum.retiring = self.retiring

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.critic_points, self.retiring = state["critic_points"], state["retiring"]
        self.audit_factor = state["audit_factor"]
