"""The run's examinations: learner and critic on held-out tasks, before, after and in every round.

Leaves out how each figure is computed (`game/evaluation.py`, `game/audit.py`) and what follows from
it (`run/monitoring.py`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from data.records import Task
from pipelines.game.audit import (
    AuditedSolution,
    CriticAudit,
    audit_critic,
    audit_rollouts,
    audit_set,
    audit_share,
)
from pipelines.game.bout import Bout, RoundPlan
from pipelines.game.curriculum import Curriculum
from pipelines.game.evaluation import (
    Evaluation,
    RolloutFigures,
    gold_logprobs,
    mean_at_k,
    mean_nll,
    play_unrewarded,
    rollout_figures,
)
from pipelines.game.pointing import first_claimed
from pipelines.game.pool import Pool
from pipelines.game.referee import Referee
from pipelines.game.shared import Gather, SharedRole
from pipelines.rollouts.sample import Player, Sample
from pipelines.settings.tables import EvaluateTable

SAMPLES_PER_AUDIT_TASK = 2
MAX_FRESH = 64  # solutions of a round that are criticised only to measure the critic
T = TypeVar("T")


@dataclass(frozen=True)
class HeldOutTasks:
    """Tasks that no policy is trained on: the same in every round and every run.

    Attributes:
        test: for mean@k before and after.
        probe: for the gold probe of every round.
        audit: whose solutions the critic is audited on.
    """

    test: list[Task]
    probe: list[Task]
    audit: list[Task]

    @classmethod
    def draw(cls, curriculum: Curriculum, sizes: EvaluateTable) -> "HeldOutTasks":
        """Draw each split."""
        return cls(
            test=curriculum.held_out("test", sizes.num_tasks),
            probe=curriculum.held_out("probe", sizes.num_probe_tasks),
            audit=curriculum.held_out("audit", sizes.num_audit_tasks),
        )

    def all(self) -> list[Task]:
        """Every task, those of the gold probe first."""
        return [*self.probe, *self.test, *self.audit]


@dataclass(frozen=True)
class Probe:
    """One round's readings: the learner on the probe split, the critic on two sets.

    Attributes:
        groups: the learner's samples of each task of the probe split.
        gold: log-probabilities of the gold solutions' tokens under the learner, in nats.
        audit: the critic on the fixed audit set.
        fresh: the critic on the round's rollouts; None where they got no critiques.
        auditor: the critic that only audits, on the same; None without one.
        again: further samples of the probe split, of the same weights; `evaluation` is of the first
            ones, since whether there are others depends on those.
        agreement: of the failed ones the share in which both name the same step first, or none.
        rollouts: the rule on the round's rollouts.
    """

    groups: tuple[tuple[Bout, ...], ...]
    gold: tuple[tuple[float, ...], ...]
    evaluation: Evaluation
    audit: CriticAudit | None
    fresh: CriticAudit | None
    rollouts: RolloutFigures
    auditor: CriticAudit | None = None
    agreement: float | None = None
    again: tuple[tuple[tuple[Bout, ...], ...], ...] = ()

    def row(self) -> dict[str, object]:
        """The readings as metrics; what was measured of the critic under critic/."""
        evaluation = self.evaluation
        row: dict[str, object] = {
            "probe/mean_at_k": evaluation.mean,
            "probe/mean_at_k_interval": evaluation.mean_interval,
            "probe/well_formed": evaluation.well_formed,
            "probe/masked_samples": evaluation.num_masked,
            "probe/num_tasks": evaluation.num_tasks,
            "probe/num_samples": evaluation.num_samples,
            "probe/reads": 1 + len(self.again),
            "probe/nll": mean_nll(self.gold),
            "reward/pass_rate": self.rollouts.pass_rate,
            "reward/masked_samples": self.rollouts.num_masked,
        }
        audits = {"critic": self.audit, "critic/fresh": self.fresh, "auditor": self.auditor}
        for prefix, audit in audits.items():
            found = {} if audit is None else audit.row()
            row |= {f"{prefix}/{name}": value for name, value in found.items()}
        return row | ({} if self.agreement is None else {"auditor/agreement": self.agreement})


class Examiner:
    """Examines both roles.

    Args:
        referee: judges.
        learner: is examined on all three splits.
        critic: is examined on the audit set.
        tasks: held out.
        gather: what all processes have in one list, given one's own. Each samples and scores a
            share; where their verifiers differ, rank 0's word counts.
        pool: may have a critic that only audits.

    Attributes:
        audited: the audit set; it must be drawn or loaded before the critic is examined.
    """

    def __init__(
        self,
        referee: Referee,
        learner: Player,
        critic: Player,
        tasks: HeldOutTasks,
        gather: Gather,
        pool: Pool | None = None,
    ) -> None:
        self.referee, self.tasks, self.gather, self.pool = referee, tasks, gather, pool
        self.learner, self.critic = SharedRole(learner, gather), SharedRole(critic, gather)
        self.audited: list[AuditedSolution] = []

    def agree(self, own: T) -> T:
        """Rank 0's value in every process, given one's own."""
        agreed: T = self.gather([own])[0]
        return agreed

    def evaluate(self, when: str, draws_audit_set: bool = False) -> dict[str, object]:
        """mean@k on the test split and the critic's audit.

        Args:
            when: "before" or "after"; part of the seeds.
            draws_audit_set: whether the audit set is made now, of the learner's solutions.

        Returns:
            "figures": everything in one flat table, named as in summary.json; "correct_by_task" and
            "critiques": what they are of, for paired comparisons.
        """
        num = self.referee.settings.evaluate.num_samples
        groups = play_unrewarded(self.referee, self.learner, self.tasks.test, num, "test")
        evaluation = mean_at_k(groups)
        if draws_audit_set:
            self.audited = self._draw_audit_set()
        audit = audit_critic(self.referee, self.critic, self.audited, when)
        return {
            "figures": evaluation.row() | ({} if audit is None else audit.row()),
            "correct_by_task": evaluation.correct_by_task,
            "critiques": {} if audit is None else audit.columns(),
        }

    def _draw_audit_set(self) -> list[AuditedSolution]:
        groups = self.agree(
            play_unrewarded(
                self.referee, self.learner, self.tasks.audit, SAMPLES_PER_AUDIT_TASK, "audit"
            )
        )
        groups = self.agree([*groups, self._gold_bouts(groups)])
        return audit_set(self.referee, groups, self.referee.settings.run.seed)

    def _gold_bouts(self, groups: Sequence[Sequence[Bout]]) -> list[Bout]:
        """Right solutions, written by code, of the tasks that the learner did not solve.

        Without them a learner that seldom succeeds leaves nothing to accuse falsely. Empty where
        the dialect has no procedure to write one.
        """
        if self.referee.dialect.conversational:
            return []
        unsolved = [group[0].task for group in groups if not any(b.verdict.passed for b in group)]
        write, rng = self.referee.dialect.write_solution, random.Random(0)
        texts = [write(task, rng, 0.0) for task in unsolved]
        scores = self.learner.score([self.referee.problem(task) for task in unsolved], texts)
        bouts = []
        for task, text, logprobs in zip(unsolved, texts, scores, strict=True):
            sample = Sample(text, [0] * len(logprobs), logprobs, truncated=False)
            bouts.append(Bout(task, sample, *self.referee.read(task, sample), None, None))
        return bouts

    def before(self) -> Probe:
        """The readings before any round; there are no rollouts to criticise yet.

        The learner's are repeated: whatever a run does first is compared with them alone.
        """
        num = self.referee.settings.evaluate.start_probes
        first = self._read("probe before", 1, [])
        again = [self._sampled(f"probe before, {number}") for number in range(1, num)]
        return replace(first, again=tuple(again))

    def probe(self, plan: RoundPlan, bouts: Sequence[Bout]) -> Probe:
        """The round's readings, the same in every process.

        Args:
            plan: the round's.
            bouts: its rollouts, of all processes.
        """
        return self._read(f"probe {plan.round}", plan.audit_factor, bouts)

    def again(self, plan: RoundPlan, probe: Probe, num: int) -> Probe:
        """The round's readings, with so many more of the learner on the gold tasks."""
        fresh = [self._sampled(f"probe {plan.round}, {number}") for number in range(1, 1 + num)]
        return replace(probe, again=tuple(fresh))

    def _sampled(self, purpose: str) -> tuple[tuple[Bout, ...], ...]:
        """The learner's samples of the gold tasks, the same in every process."""
        num = self.referee.settings.evaluate.num_samples
        groups = play_unrewarded(self.referee, self.learner, self.tasks.probe, num, purpose)
        return self.agree(tuple(map(tuple, groups)))

    def _read(self, purpose: str, audit_factor: int, bouts: Sequence[Bout]) -> Probe:
        num = self.referee.settings.evaluate.num_samples
        groups = play_unrewarded(self.referee, self.learner, self.tasks.probe, num, purpose)
        audited = audit_share(self.audited, self.referee.settings.evaluate.audit_share)
        judged, others = self._judged(bouts, purpose), list[Bout]()
        if self.pool is not None and self.pool.auditor is not None:
            with self.pool.as_auditor():
                others = self._judged(bouts, purpose)
        own = Probe(
            groups=tuple(map(tuple, groups)),
            gold=tuple(map(tuple, gold_logprobs(self.referee, self.learner, self.tasks.probe))),
            evaluation=mean_at_k(groups),
            audit=audit_critic(self.referee, self.critic, audited, purpose, audit_factor),
            fresh=audit_rollouts(self.referee, judged),
            rollouts=rollout_figures(bouts),
            auditor=audit_rollouts(self.referee, others) if others else None,
            agreement=_agreement(judged, others) if others else None,
        )
        return self.agree(own)

    def _judged(self, bouts: Sequence[Bout], purpose: str) -> list[Bout]:
        """Some of the round's bouts with a critique: the game asks for those of failures alone."""
        own = [bout for bout in bouts if bout.judgeable and not bout.prefix]
        tried = random.Random(purpose).sample(own, min(MAX_FRESH, len(own)))
        asked = self.referee.criticise(
            [(bout.task, bout.solution) for bout in tried], self.critic, f"{purpose}/fresh"
        )
        return [self.referee.with_critique(*pair) for pair in zip(tried, asked, strict=True)]


def _agreement(judged: Sequence[Bout], others: Sequence[Bout]) -> float | None:
    """Of the failed bouts the share in which both critiques name the same step first, or none."""
    pairs = [
        [first_claimed(bout.solution, bout.judged.critique) for bout in pair if bout.judged]
        for pair in zip(judged, others, strict=True)
        if not pair[0].verdict.passed
    ]
    both = [named for named in pairs if len(named) == 2]
    return sum(one == other for one, other in both) / len(both) if both else None
