"""Which tasks a round plays: fresh ones from the train split, minus those that are solved."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from data.records import Split, Task
from data.sources import TaskSource
from pipelines.games import Bout


class Curriculum:
    """Draws tasks, reproducibly from (run seed, round), and retires saturated ones on request."""

    def __init__(self, source: TaskSource, seed: int) -> None:
        self.source, self.seed = source, seed
        self.retired: set[str] = set()
        self.retiring = False

    def draw(self, round_: int, num: int) -> list[Task]:
        """The round's training tasks; a source too small to spare the retired ones keeps them."""
        try:
            return self.source.draw("train", num, self._seed(round_), frozenset(self.retired))
        except ValueError:
            if not self.retired:
                raise
            self.retired.clear()
            return self.source.draw("train", num, self._seed(round_))

    def held_out(self, split: Split, num: int) -> list[Task]:
        """A fixed set of a held-out split: the same in every round and every run."""
        return self.source.draw(split, num, 0)

    def learn_from(self, bouts: Sequence[Bout]) -> None:
        """Once the monitor asked for it, never draw a task again whose whole group passed."""
        if not self.retiring:
            return
        passes: dict[str, list[bool]] = defaultdict(list)
        for bout in bouts:
            passes[bout.task.id].append(bout.verdict.passed)
        self.retired |= {task for task, passed in passes.items() if all(passed)}

    def _seed(self, round_: int) -> int:
        digest = hashlib.sha256(f"{self.seed}/{round_}".encode()).digest()
        return int.from_bytes(digest[:4], "big")
