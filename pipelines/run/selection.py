"""Periodic evaluation of the learner, and which round's checkpoint is the best by it.

The learner is evaluated on tasks of the audit split, whose other use is to measure the critic on
solutions that are fixed: neither training nor the monitor's probe nor the final examination asks
them. The best of several means flatters itself; the figure to report is the examination's, on the
test split. What was found stands in metrics.jsonl alone, so that a resumed run knows it. Leaves out
the link to the checkpoint (`run/checkpoints.py`).
"""

from collections.abc import Collection, Mapping, Sequence

from data.records import Task
from data.source import TaskSource, draw_up_to
from pipelines.game.evaluation import Evaluation, mean_at_k, play_unrewarded
from pipelines.game.examiner import Examiner
from pipelines.run.round_log import RoundLog, number
from pipelines.settings.tables import EvaluateTable, Settings

PREFIX = "evaluation/"
MEAN = f"{PREFIX}mean_at_k"


def selection_tasks(
    source: TaskSource, table: EvaluateTable, audited: Sequence[Task]
) -> list[Task]:
    """Tasks of the audit split: those that audit no critic first, the others where these are few.

    Args:
        source: of the run's tasks.
        table: how many are wanted, if any.
        audited: those whose solutions audit the critic.
    """
    if not table.every_rounds:
        return []
    num, kept = table.num_selection_tasks, frozenset(task.id for task in audited)
    others = draw_up_to(source, "audit", num, 0, kept)
    return [*others, *audited][:num]


class Selection:
    """Evaluates the learner now and then; asks nothing without `evaluate.every_rounds`.

    Args:
        examiner: has the learner, asked by all processes together.
        tasks: from `selection_tasks`.
        log: has the run's metrics, and tells a person.
        settings: the run's.
    """

    def __init__(
        self, examiner: Examiner, tasks: Sequence[Task], log: RoundLog, settings: Settings
    ) -> None:
        self.examiner, self.tasks, self.log, self.settings = examiner, tasks, log, settings

    def before(self) -> dict[str, object]:
        """The cold start's figures, which the rounds' stand beside; empty where none are due."""
        return self._figures("the cold start") if self._is_on else {}

    def after(self, round_: int) -> dict[str, object]:
        """A round's figures for its row of the metrics; empty where none are due."""
        every, last = self.settings.evaluate.every_rounds, self.settings.run.rounds - 1
        if not self._is_on or ((round_ + 1) % every and round_ != last):
            return {}
        return self._figures(f"round {round_}")

    def best(self, among: Collection[int] | None = None) -> int | None:
        """The round with the best mean so far, the first of equals; None where there is none.

        A run that is evaluated no more keeps the best that it had.

        Args:
            among: the rounds that count; None counts all.
        """
        return best_round(self.log.directory.rows(), among)

    def mean(self, round_: int) -> float:
        """A round's mean@k on the selection tasks."""
        rows = self.log.directory.rows()
        (found,) = (row for row in rows if row["kind"] == "round" and row["round"] == round_)
        return number(found, MEAN)

    @property
    def _is_on(self) -> bool:
        return bool(self.settings.evaluate.every_rounds)

    def _figures(self, what: str) -> dict[str, object]:
        found = self.evaluate(self.tasks, "selection")
        low_high = "" if found.mean_interval is None else " [{:.1f}, {:.1f}]".format(
            *(100 * end for end in found.mean_interval)
        )  # fmt: skip
        self.log.announce(
            f"evaluation: {what} has mean@{found.num_samples} {100 * found.mean:.1f}%{low_high} on "
            f"{found.num_tasks} selection tasks"
        )
        ends = {}
        if found.mean_interval is not None:  # as numbers too, which is what trackers take
            ends = dict(zip(("mean_at_k_low", "mean_at_k_high"), found.mean_interval, strict=True))
        return {f"{PREFIX}{name}": value for name, value in (found.row() | ends).items()}

    def evaluate(self, tasks: Sequence[Task], purpose: str) -> Evaluation:
        """mean@k of the present learner, the same in every process; `purpose` is in the seeds."""
        examiner, num = self.examiner, self.settings.evaluate.num_samples
        groups = play_unrewarded(examiner.referee, examiner.learner, tasks, num, purpose)
        return examiner.agree(mean_at_k(groups))


def best_round(
    rows: Sequence[Mapping[str, object]], among: Collection[int] | None = None
) -> int | None:
    """The round with the best mean on the selection tasks, from a run's metrics."""
    means = {
        int(number(row, "round")): number(row, MEAN)
        for row in rows
        if row["kind"] == "round" and MEAN in row
    }
    counted = [round_ for round_ in means if among is None or round_ in among]
    return max(counted, key=lambda round_: (means[round_], -round_), default=None)
