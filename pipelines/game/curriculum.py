"""Which tasks a round plays: from the train split, those played least first, none that are solved.

Leaves out where tasks come from (`data/sources.py`).
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from data.records import Fits, Generator, Shown, Split, Task, make_task
from data.rows import Row
from data.source import TaskSource, draw_held_out
from data.sources import Part, WithoutExamples, make_source
from pipelines.errors import UserError
from pipelines.game.bout import Bout, Start
from pipelines.settings.tables import Settings
from pipelines.settings.task_table import SourceTable
from rewards.answers import compare
from rewards.dialect import dialect
from rewards.solution import Solution
from rewards.verifiers import Verifiers

MOST_SLOW = 3  # answers on which a verifier may run out of time before a list is given up
_OF_A_ROW = Generator(name="", version="", seed=0, difficulty="")


class Curriculum:
    """Draws tasks, reproducibly, and retires saturated ones on request.

    A listed task is played again only when all others were played as often: epochs, without
    replacement. Tasks that are made on demand follow from run seed and round alone.
    """

    def __init__(self, source: TaskSource, seed: int) -> None:
        self.source, self.seed = source, seed
        self.retired: set[str] = set()
        self.retiring = False
        self.played: Counter[str] = Counter()  # how often each listed task was played
        self._listed = source.ids("train")

    def draw(self, round_: int, num: int) -> list[Task]:
        """The round's training tasks; a source too small to spare the retired ones keeps them.

        It is too small where it has none without them, or repeats more of the others.
        """
        try:
            tasks = self._drawn(round_, num, self.retired)
        except UserError:
            if not self.retired:
                raise
            tasks = []
        if self.retired and _num_distinct(tasks) < num:
            whole = self._drawn(round_, num, set())
            if _num_distinct(whole) > _num_distinct(tasks):
                self.retired.clear()
                return whole
        return tasks

    def begin(self, starts: list[Start]) -> list[Start]:
        """Note what a round plays, and return it; what it continues was noted before."""
        fresh = (start.task.id for start in starts if not start.prefix)
        self.played.update(task_id for task_id in fresh if task_id in self._listed)
        return starts

    def epochs(self) -> float | None:
        """How often the listed tasks were played, on average; None where nothing is listed."""
        return self.played.total() / len(self._listed) if self._listed else None

    def held_out(self, split: Split, num: int) -> list[Task]:
        """A fixed set of a held-out split: the same in every round and every run.

        See `data.source.draw_held_out`.
        """
        return draw_held_out(self.source, split, num)

    def learn_from(self, bouts: Sequence[Bout]) -> None:
        """Once the monitor asked for it, never draw a task again whose whole group passed."""
        if not self.retiring:
            return
        passes: dict[str, list[bool]] = defaultdict(list)
        for bout in bouts:
            if bout.prefix:
                continue  # to finish what was begun is easier
            passes[bout.task.id].append(bout.verdict.passed)
        self.retired |= {task for task, passed in passes.items() if all(passed)}

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {
            "retired": sorted(self.retired), "retiring": self.retiring, "played": self.played,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.retired, self.retiring = set(state["retired"]), state["retiring"]
        self.played = Counter(state["played"])

    def _drawn(self, round_: int, num: int, left_out: set[str]) -> list[Task]:
        return self.source.draw_round(num, self._seed(round_), frozenset(left_out), self.played)

    def _seed(self, round_: int) -> int:
        digest = hashlib.sha256(f"{self.seed}/{round_}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def _num_distinct(tasks: Sequence[Task]) -> int:
    return len({task.id for task in tasks})


def build_source(settings: Settings, fits: Fits | None = None) -> TaskSource:
    """The task source that the `[tasks]` table describes.

    Its tasks are as distinct as what the dialect shows of them, and its held-out splits lack the
    table's worked examples.

    Args:
        settings: the run's.
        fits: whether the context holds a task; None holds any.

    Raises:
        UserError: a list cannot be read, or a row of it is faulty: its own verifier refuses its
            answer, for example.
    """
    tasks = settings.tasks
    shown, examples = dialect(tasks.dialect).shown, tasks.examples
    given = settings.rewards
    with closing(Verifiers(given.timeout_seconds, sandbox=given.sandbox)) as verifiers:
        asked = References(verifiers)
        made = [(part, _source(part, shown, fits, asked)) for part in tasks.mixture or (tasks,)]
    source = made[0][1]
    if tasks.mixture:
        parts = [Part(part.family or part.path, source, part.weight) for part, source in made]
        source = make_source("mixture", parts=parts)
    if not examples:
        return source
    return WithoutExamples(source, (example.question for example in examples))


class References:
    """Puts each row's answer to the row's own verifier, which must accept it.

    `exact` accepts any. `math` is asked in its process where reading the answer does not settle it:
    of "?" it reads nothing, and could judge no reply.
    """

    def __init__(self, verifiers: Verifiers) -> None:
        self._verifiers, self._num_slow = verifiers, 0

    def refusal(self, row: Row) -> str:
        """What the verifier has against the answer; "" if nothing.

        Raises:
            UserError: verifiers ran out of time so often that reading on could take hours.
        """
        if row.verifier == "exact" or (row.verifier == "math" and _is_read(row.answer)):
            return ""
        task = make_task(
            family="", question=row.question, reference=row.answer, verifier=row.verifier,
            entry=row.parameters, generator=_OF_A_ROW,
        )  # fmt: skip
        verdict = self._verifiers.verify(task, Solution(row.answer, (), row.answer, None))
        if verdict.passed:
            return ""
        told = (
            f"its verifier {row.verifier} does not accept its own answer {row.answer!r:.60} "
            f"({verdict.detail or verdict.outcome}): mend the answer or the verifier's parameters"
        )
        self._num_slow += verdict.outcome == "timeout"
        if self._num_slow > MOST_SLOW:
            raise UserError(
                f"{row.place}: {told}; so did {MOST_SLOW} rows before: does a pattern backtrack?"
            )
        return told


def _is_read(answer: str) -> bool:
    try:
        return compare(answer, answer).same is True
    except (ValueError, RecursionError):  # its verifier says what is wrong
        return False


def _source(
    table: SourceTable, shown: Shown, fits: Fits | None, references: References
) -> TaskSource:
    given = _arguments(table, references)
    return make_source(table.source, shown=shown, fits=fits, **given)


def _arguments(table: SourceTable, references: References) -> dict[str, Any]:
    """What the kind of source needs."""
    if table.source == "reasoning_gym":
        return {"family": table.family, "params": table.params}
    listed = {
        "fields": table.fields, "test_path": table.test_path,
        "family": table.family or table.source,
        "skip_faulty_rows": table.skip_faulty_rows, "refusal": references.refusal,
    }  # fmt: skip
    if table.source == "jsonl":
        return {"path": table.path, **listed}
    return {
        "path_or_id": table.path, "config": table.dataset_config, "split": table.dataset_split,
        "test_split": table.test_split, **listed,
    }  # fmt: skip
