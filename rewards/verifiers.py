"""One way into all verifiers: each task names the one that judges it."""

import unicodedata

from data.errors import UserError
from data.records import Task
from rewards.math_verifier import MathVerifier
from rewards.puzzle_verifier import PuzzleVerifier
from rewards.solution import Solution
from rewards.verdict import Verdict, score_verdict

_EXACT = "exact"
_EXACT_VERSION = "1"


class Verifiers:
    """The puzzle, math and exact verifiers; close it to end their workers."""

    def __init__(self, timeout_seconds: float = 5.0) -> None:
        self.puzzle = PuzzleVerifier(timeout_seconds)
        self.math = MathVerifier(timeout_seconds)

    def verify(self, task: Task, solution: Solution) -> Verdict:
        """Judge one solution with the verifier that `task.verifier` names.

        Raises:
            UserError: there is no such verifier, or the task lacks what it needs.
            RuntimeError: a verifier's worker cannot be started.
        """
        if task.verifier == "puzzle":
            return self.puzzle.verify(task, solution)
        if task.verifier == "math":
            return self.math.verify(task, solution)
        if task.verifier == "exact":
            return verify_exact(task, solution)
        raise UserError(
            f"task {task.id} asks for verifier {task.verifier!r}: use 'puzzle', 'math' or 'exact'"
        )

    def close(self) -> None:
        """End all workers."""
        self.puzzle.close()
        self.math.close()


def verify_exact(task: Task, solution: Solution) -> Verdict:
    """Compare strings, blind to letter case, spacing and Unicode's compatibility forms."""
    if solution.answer is None:
        return Verdict("invalid", _EXACT, _EXACT_VERSION, 0.0, f"malformed: {solution.defect}")
    equal = _normalised(solution.answer) == _normalised(task.reference)
    return score_verdict(float(equal), _EXACT, _EXACT_VERSION)


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
