"""Measures the monitor's signals, asks it for its verdict, and carries out what it orders.

The decisions are those of `critic/monitor/decide.py`, pure functions of what is recorded here; this
file only reads the run and turns its knobs.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from critic.monitor import signals
from critic.monitor.decide import Readings, begin, check
from critic.monitor.power import power_line
from critic.monitor.readings import Reading
from critic.monitor.replay import read_readings, readings_row
from critic.monitor.settings import GOLD, MonitorSettings
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
        self.history: list[Readings] = []

    def begin(self, probe: Probe) -> Readings:
        """Take the cold start in: what every later reading is compared with."""
        readings = read_signals([], probe)
        self.state = begin(readings, self.settings)
        return readings

    def check(self, bouts: Sequence[Bout], probe: Probe) -> Health:
        """Read this round's signals and judge them.

        Args:
            bouts: the round's, of all processes.
            probe: the round's gold readings.
        """
        readings = read_signals(bouts, probe)
        self.history.append(readings)
        self.state, health = check(self.state, readings, self.settings)
        return health

    def power(self, probe: Probe) -> str:
        """What a probe can see, of the tasks that it has: a short list gives fewer than asked."""
        return power_line(len(probe.groups), len(probe.groups[0]), self.settings)

    def values(self) -> list[dict[str, float | None]]:
        """The history without errors, for a person."""
        return [{name: one and one.value for name, one in each.items()} for each in self.history]

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {
            "state": json.loads(self.state.model_dump_json()),
            "readings": [readings_row(readings) for readings in self.history],
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        rows = state["readings"]
        self.history = [read_readings(row, number) for number, row in enumerate(rows, start=1)]
        self.state = MonitorState.model_validate_json(json.dumps(state["state"]))


def read_signals(bouts: Sequence[Bout], probe: Probe) -> Readings:
    """All signals that a round gives; None where it gives none.

    Novelty and gold figures are of the probe's own samples: the same tasks, the same number of
    samples and the same temperature in every round, whatever an intervention changed. The reward is
    of the round's whole rollouts; those that begin within an earlier solution are left out.
    Where the verifier reached no judgement on most samples, those it did judge are a selection: a
    learner that breaks the verifier must not be measured on the rest.
    """
    groups = probe.groups
    counted = [[b for b in group if b.verdict.counted] for group in groups]
    if 2 * sum(map(len, counted)) < sum(map(len, groups)):
        counted = []
    valid = [
        [signature(b.task.question, b.sample.text) for b in group if b.solution.well_formed]
        for group in groups
    ]
    rewards: dict[str, list[float]] = defaultdict(list)
    for bout in bouts:
        if bout.reward is not None and not bout.prefix:
            rewards[bout.task.id].append(bout.reward)
    fresh = () if probe.fresh is None else probe.fresh.critiques
    return {
        "token_entropy": signals.mean_of_fixed([[*_surprises(group)] for group in groups]),
        **signals.answer_entropies([[b.solution.answer for b in group] for group in groups]),
        "distinct_ratio": signals.distinct_ratio(valid),
        "effective_groups": signals.effective_groups(
            [[b.verdict.passed for b in group] for group in counted if group]
        ),
        GOLD: signals.share_of_fixed([[b.verdict.passed for b in g] for g in counted if g]),
        "gold_form": signals.share_of_fixed([[b.solution.well_formed for b in g] for g in groups]),
        "gold_nll": signals.nll_of_gold(probe.gold),
        "training_reward": signals.mean_of_fresh([*rewards.values()]),
        "critic_false_accusations": _figure(probe.audit, "false_accusations"),
        "critic_location": _figure(probe.audit, "location_accuracy"),
        "critic_brier": _figure(probe.audit, "brier"),
        "critic_bias": signals.critic_bias(fresh),
    }


def _surprises(group: Sequence[Bout]) -> Iterator[float]:
    """Each sample's mean surprise, whose mean is the entropy per token (nats)."""
    for logprobs in (bout.sample.logprobs for bout in group):
        if logprobs:
            yield -math.fsum(logprobs) / len(logprobs)


def _figure(audit: CriticAudit | None, name: str) -> Reading | None:
    return None if audit is None else signals.reading_of(audit.measures.figures[name])


@dataclass
class Interventions:
    """What the monitor's orders have changed so far; each acts from the next round on.

    Attributes:
        critic_points: whether the critic may point at the learner's flaws.
        audit_factor: how many times as many critiques of each audited solution are asked for.
        retiring: whether tasks that a whole group solved are not drawn again.
    """

    critic_points: bool = True
    audit_factor: int = 1
    retiring: bool = False

    def plan(self, round_: int, settings: Settings) -> RoundPlan:
        """What a round is played with."""
        return RoundPlan(
            round=round_,
            critic_points=self.critic_points and round_ >= settings.critic.warm_up_rounds,
            audit_factor=self.audit_factor,
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
                self.audit_factor *= int(action.value)
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
