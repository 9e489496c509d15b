"""Several procedural families in one stream of tasks, each task of one of them.

Left out: the families themselves (`data.puzzles`).
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.errors import UserError
from data.puzzles import ReasoningGymSource
from data.records import Shown, Split, Task


@dataclass(frozen=True)
class Part:
    """One family of a mixture, with its parameters; weights are relative to each other."""

    family: str
    params: Mapping[str, object]
    weight: float


class MixtureSource:
    """Verifiable puzzles of several reasoning-gym families, or of one at several settings.

    Args:
        parts: the families.
        shown: how questions are rendered, which fixes each task's identity and split. Without it
            two families that ask the same have two tasks.

    Raises:
        UserError: there are no parts, a weight is not above 0, or a family is refused.
    """

    def __init__(self, parts: Sequence[Part], shown: Shown | None = None) -> None:
        if not parts:
            raise UserError("a mixture needs at least one family")
        for part in parts:
            if not part.weight > 0:
                raise UserError(f"the weight of {part.family} must be above 0, got {part.weight}")
        self._weights = [part.weight for part in parts]
        self._sources = [ReasoningGymSource(part.family, part.params, shown) for part in parts]

    def draw(
        self, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
    ) -> list[Task]:
        """Return `num` distinct tasks of `split`, the same for the same arguments.

        The family of each is chosen by weight, whatever the others are. A longer draw begins with
        the shorter one of the same seed.

        Raises:
            UserError: a family does not yield as many distinct tasks as fall to it.
        """
        rng, families = random.Random(f"mixture/{seed}"), range(len(self._sources))
        picks = [rng.choices(families, self._weights)[0] for _ in range(num)]
        sizes = [picks.count(family) for family in families]
        while True:
            drawn = [
                source.draw(split, size, _seed(seed, family), exclude)
                for family, (source, size) in enumerate(zip(self._sources, sizes, strict=True))
            ]
            tasks, missing = _merged(drawn, picks)
            if not any(missing):
                return tasks
            sizes = [size + more for size, more in zip(sizes, missing, strict=True)]


def _merged(drawn: Sequence[Sequence[Task]], picks: Sequence[int]) -> tuple[list[Task], list[int]]:
    """Take the families' tasks in the order of the picks, without a task that was taken before.

    Also returns how many tasks each family is short of, because another had some of them too.
    """
    streams, missing = [iter(tasks) for tasks in drawn], [0] * len(drawn)
    taken: dict[str, Task] = {}
    for family in picks:
        task = next((task for task in streams[family] if task.id not in taken), None)
        if task is None:
            missing[family] += 1
        else:
            taken[task.id] = task
    return list(taken.values()), missing


def _seed(seed: int, family: int) -> int:
    """Two settings of one family must not share a stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{family}".encode()).digest()[:4], "big")
