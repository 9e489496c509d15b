"""Several killable workers of one kind: a batch is judged in parallel, and a hang holds up one.

Leaves out one worker's life (`killable_worker.py`).
"""

from collections.abc import Mapping
from queue import LifoQueue

from rewards.killable_worker import KillableWorker, Reply, WorkerKind


class WorkerPool:
    """Workers that take one question at a time each; close it to end them.

    A worker starts when all others are busy, so that questions one by one need a single process.

    Args:
        kind: of the workers.
        size: the most processes, 1 or more.
        argument: what they are given to begin with.
    """

    def __init__(self, kind: WorkerKind, size: int, argument: str = "") -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least 1 worker, got {size}")
        self._workers = [KillableWorker(kind, argument) for _ in range(size)]
        self._free: LifoQueue[KillableWorker] = LifoQueue()
        for worker in reversed(self._workers):
            self._free.put(worker)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def ask(self, job: Mapping[str, object], timeout_seconds: float) -> Reply:
        """Put a job to a free worker, waiting for one; the deadline begins when one is found.

        Raises:
            RuntimeError: the process cannot be started.
        """
        worker = self._free.get()
        try:
            return worker.ask(job, timeout_seconds)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End the processes; asking again starts new ones."""
        for worker in self._workers:
            worker.close()
