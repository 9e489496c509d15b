"""Measures the monitor's signals, asks it for its verdict, and carries out what it orders.

The decisions are those of `critic/monitor/decide.py`, pure functions of what is recorded here; this
file only reads the run and turns its knobs.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from critic.monitor import signals
from critic.monitor.decide import Readings, begin, check, wants_more
from critic.monitor.power import power_line
from critic.monitor.probe import ProbeSample, probe_readings
from critic.monitor.readings import Reading, pooled, settled
from critic.monitor.replay import read_readings, readings_row
from critic.monitor.settings import AUROC, FED, MonitorSettings
from critic.monitor.state import Action, Health, MonitorState
from data.records import signature
from pipelines.game.audit import CriticAudit
from pipelines.game.bout import Bout, RoundPlan
from pipelines.game.curriculum import Curriculum
from pipelines.game.examiner import Probe
from pipelines.settings.tables import Settings
from pipelines.training.trainer import RoleTrainer

MAX_TEMPERATURE = 1.5
LEAST_READABLE = 0.5  # share of its critiques that must be read before a critic is compared with


class RunMonitor:
    """The monitor's eyes in a run, and its memory.

    Attributes:
        history: the readings of every check so far.
        first: what the latest check's gold tasks showed before they were sampled again; empty where
            they were not.
        critic_was_read: whether most of its critiques could be read at some check. One that writes
            none accuses nobody: what it learns to say would all be worse than its silence.
    """

    def __init__(self, settings: MonitorSettings, *, critic_works: bool = True) -> None:
        """Begin without a reading.

        Args:
            settings: thresholds.
            critic_works: whether the critic is trained, or points without code.
        """
        self.settings, self.state = settings, MonitorState()
        self.critic_works = critic_works
        self.history: list[Readings] = []
        self.first: Readings = {}
        self.critic_was_read = False

    def begin(self, probe: Probe) -> Readings:
        """Take the cold start in: what every later reading is compared with."""
        readings, again = self._read([], probe), _again(probe)
        once = {name: readings[name] for name in again[0]} if again else {}
        readings |= pooled([once, *again])
        self.state = begin(readings, self.settings)
        return readings

    def check(
        self, bouts: Sequence[Bout], probe: Probe, fed_accuracy: Reading | None = None
    ) -> Health:
        """Judge this round's signals.

        Args:
            bouts: the round's, of all processes.
            probe: the round's gold readings.
            fed_accuracy: the audit of what was fed back.
        """
        readings = self._of_round(bouts, probe, fed_accuracy)
        self.first = probe_readings(_samples(probe.groups)) if probe.again else {}
        self.history.append(readings)
        self.state, health = check(self.state, readings, self.settings)
        return health

    def wants_more(
        self, bouts: Sequence[Bout], probe: Probe, fed_accuracy: Reading | None = None
    ) -> bool:
        """Whether the gold tasks should be sampled again before `check` is given the same."""
        return self.settings.reads_again > 0 and wants_more(
            self.state, self._of_round(bouts, probe, fed_accuracy), self.settings
        )

    def _of_round(
        self, bouts: Sequence[Bout], probe: Probe, fed_accuracy: Reading | None
    ) -> Readings:
        """The readings that a check judges."""
        readings = settled(self._read(bouts, probe), _again(probe))
        return readings | ({FED: fed_accuracy} if FED in self.settings.rules else {})

    def _read(self, bouts: Sequence[Bout], probe: Probe) -> Readings:
        """The signals; without those of which a critic that was never read would be a baseline."""
        readings, parsed = read_signals(bouts, probe), _figure(probe.audit, "parsed")
        auroc = readings[AUROC] if self.critic_works else None
        self.critic_was_read |= parsed is not None and parsed.value >= LEAST_READABLE
        if not self.critic_was_read:
            rules = self.settings.rules
            readings |= {n: None for n in readings if n in rules and rules[n].channel == "critic"}
        return readings | {AUROC: auroc}

    @property
    def is_clean(self) -> bool:
        """Whether nothing of channel E alarmed at the latest check, nor nearly did."""
        return self.state.last_clean_check == self.state.num_checks - 1

    def power(self, probe: Probe) -> str:
        """What a probe can see, of the tasks that it has: a short list gives fewer than asked."""
        return power_line(len(probe.groups), len(probe.groups[0]), self.settings)

    def kept_rounds(self) -> set[int]:
        """Rounds whose checkpoints a halt or a repair of the critic may go back to."""
        champion = self.state.critic.champion if "restore_critic" in self.settings.offers else None
        return {r for r in (self.state.last_clean_check, champion) if r is not None}

    def values(self) -> list[dict[str, float | None]]:
        """The history without errors, for a person."""
        return [{name: one and one.value for name, one in each.items()} for each in self.history]

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {
            "state": json.loads(self.state.model_dump_json()),
            "readings": [readings_row(readings) for readings in self.history],
            "critic_was_read": self.critic_was_read,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        rows = state["readings"]
        self.history = [read_readings(row, number) for number, row in enumerate(rows, start=1)]
        self.state = MonitorState.model_validate_json(json.dumps(state["state"]))
        self.critic_was_read = state.get("critic_was_read", True)


def read_signals(bouts: Sequence[Bout], probe: Probe) -> Readings:
    """All signals that a round gives; None where it gives none.

    Novelty and gold figures are of the probe's own samples: the same tasks, the same number of
    samples and the same temperature in every round, whatever an intervention changed. The reward is
    of the round's whole rollouts; those that begin within an earlier solution are left out.
    """
    rewards: dict[str, list[float]] = defaultdict(list)
    for bout in bouts:
        if bout.reward is not None and not bout.prefix:
            rewards[bout.task.id].append(bout.reward)
    fresh = () if probe.fresh is None else probe.fresh.critiques
    return {
        **probe_readings(_samples(probe.groups)),
        "gold_nll": signals.nll_of_gold(probe.gold),
        "training_reward": signals.mean_of_fresh([*rewards.values()]),
        "critic_false_accusations": _figure(probe.audit, "false_accusations"),
        "critic_location": _figure(probe.audit, "location_accuracy"),
        "critic_brier": _figure(probe.audit, "brier"),
        AUROC: _figure(probe.audit, "auroc"),
        "critic_bias": signals.critic_bias(fresh),
    }


def _again(probe: Probe) -> list[dict[str, Reading | None]]:
    """What each further sampling of the gold tasks gives."""
    return [probe_readings(_samples(groups)) for groups in probe.again]


def _samples(groups: Sequence[Sequence[Bout]]) -> list[list[ProbeSample]]:
    return [[probe_sample(bout) for bout in group] for group in groups]


def probe_sample(bout: Bout) -> ProbeSample:
    """What the probe reads of one of its bouts."""
    well_formed, verdict = bout.solution.well_formed, bout.verdict
    return ProbeSample(
        answer=bout.solution.answer,
        signature=signature(bout.task.question, bout.sample.text) if well_formed else None,
        passed=verdict.passed if verdict.counted else None,
        well_formed=well_formed,
        logprobs=bout.sample.logprobs,
    )


def _figure(audit: CriticAudit | None, name: str) -> Reading | None:
    return None if audit is None else signals.reading_of(audit.measures.figures[name])


@dataclass
class Interventions:
    """What the monitor's orders have changed so far; each acts from the next round on.

    Attributes:
        critic_points: whether the critic may point at the learner's flaws.
        audit_factor: how many times as many critiques of each audited solution are asked for.
        retiring: whether tasks that a whole group solved are not drawn again.
        retrains_before: the critic learns by imitation alone in rounds before this one.
        verified_only: whether only verified records of clean rounds are fed back.
        clean: the rounds whose check was clean, in order.
    """

    critic_points: bool = True
    audit_factor: int = 1
    retiring: bool = False
    retrains_before: int = 0
    verified_only: bool = False
    clean: tuple[int, ...] = ()

    def plan(self, round_: int, settings: Settings) -> RoundPlan:
        """What a round is played with."""
        return RoundPlan(
            round=round_,
            critic_points=self.critic_points and round_ >= settings.critic.warm_up_rounds,
            audit_factor=self.audit_factor,
            critic_retrains=round_ < self.retrains_before,
            fed_rounds=self.clean if self.verified_only else None,
        )

    def note_check(self, round_: int, is_clean: bool) -> None:
        """Remember whether a round's check was clean."""
        self.clean += (round_,) if is_clean else ()

    def restriction(self) -> str:
        """What is still fed back, for a person; "" where nothing is restricted."""
        if not self.verified_only:
            return ""
        said = "intervention: only records that the verifier passed are fed back from now on, of"
        if not self.clean:
            return f"{said} clean rounds; there is none, so that feedback is suspended"
        return f"{said} the rounds whose check was clean, so far {', '.join(map(str, self.clean))}"

    def apply(
        self,
        actions: Sequence[Action],
        learner: RoleTrainer,
        curriculum: Curriculum,
        restore_critic: Callable[[int], None],
        round_: int,
    ) -> None:
        """Carry out the monitor's orders.

        Args:
            actions: the orders.
            learner: whose temperature may rise.
            curriculum: whose solved tasks may be retired.
            restore_critic: gives the critic the weights that it had after a round.
            round_: the one just played.
        """
        for action in actions:
            if action.kind == "raise_temperature":
                learner.set_temperature(min(learner.temperature + action.value, MAX_TEMPERATURE))
            elif action.kind == "retire_saturated":
                self.retiring = True
            elif action.kind in ("silence_critic", "unsilence_critic"):
                self.critic_points = action.kind == "unsilence_critic"
            elif action.kind == "restore_critic":
                restore_critic(int(action.value))
            elif action.kind == "retrain_critic":
                self.retrains_before = round_ + 1 + int(action.value)
            elif action.kind == "verified_only":
                self.verified_only = True
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
        self.retrains_before = state.get("retrains_before", 0)  # earlier versions never retrain
        self.verified_only = state.get("verified_only", False)  # and never feed anything back
        self.clean = tuple(state.get("clean", ()))
