"""Tasks from a list of rows: distinct, split by what a model sees, each epoch without replacement.

A task's split follows from the letters, digits and operators that are shown, so that no two splits
hold one question in two spellings. A task keeps its split whatever the context holds, and when a
long list grows. Of a short list each held-out split gets a part nevertheless. Rows that are no
problems are refused or left out, each named. Leaves out how rows are read (`data/rows.py`).
"""

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.errors import UserError, unknown_name
from data.records import (
    SPLITS,
    Fits,
    Generator,
    Shown,
    Split,
    Task,
    canonical_json,
    identity,
    make_task,
    signature,
    split_of,
)
from data.rows import Fault, Refusal, Row
from data.spelling import spelling_key

HELD_OUT: tuple[Split, ...] = ("test", "probe", "audit")
# Of a short list each held-out split gets a tenth, up to so many; a long list's hashes give more.
LEAST_HELD_OUT = 8
FEWEST_TASKS = 4  # that can be split at all
SHORT = 1000  # a list of fewer tasks measures coarsely
NUM_NAMED = 20  # kinds of fault that a message names; the run's tasks.json has every one
# Of one row, in what is wrong with it: quoted, perhaps cut short, and numbers.
_OWN_WORDS = re.compile(r"(?<!\w)'[^']*(?:'|$)|\"[^\"]*(?:\"|$)|\d+")


@dataclass(frozen=True)
class Census:
    """What became of a list's rows.

    Attributes:
        num_tasks: by split.
        faults: rows that are no problems.
        num_repeats: rows that ask what an earlier one asks.
        num_in_test: rows that ask what the test rows ask.
        num_passed_over: rows that the dialect does not read as problems.
        num_too_long: problems that the context does not hold.
        num_system_turns: rows whose conversation's system turn is left out.
    """

    num_rows: int
    num_tasks: Mapping[str, int]
    faults: tuple[Fault, ...]
    num_repeats: int
    num_in_test: int
    num_passed_over: int
    num_too_long: int
    num_system_turns: int


