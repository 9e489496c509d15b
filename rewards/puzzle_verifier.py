"""reasoning-gym's own scorers, against the entry that a task carries.

Families that only compare strings are scored in this process. The others bring scorers
of their own, some of which `eval` the answer or hand it to SymPy; these run in a worker
with a deadline.

An answer on which the scorer raises is `invalid`: it is wrong, and is counted. So is one that ends
the worker twice; once may be the machine's doing. `error` is left for an entry that cannot be
judged at all.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version

import reasoning_gym
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS

import data.double_and_add  # noqa: F401 - registers the family
from data.errors import UserError
from data.records import Task
from rewards.answers import compare
from rewards.killable_worker import Reply
from rewards.solution import Solution
from rewards.verdict import Verdict, score_verdict
from rewards.worker_pool import WorkerPool

NAME = "puzzle"


def _same_number(reference: str, answer: str) -> bool:
    try:
        return compare(reference, answer).same is True
    except (ValueError, RecursionError):  # no number is so long or so deep
        return False


def _same_text(reference: str, answer: str) -> bool:
    return reference.strip().lower() == answer.strip().lower()


# Families with one right answer whose scorers pass "-25", "not 25" or "25 or 17" for 25, or what
# only begins with the right words; what they pass must be the reference as a whole.
WHOLE: Mapping[str, Callable[[str, str], bool]] = {
    "fraction_simplification": _same_number,
    "gsm_symbolic": _same_number,
    "letter_jumble": _same_text,
    "spell_backward": _same_text,
}


class PuzzleVerifier:
    """Verifies answers with the scorer of the family that made the task."""

    def __init__(self, timeout_seconds: float = 5.0, workers: int = 1) -> None:
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {timeout_seconds}")
        self._timeout_seconds = timeout_seconds
        self._version = f"reasoning-gym {version('reasoning-gym')}"
        self._pool = WorkerPool("puzzle", workers)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live; none until a family needs one."""
        return self._pool.pids

    def verify(self, task: Task, solution: Solution) -> Verdict:
        """Judge one solution: correct only at full score, malformed is invalid.

        Raises:
            UserError: the task carries no reasoning-gym entry.
            RuntimeError: the worker cannot be started.
        """
        dataset = _dataset_name(task)
        if solution.answer is None:
            return Verdict("invalid", NAME, self._version, 0.0, f"malformed: {solution.defect}")
        verdict = self._judged(dataset, task, solution.answer)
        same = WHOLE.get(dataset)
        if verdict.passed and same is not None and not same(task.reference, solution.answer):
            detail = "the scorer read a part of it, and the whole is another answer"
            return Verdict("incorrect", NAME, self._version, 0.0, detail)
        return verdict

    def _judged(self, dataset: str, task: Task, answer: str) -> Verdict:
        """What the family's own scorer says."""
        if not _compares_strings(dataset):
            job = {"dataset": dataset, "entry": task.entry, "answer": answer}
            return self._ask(job).verdict(NAME, self._version)
        try:
            score = float(_scoring_dataset(dataset).score_answer(answer, task.entry))
        except Exception as error:  # the boundary to the library: its failure is an outcome
            detail = f"{type(error).__name__}: {error}"
            return Verdict("error", NAME, self._version, None, detail)
        return score_verdict(score, NAME, self._version)

    def _ask(self, job: Mapping[str, object]) -> Reply:
        reply = self._pool.ask(job, self._timeout_seconds)
        if not reply.died:
            return reply
        reply = self._pool.ask(job, self._timeout_seconds)
        return Reply("unreadable", detail=reply.detail) if reply.died else reply

    def close(self) -> None:
        """End the workers, if there are any."""
        self._pool.close()


def _dataset_name(task: Task) -> str:
    metadata = task.entry.get("metadata")
    name = metadata.get("source_dataset") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or name not in DATASETS or "answer" not in task.entry:
        raise UserError(
            f"task {task.id} (family {task.family!r}) asks for the puzzle verifier but its entry "
            f"names no reasoning-gym family (source_dataset is {name!r}): draw it from a "
            "reasoning-gym source, or set verifier to 'math' or 'exact'"
        )
    return name


def _compares_strings(dataset: str) -> bool:
    """Whether the family uses the base class's scorer, which cannot hang."""
    kind, _ = DATASETS[dataset]
    return bool(kind.score_answer is ProceduralDataset.score_answer)


@cache
def _scoring_dataset(dataset: str) -> ProceduralDataset:
    return reasoning_gym.create_dataset(dataset, size=1, seed=0)
