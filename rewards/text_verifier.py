"""The numeric, json_schema and regex verifiers: the parent's side of `text_scorers.py`."""

from importlib.metadata import version

from data.records import Task
from data.verifier_parameters import KINDS, read_parameters
from rewards.answers import VERSION
from rewards.solution import Solution
from rewards.verdict import Verdict
from rewards.worker_pool import WorkerPool

TEXT = ("numeric", "json_schema", "regex")
_VERSIONS = {
    "numeric": f"1 with answers {VERSION}",
    "json_schema": f"1 with jsonschema {version('jsonschema')}",
    "regex": "1",
}


class TextVerifier:
    """Verifies answers by the task's own parameters, in as many processes as there are workers."""

    def __init__(self, timeout_seconds: float = 5.0, workers: int = 1) -> None:
        self._timeout_seconds = timeout_seconds
        self._pool = WorkerPool("text", workers)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return self._pool.pids

    def verify(self, task: Task, solution: Solution) -> Verdict:
        """Judge one solution; a malformed one, or an answer that cannot be read, is invalid.

        Raises:
            UserError: the task's parameters are not those of its verifier.
            RuntimeError: the worker cannot be started.
        """
        name = task.verifier
        parameters = read_parameters(KINDS[name], name, task.entry)
        if solution.answer is None:
            detail = f"malformed: {solution.defect}"
            return Verdict("invalid", name, _VERSIONS[name], 0.0, detail)
        job = {
            "verifier": name, "reference": task.reference, "answer": solution.answer,
            "parameters": parameters.model_dump(by_alias=True),
        }  # fmt: skip
        return self._pool.ask(job, self._timeout_seconds).verdict(name, _VERSIONS[name])

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