class ListedSource:
    """Tasks from rows.

    Args:
        rows: problems and faults, in their order.
        name: of the list, for a person.
        family: the family that its tasks belong to.
        shown: how questions are rendered, which fixes each task's identity and split.
        fits: whether the context holds a task; None holds any.
        test_rows: the test split, if the user has one; the others then give none to it.
        skip_faulty_rows: leave faulty rows out instead of refusing the list.
        refusal: what a row's verifier has against the row's answer; None asks none.

    Attributes:
        tasks: all of them.
        census: what became of the rows.

    Raises:
        UserError: a row is faulty (names each), or no task is left.
    """

    def __init__(
        self,
        rows: Iterable[Row | Fault],
        name: str,
        family: str,
        shown: Shown | None = None,
        fits: Fits | None = None,
        test_rows: Iterable[Row | Fault] = (),
        skip_faulty_rows: bool = False,
        refusal: Refusal | None = None,
    ) -> None:
        self.name, self.family, self._shown = name, family, shown
        reader = _Reader(family, shown, refusal)
        test, rest = reader.read(test_rows), reader.read(rows)
        seen = set(test)
        own = {key: found for key, found in rest.items() if key not in seen}
        in_test = sum(len(found) for key, found in rest.items() if key in seen)
        if reader.faults and not skip_faulty_rows:
            raise UserError(refused(reader.faults, reader.num_rows))
        if not own:
            raise UserError(f"{name} holds no tasks: give at least one question with its answer")
        tasks = reader.tasks(test | own, name)
        fitting = [(key, task) for key, task in tasks if fits is None or fits(task)]
        # Of all problems, too long or not: whoever asks with another context gets the same splits.
        splits = _splits(own, has_test=bool(test)) | dict.fromkeys(test, "test")
        self.tasks = [replace(task, split=splits[key]) for key, task in fitting]
        self._keys = {task.id: key for key, task in fitting}
        counts: dict[str, int] = {
            split: sum(task.split == split for task in self.tasks) for split in SPLITS
        }
        self.census = Census(
            num_rows=reader.num_rows,
            num_tasks=counts,
            faults=tuple(reader.faults),
            num_repeats=reader.num_repeats,
            num_in_test=in_test,
            num_passed_over=reader.num_passed_over,
            num_too_long=len(tasks) - len(self.tasks),
            num_system_turns=reader.num_system_turns,
        )

    def draw(
        self, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
    ) -> list[Task]:
        """Return `num` tasks of `split` in an order fixed by `seed`; see `TaskSource`."""
        kept = self._shuffled(split, seed, exclude)
        if len(kept) < num:
            least = f", at least {FEWEST_TASKS} in all" if len(self.tasks) < FEWEST_TASKS else ""
            raise UserError(
                f'{self.name} has {len(kept)} of {num} "{split}" tasks ({len(self.tasks)} in all; '
                f"each task's hash fixes its split): ask for fewer or add tasks{least}"
            )
        return kept[:num]

    def draw_round(
        self, num: int, seed: int, exclude: frozenset[str], played: Mapping[str, int]
    ) -> list[Task]:
        """Return `num` training tasks, those first that were played least; see `TaskSource`.

        So every task is played once before any is played again, in an order that is new each time.
        """
        order = self._shuffled("train", seed, exclude)
        if not order:
            raise UserError(f'{self.name} has no "train" tasks left to draw: add tasks')
        order.sort(key=lambda task: played.get(task.id, 0))  # stable: the rest stays shuffled
        whole, rest = divmod(num, len(order))
        return order * whole + order[:rest]

    def ids(self, split: Split) -> frozenset[str]:
        """Ids of all tasks of a split."""
        return frozenset(task.id for task in self.tasks if task.split == split)

    def keys(self, split: Split) -> dict[str, str]:
        """The key of each task of a split, by id."""
        return {task.id: self._keys[task.id] for task in self.tasks if task.split == split}

    def key(self, question: str) -> str:
        """What tells a question from others, however it is spelled."""
        return spelling_key(question, self._shown)

    def remarks(self) -> list[str]:
        """What a person should know of the list, one line each."""
        census, told = self.census, []
        if census.faults:
            told.append(f"left out: {_named(census.faults, census.num_rows)}")
        for num, what in (
            (census.num_repeats, "repeat an earlier problem and are left out"),
            (census.num_in_test, "ask what the test rows ask and are left out"),
            (census.num_passed_over, "are no problems of this dialect and are left out"),
            (census.num_system_turns, "begin with a system turn, which is not shown"),
        ):
            if num:
                told.append(f"{self.name}: {num} of {census.num_rows} rows {what}")
        if len(self.tasks) < SHORT:
            counts = ", ".join(f"{num} {split}" for split, num in census.num_tasks.items())
            told.append(f"{self.name} is short, its figures are coarse: {counts} tasks")
        return told

    def reports(self) -> list[dict[str, Any]]:
        """The census as a JSON table, every faulty row named."""
        return [{"name": self.name, **vars(self.census), "faults": [*map(str, self.census.faults)]}]

    def _shuffled(self, split: Split, seed: int, exclude: frozenset[str]) -> list[Task]:
        if split not in SPLITS:
            raise ValueError(unknown_name("split", split, SPLITS))
        found = sorted((t for t in self.tasks if t.split == split), key=lambda task: task.id)
        random.Random(seed).shuffle(found)
        return [task for task in found if task.id not in exclude]


