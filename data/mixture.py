"""Several sources in one stream of tasks, each task of one of them.

Left out: the sources themselves (`data/puzzles.py`, `data/listed.py`).
"""

import hashlib
import random
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from data.records import SPLITS, Split, Task
from data.source import TaskSource, draw_apart

# A problem that lists have in several splits is in the first of these: what one tests, no other
# trains on, and a test file of the user's own stays whole.
PRECEDENCE: tuple[Split, ...] = ("test", "probe", "audit", "train")


@dataclass(frozen=True)
class Part:
    """One source of a mixture; weights are relative to each other."""

    name: str
    source: TaskSource
    weight: float = 1.0


class MixtureSource:
    """Tasks of several sources, or of one at several settings.

    A problem that lists have in different splits, in whatever spelling, is held out. Tasks that are
    made on demand ask nothing that a list asks in another split.

    Args:
        parts: the sources. Give all of them how questions are rendered: without it two families
            that ask the same have two tasks.

    Raises:
        UserError: there are no parts, or a weight is not above 0.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        if not parts:
            raise UserError("a mixture needs at least one source")
        for part in parts:
            if not part.weight > 0:
                raise UserError(f"the weight of {part.name} must be above 0, got {part.weight}")
        self._weights = [part.weight for part in parts]
        self._sources = [part.source for part in parts]
        self._is_listed = [any(map(source.ids, SPLITS)) for source in self._sources]
        keys = {split: self.keys(split) for split in SPLITS}
        self._elsewhere: dict[Split, frozenset[str]] = {
            split: frozenset(
                key for other in SPLITS if other != split for key in keys[other].values()
            )
            for split in SPLITS
        }
        self._taken, earlier = dict[Split, frozenset[str]](), set[str]()
        for split in PRECEDENCE:
            self._taken[split] = frozenset(t for t, key in keys[split].items() if key in earlier)
            earlier.update(keys[split].values())

    def draw(
        self, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
    ) -> list[Task]:
        """Return `num` distinct tasks of `split`, the same for the same arguments.

        The source of each is chosen by weight, whatever the others are; a list that is used up is
        chosen no more. A longer draw begins with the shorter one of the same seed.

        Raises:
            UserError: there are not that many.
        """
        apart = exclude | self._taken[split]
        excluded, room = list[frozenset[str]](), list[int | None]()
        for source, is_listed in zip(self._sources, self._is_listed, strict=True):
            own = source.ids(split) - apart
            room.append(len(own) if is_listed else None)
            excluded.append(apart)
            apart |= own  # what two lists have is the first one's

        def draw(part: int, size: int, _: Sequence[Task]) -> list[Task]:
            source, own_seed = self._sources[part], _seed(seed, part)

            def own(exclude: frozenset[str]) -> list[Task]:
                return source.draw(split, size, own_seed, exclude)

            return self._apart(part, split, own, excluded[part])

        return self._mixed(num, seed, draw, room, frozenset())

    def draw_round(
        self, num: int, seed: int, exclude: frozenset[str], played: Mapping[str, int]
    ) -> list[Task]:
        """Return `num` training tasks by weight; a list that is used up begins again.

        What another list gave comes last, so that lists which overlap seldom repeat a problem.
        """
        apart = exclude | self._taken["train"]
        is_empty = [
            is_listed and not source.ids("train") - apart
            for source, is_listed in zip(self._sources, self._is_listed, strict=True)
        ]
        room = [0 if empty else None for empty in is_empty]

        before, most = dict(played), max(played.values(), default=0) + 1

        def draw(part: int, size: int, given: Sequence[Task]) -> list[Task]:
            source, own_seed = self._sources[part], _seed(seed, part)
            counts = ChainMap({task.id: most for task in given}, before)

            def own(exclude: frozenset[str]) -> list[Task]:
                return source.draw_round(size, own_seed, exclude, counts)

            return self._apart(part, "train", own, apart)

        return self._mixed(num, seed, draw, room, self.ids("train"))

    def ids(self, split: Split) -> frozenset[str]:
        """Ids of the listed tasks of a split."""
        return frozenset[str]().union(*(source.ids(split) for source in self._sources))

    def keys(self, split: Split) -> dict[str, str]:
        """The keys of the listed tasks of a split, by id."""
        return {t: key for source in self._sources for t, key in source.keys(split).items()}

    def key(self, question: str) -> str:
        """What tells a question from others, however it is spelled."""
        return self._sources[0].key(question)

    def remarks(self) -> list[str]:
        """What a person should know of the parts, and of what they share."""
        told = [line for source in self._sources for line in source.remarks()]
        for split, taken in self._taken.items():
            if taken:
                told.append(
                    f'the mixture leaves out {len(taken)} "{split}" tasks of its lists: the same '
                    "problems are held out in another split"
                )
        return told

    def reports(self) -> list[dict[str, Any]]:
        """The parts' reports."""
        return [report for source in self._sources for report in source.reports()]

    def _apart(
        self,
        part: int,
        split: Split,
        draw: Callable[[frozenset[str]], list[Task]],
        exclude: frozenset[str],
    ) -> list[Task]:
        """A part's tasks of a split, without what lists ask in another."""
        if self._is_listed[part]:  # known from the start, and so excluded
            return draw(exclude)
        return draw_apart(draw, self.key, self._elsewhere[split], exclude)

    def _mixed(
        self,
        num: int,
        seed: int,
        draw: Callable[[int, int, Sequence[Task]], list[Task]],
        room: Sequence[int | None],
        repeatable: frozenset[str],
    ) -> list[Task]:
        """Take each task from the part that its pick names."""
        picks = self._picks(num, seed, list(room))
        sizes = [picks.count(part) for part in range(len(self._sources))]
        while True:
            drawn, given = list[list[Task]](), list[Task]()
            for part, size in enumerate(sizes):
                drawn.append(draw(part, size, given) if size else [])
                given += drawn[-1]
            tasks, missing = _merged(drawn, picks, repeatable)
            if not any(missing):
                return tasks
            sizes = [size + more for size, more in zip(sizes, missing, strict=True)]

    def _picks(self, num: int, seed: int, room: list[int | None]) -> list[int]:
        """A part for each task, chosen by weight among those that have room for another."""
        rng, parts = random.Random(f"mixture/{seed}"), range(len(self._sources))
        picks: list[int] = []
        while len(picks) < num:
            weights = [0.0 if room[part] == 0 else self._weights[part] for part in parts]
            if not any(weights):
                raise UserError(
                    f"the lists of the mixture have {len(picks)} of {num} tasks: ask for fewer or "
                    "add tasks"
                )
            pick = rng.choices(parts, weights)[0]
            left = room[pick]
            room[pick] = None if left is None else left - 1
            picks.append(pick)
        return picks


def _merged(
    drawn: Sequence[Sequence[Task]], picks: Sequence[int], repeatable: frozenset[str]
) -> tuple[list[Task], list[int]]:
    """Take the parts' tasks in the order of the picks, without a task that another part gave.

    Args:
        drawn: the parts' tasks.
        picks: a part for each task.
        repeatable: ids of tasks that may come again.

    Returns:
        The tasks, and how many each part is short of, because another had some of its own too.
    """

    def is_new(task: Task, part: int) -> bool:
        return task.id in repeatable or owners.get(task.id, part) == part

    streams, missing = [iter(tasks) for tasks in drawn], [0] * len(drawn)
    owners: dict[str, int] = {}
    taken: list[Task] = []
    for part in picks:
        task = next((task for task in streams[part] if is_new(task, part)), None)
        if task is None:
            missing[part] += 1
        else:
            owners[task.id] = part
            taken.append(task)
    return taken, missing


def _seed(seed: int, part: int) -> int:
    """Two settings of one family must not share a stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{part}".encode()).digest()[:4], "big")
