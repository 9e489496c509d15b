"""One of n disjoint parts of a source's tasks, for generations that run apart and are merged.

Which part has a task follows from its id alone, as its split does: it depends on no seed, no order
and no other part. Leaves out the merging (`pipelines/synthesis/merge.py`).
"""

import hashlib
import re
from dataclasses import dataclass

from data.errors import UserError
from data.records import Split, Task
from data.source import TaskSource, draw_up_to


@dataclass(frozen=True)
class Shard:
    """Part `number`, from 1, of `of`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, task_id: str) -> bool:
        """Whether a task is one of this part's."""
        digest = hashlib.sha256(f"shard\n{task_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number - 1

    def draw_up_to(
        self, source: TaskSource, split: Split, num: int, seed: int, exclude: frozenset[str]
    ) -> list[Task]:
        """Draw `num` of this part's tasks, or all there are where the source has fewer."""
        mine: dict[str, Task] = {}
        others = set[str]()
        while len(mine) < num:
            asked = (num - len(mine)) * self.of
            drawn = draw_up_to(source, split, asked, seed, exclude | others | mine.keys())
            if not drawn:
                break
            for task in drawn:
                if not self.holds(task.id):
                    others.add(task.id)
                elif len(mine) < num:
                    mine[task.id] = task
        return list(mine.values())


WHOLE = Shard(1, 1)


def read_shard(text: str) -> Shard:
    """Read "i/n".

    Raises:
        UserError: it is not two numbers with 1 <= i <= n.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    shard = Shard(int(found[1]), int(found[2])) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.of:
        raise UserError(f'--shard must be i/n with 1 <= i <= n, such as 2/8, got "{text}"')
    return shard