class _Reader:
    """Sorts rows by what is shown of them, and counts what is no problem of its own."""

    def __init__(self, family: str, shown: Shown | None, refusal: Refusal | None) -> None:
        self.family, self.shown, self.refusal = family, shown, refusal
        self.faults: list[Fault] = []
        self.num_rows = self.num_repeats = self.num_passed_over = self.num_system_turns = 0

    def read(self, rows: Iterable[Row | Fault]) -> dict[str, list[Row]]:
        """Distinct problems by what tells apart what is shown of them."""
        by_id: dict[str, list[Row]] = defaultdict(list)
        keys: dict[str, str] = {}
        for row in rows:
            self.num_rows += 1
            if isinstance(row, Fault):
                self.faults.append(row)
                continue
            try:
                task_id = identity(self.family, row.question, self.shown)
            except UserError as error:
                self.faults.append(Fault(row.place, str(error)))
                continue
            if task_id is None:
                self.num_passed_over += 1
                continue
            self.num_system_turns += row.has_system_turn
            by_id[task_id].append(row)
            keys[task_id] = spelling_key(row.question, self.shown)
        found: dict[str, list[Row]] = defaultdict(list)
        for task_id, same in by_id.items():
            if self._agree(same) and self._is_accepted(same[0]):
                found[keys[task_id]].append(same[0])
        return dict(found)

    def _agree(self, same: Sequence[Row]) -> bool:
        """Whether rows that ask one question give one answer; which is right nobody can say."""
        first = same[0]
        others = [
            row
            for row in same
            if (row.answer, row.verifier, row.parameters)
            != (first.answer, first.verifier, first.parameters)
        ]
        self.faults += [
            Fault(
                row.place,
                f"the same question stands at {first.place} with another answer or verifier "
                f"({first.answer!r:.40} by {first.verifier}, here {row.answer!r:.40} by "
                f"{row.verifier}): keep one",
            )
            for row in others
        ]
        if others:
            self.faults.append(Fault(first.place, f"{others[0].place} contradicts it"))
        else:
            self.num_repeats += len(same) - 1
        return not others

    def _is_accepted(self, row: Row) -> bool:
        """Whether the row's own verifier accepts its answer; else nothing could be right."""
        refused = "" if self.refusal is None else self.refusal(row)
        if refused:
            self.faults.append(Fault(row.place, refused))
        return not refused

    def tasks(self, problems: Mapping[str, Sequence[Row]], name: str) -> list[tuple[str, Task]]:
        """The tasks of all problems, each with its problem's key."""
        rows = [row for same in problems.values() for row in same]
        content = "\n".join(map(_content, rows))
        version = hashlib.sha256(content.encode()).hexdigest()[:16]
        generator = Generator(name=name, version=version, seed=0, difficulty="")
        return [
            (
                key,
                make_task(
                    family=self.family,
                    question=row.question,
                    reference=row.answer,
                    verifier=row.verifier,
                    entry=row.parameters,
                    generator=generator,
                    shown=self.shown,
                ),
            )
            for key, same in problems.items()
            for row in same
        ]


def _content(row: Row) -> str:
    parameters = f"\n{canonical_json(row.parameters)}" if row.parameters else ""
    return f"{row.question}\n{row.answer}{parameters}"


def _splits(problems: Collection[str], has_test: bool) -> dict[str, Split]:
    """Each problem's split, by its hash; a short list's held-out splits take some from training."""
    splits = {key: split_of(key) for key in problems}
    if has_test:
        splits = {key: "train" if split == "test" else split for key, split in splits.items()}
    if len(splits) < FEWEST_TASKS:
        return splits
    for wanted in HELD_OUT[1:] if has_test else HELD_OUT:
        least = max(1, min(LEAST_HELD_OUT, len(splits) // 10))
        missing = least - sum(split == wanted for split in splits.values())
        spare = sorted(
            (key for key, split in splits.items() if split == "train"),
            key=lambda key: signature(wanted, key),
        )
        splits |= dict.fromkeys(spare[: max(0, missing)], wanted)
    return splits


def refused(faults: Sequence[Fault], num_rows: int) -> str:
    """What is said of a list with faulty rows."""
    named = _named(faults, num_rows)
    return f"{named}: mend them, or leave them out with tasks.skip_faulty_rows = true"


def _named(faults: Sequence[Fault], num_rows: int) -> str:
    """The faults in one line, of each kind the first, with their number."""
    if len(faults) == 1:
        return f"{faults[0]} (1 of {num_rows} rows)"
    alike: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        alike[_OWN_WORDS.sub("", fault.reason)].append(fault)
    kinds = [
        f"{same[0]}" + (f" (and {len(same) - 1} more like it)" if len(same) > 1 else "")
        for same in alike.values()
    ]
    more = len(kinds) - NUM_NAMED
    named = "; ".join(kinds[:NUM_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return f"{len(faults)} of {num_rows} rows are faulty: {named}"
