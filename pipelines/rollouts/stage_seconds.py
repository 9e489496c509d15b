"""Wall-clock seconds by stage. Leaves out what the stages are and who prints them."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class StageSeconds(defaultdict[str, float]):
    """Seconds spent in each stage so far; a stage that never ran has 0."""

    def __init__(self) -> None:
        super().__init__(float)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what happens within the block to a stage, less what stages within it took.

        A block that raises adds nothing.
        """
        start, before = time.perf_counter(), self.total()
        yield
        inner = self.total() - before
        self[stage] += time.perf_counter() - start - inner

    def total(self) -> float:
        """Seconds over all stages."""
        return sum(self.values())
