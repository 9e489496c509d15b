"""The result of an evaluation: its data, its table, and its JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipelines.inference.estimates import Interval
from pipelines.inference.methods import MethodRow, Quality


@dataclass(frozen=True)
class InferenceReport:
    """How well a checkpoint solves tasks, alone and with its critic, and for how many tokens.

    Attributes:
        learner: the checkpoint that solved.
        critic: the checkpoint that criticised; None without one.
        weights: the hash of each role's weights.
        tasks: where the tasks come from.
        split: of the tasks.
        num_tasks: evaluated.
        num_samples: solutions of each task in the pool.
        temperature: of the samples.
        seed: of the samples.
        rows: every method at every budget.
        qualities: masked, malformed and unparsed samples.
        versions: of the libraries, and the commit.
    """

    learner: str
    critic: str | None
    weights: dict[str, str]
    tasks: str
    split: str
    num_tasks: int
    num_samples: int
    temperature: float
    seed: int
    rows: tuple[MethodRow, ...]
    qualities: tuple[Quality, ...]
    versions: dict[str, str]

    def row(self, method: str, samples: int = 1, redos: int = 0) -> MethodRow:
        """The row of a method at a budget.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.method, row.samples, row.redos) == (method, samples, redos):
                return row
        raise KeyError(f"no row {method!r} with {samples} samples and {redos} redos")

    def to_json(self) -> str:
        """Everything as one JSON object; each row also has its tokens in all."""
        rows = [asdict(row) | {"tokens": row.tokens} for row in self.rows]
        return json.dumps(asdict(self) | {"rows": rows}, indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """The table for a person."""
        critic = "no critic" if self.critic is None else f"critic {self.critic}"
        head = [
            f"{self.num_tasks} tasks ({self.tasks}, {self.split}), {self.num_samples} solutions "
            f"each at temperature {self.temperature:g}, seed {self.seed}",
            f"learner {self.learner}; {critic}",
            *map(_quality_line, self.qualities),
            "",
        ]
        titles = ("method", "k", "redos", "accuracy", "learner", "critic", "both")
        titles += ("- majority", "- shuffled")
        cells = [titles, *map(_cells, self.rows)]
        foot = (
            "k: solutions per task. Tokens generated per task: the learner's, the critic's, both.\n"
            "- majority: accuracy minus that of majority voting with as many tokens; - shuffled: "
            "minus that\nwith shuffled critiques. Brackets: 95% bootstrap intervals over tasks."
        )
        return "\n".join([*head, *_aligned(cells), "", foot])


def _quality_line(found: Quality) -> str:
    critiques = f"; {found.unparsed} of {found.critiques} critiques unparsed"
    return (
        f"{found.name}: {found.num} solutions, {found.malformed} malformed, {found.masked} masked "
        f"by the verifier (counted as wrong){critiques if found.critiques else ''}"
    )


def _cells(row: MethodRow) -> tuple[str, ...]:
    return (
        row.method, str(row.samples), str(row.redos or ""), _percent(row.accuracy),
        f"{row.learner_tokens:.1f}", f"{row.critic_tokens:.1f}", f"{row.tokens:.1f}",
        _points(row.minus_majority), _points(row.minus_shuffled),
    )  # fmt: skip


def _percent(found: Interval) -> str:
    return f"{found.value:.1%} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _points(found: Interval | None) -> str:
    """A difference in percentage points."""
    if found is None:
        return ""
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns; the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
