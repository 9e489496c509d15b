"""Feedback: between blocks the learner imitates solutions of its own that the run admitted.

    records of this round and of earlier ones -> a block's share -> supervised steps -> their effect

Rejection-sampling fine-tuning (STaR, arXiv:2203.14465; RFT, arXiv:2308.01825) with replay of the
tasks that the learner still fails. What was imitated is audited (`fed_accuracy`), and the monitor
may restrict it to rounds whose check was clean (`RoundPlan.fed_rounds`). Leaves out which records
may be taken (`game/admitted.py`) and how a block is trained (a `Player` does that).
"""

import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain

from critic.monitor.readings import Reading
from critic.monitor.signals import share_of_records
from data.rebuild import task_of
from data.records import Record
from pipelines.errors import UserError
from pipelines.game.admitted import Imitated, choose, is_for_training, verified
from pipelines.game.bout import RoundPlan, Start
from pipelines.game.referee import Referee
from pipelines.game.resets import spread
from pipelines.game.shared import Gather, SharedRole
from pipelines.rollouts.sample import Player
from rewards.solution import first_bad_step

NUM_SCORED = 64  # records whose likelihood is read before and after the steps
MAX_WAITING = 2000  # replayed tasks whose next visit is waited for, which every commit saves


class Feedback:
    """The learner's supervised steps, and what is known of the tasks that they replayed.

    Args:
        referee: writes prompts, and checks steps for the audit.
        learner: imitates.
        held_out: ids of the tasks that measure.
        gather: the lists of all processes in one, given one's own.
        remark: receives what a reader of the run should know.

    Attributes:
        row: the round's figures, as metrics.
        fed_accuracy: the share of the imitated records whose answer the verifier passed and in
            which no step is known to be wrong; None where nothing was imitated.
        rates: each task's pass rate at its last visit, where a record of it may be imitated.
        waiting: the same of replayed tasks that were not visited since.
    """

    def __init__(
        self,
        referee: Referee,
        learner: Player,
        held_out: Collection[str],
        gather: Gather = list,
        remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.referee, self.learner, self.remark = referee, learner, remark
        self.table = referee.settings.feedback
        self.held_out = frozenset(held_out)
        self._scorer = SharedRole(learner, gather)
        self.row = dict[str, object]()
        self.fed_accuracy: Reading | None = None
        self.rates, self.waiting = dict[str, float](), dict[str, float]()

    def train(self, records: Sequence[Record], earlier: Iterable[Record], plan: RoundPlan) -> None:
        """Take the round's supervised steps.

        Args:
            records: what the gate made of the round's bouts, of all processes.
            earlier: the corpus' records of the rounds before.
            plan: the round's.

        Raises:
            UserError: a record was changed after it was admitted.
        """
        self.row, self.fed_accuracy = {}, None
        if self.table.steps == 0:
            return
        self._visit(records)
        pool = self._pool(records, earlier, plan)
        self._forget(pool)
        failed = {r.task_id for r in pool if self._rate(r) < self.table.replay_below}
        self.row |= {"feedback/pool": len(pool), "feedback/pool_tasks_failed": len(failed)}
        steps = self._num_steps(len(pool) * self.table.max_copies)
        self.row["feedback/steps"] = steps
        if plan.fed_rounds is not None:
            self.row["feedback/rounds"] = list(plan.fed_rounds)
        if steps == 0:
            self.remark(f"nothing is fed back: {len(pool)} records are too few for a step")
            return
        rng = random.Random(f"{self.referee.settings.run.seed}/feedback/{plan.round}")
        num = self.learner.replies_per_block(steps)
        table = self.table
        chosen = choose(pool, failed, num, table.replay_share, table.max_copies, rng)
        self._imitate(chosen, plan)
        for one in chosen:
            if one.is_replayed:
                self.waiting[one.record.task_id] = self._rate(one.record)

    def _imitate(self, chosen: Sequence[Imitated], plan: RoundPlan) -> None:
        """Train the block; what it was and did goes to the row."""
        distinct = list({one.record.id: one.record for one in chosen}.values())
        self.fed_accuracy = share_of_records([self._is_right(record) for record in distinct])
        self.row |= figures(chosen, plan.round) | {"feedback/accuracy": self.fed_accuracy.value}
        scored = distinct[:NUM_SCORED]
        self.row["feedback/nll_before"] = self._nll(scored)
        records = [one.record for one in chosen]
        prompts = [self.referee.problem(task_of(record)) for record in records]
        replies, purpose = [record.solution for record in records], f"{plan.purpose}/feedback"
        self.learner.imitate(prompts, replies, purpose, self.table.rate_factor)
        self.row["feedback/nll_after"] = self._nll(scored)

    def _pool(
        self, records: Sequence[Record], earlier: Iterable[Record], plan: RoundPlan
    ) -> list[Record]:
        """What may be imitated; a monitor that restricts it asks for verified records."""
        if self.table.gate == "none" and plan.fed_rounds is None:
            return [record for record in records if is_for_training(record, self.held_out)]
        oldest = plan.round - self.table.max_age_rounds
        return verified(chain(earlier, records), oldest, self.held_out, plan.fed_rounds)

    def _num_steps(self, capacity: int) -> int:
        """As many as are asked for; fewer where the records, copies included, do not fill them."""
        for steps in range(self.table.steps, 0, -1):
            with suppress(UserError):  # fewer steps may split a generation batch
                if self.learner.replies_per_block(steps) <= capacity:
                    return steps
        return 0

    def _is_right(self, record: Record) -> bool:
        """Whether a record passed and no step of it is known to be wrong.

        Code checks steps even where that is withheld from training: nothing is learned here.
        """
        if record.verdict_outcome != "correct":
            return False
        solution = self.referee.dialect.parse_solution(record.solution, truncated=False)
        return first_bad_step(self.referee.dialect.check_steps(task_of(record), solution)) is None

    def _nll(self, records: Sequence[Record]) -> float:
        """The mean surprise at the records' solutions, in nats per token."""
        prompts = [self.referee.problem(task_of(record)) for record in records]
        scores = self._scorer.score(prompts, [record.solution for record in records])
        return -math.fsum(map(math.fsum, scores)) / max(1, sum(map(len, scores)))

    # -- visits -----------------------------------------------------------------------------------

    def revisit(
        self, starts: Sequence[Start], earlier: Iterable[Record], plan: RoundPlan
    ) -> list[Start]:
        """A round's starts, a share of them replaced by tasks that were replayed.

        Args:
            starts: one per group; those that begin within a solution stay.
            earlier: the corpus' records of the rounds before, which the tasks are rebuilt from.
            plan: the round's.
        """
        num = round(self.table.revisit_share * len(starts))
        if num == 0 or not self.waiting:
            return list(starts)
        there = {start.task.id for start in starts}
        tasks = {
            record.task_id: record for record in earlier
            if record.task_id in self.waiting and record.task_id not in there
        }  # fmt: skip
        fresh = [place for place, start in enumerate(starts) if not start.prefix]
        num = min(num, len(tasks), len(fresh))
        rng = random.Random(f"{self.referee.settings.run.seed}/revisit/{plan.round}")
        found = list(starts)
        for place, task_id in zip(spread(num, len(fresh)), rng.sample([*tasks], num), strict=True):
            found[fresh[place]] = Start(task_of(tasks[task_id]))
        return found

    def _visit(self, records: Sequence[Record]) -> None:
        """Note the pass rates of the round's tasks, and what became of those that were replayed."""
        visited = {r.task_id: r.pass_rate for r in records if r.pass_rate is not None}
        again = sorted(self.waiting.keys() & visited.keys())
        self.row["feedback/visited_again"] = len(again)
        if again:
            before = math.fsum(self.waiting.pop(task) for task in again) / len(again)
            now = math.fsum(visited[task] for task in again) / len(again)
            self.row |= {"feedback/pass_rate_before": before, "feedback/pass_rate_now": now}
        self.rates |= visited

    def _rate(self, record: Record) -> float:
        """The pass rate at the last visit of a record's task."""
        own = 1.0 if record.pass_rate is None else record.pass_rate
        return self.rates.get(record.task_id, own)

    def _forget(self, pool: Sequence[Record]) -> None:
        """Keep what is needed of tasks that may be imitated, and the latest that are waited for."""
        tasks = {record.task_id for record in pool}
        self.rates = {task: rate for task, rate in self.rates.items() if task in tasks}
        self.waiting = dict([*self.waiting.items()][-MAX_WAITING:])

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {"rates": self.rates, "waiting": self.waiting}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on where `state_dict` was taken."""
        self.rates, self.waiting = dict(state["rates"]), dict(state["waiting"])


def figures(chosen: Sequence[Imitated], round_: int) -> dict[str, object]:
    """What a block imitates, as metrics: replies, records, tasks, their share replayed and age."""
    records = [one.record for one in chosen]
    return {
        "feedback/replies": len(chosen),
        "feedback/records": len({record.id for record in records}),
        "feedback/tasks": len({record.task_id for record in records}),
        "feedback/replayed_share": sum(one.is_replayed for one in chosen) / len(chosen),
        "feedback/mean_age": sum(round_ - record.round for record in records) / len(records),
    }
