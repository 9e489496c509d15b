"""Are two final answers the same? By reading them, else with math-verify, in a killable worker.

SymPy hangs on inputs as short as `9^{9^9}`, and math-verify's own timeouts score such an
answer 0. Here it is a `timeout`. An answer that is equal but unsimplified counts as correct, as
math-verify has it, but for sums and products where the reference is a number (`answers.py`).
"""

from importlib.metadata import version

from data.records import Task
from rewards.answers import VERSION
from rewards.solution import Solution
from rewards.verdict import Verdict
from rewards.worker_pool import WorkerPool

NAME = "math"


class MathVerifier:
    """Verifies answers against `task.reference`, in as many processes as there are workers."""

    def __init__(self, timeout_seconds: float = 5.0, workers: int = 1) -> None:
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {timeout_seconds}")
        self._timeout_seconds = timeout_seconds
        self._version = f"{VERSION} with math-verify {version('math-verify')}"
        self._pool = WorkerPool("math", workers)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return self._pool.pids

    def verify(self, task: Task, solution: Solution) -> Verdict:
        """Judge one solution; a malformed one, or an answer that is not mathematics, is invalid.

        Raises:
            RuntimeError: the worker cannot be started.
        """
        if solution.answer is None:
            return Verdict("invalid", NAME, self._version, 0.0, f"malformed: {solution.defect}")
        job = {"reference": task.reference, "answer": solution.answer}
        return self._pool.ask(job, self._timeout_seconds).verdict(NAME, self._version)

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
