"""One way into all verifiers: each task names the one that judges it."""

import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from data.errors import UserError
from data.records import VERIFIER_NAMES, Task
from data.verifier_parameters import JsonSchemaParameters, read_parameters
from rewards.code_verifier import CodeVerifier
from rewards.composite import verify_composite
from rewards.functions import OwnReward, RewardFunctions
from rewards.judge import Judge
from rewards.judge_settings import JudgeSettings
from rewards.math_verifier import MathVerifier
from rewards.puzzle_verifier import PuzzleVerifier
from rewards.sandbox.settings import SandboxSettings
from rewards.solution import Solution
from rewards.text_verifier import TEXT, TextVerifier
from rewards.verdict import Verdict, score_verdict

_EXACT = "exact"
_EXACT_VERSION = "2"


class Verifiers:
    """All verifiers that a task may name; close it to end their workers.

    Args:
        timeout_seconds: an answer's deadline.
        workers: the most processes of each kind, which judge a batch in parallel.
        functions: weights of the user's own rewards, by where they are (`functions.py`).
        judge: a model that scores completions (`judge.py`); None for none.
        sandbox: what isolates a program that is judged, and what it may use.
    """

    def __init__(
        self,
        timeout_seconds: float = 5.0,
        workers: int = 1,
        functions: Mapping[str, float] | None = None,
        judge: JudgeSettings | None = None,
        sandbox: SandboxSettings | None = None,
    ) -> None:
        self.judge = None if judge is None else Judge(judge)
        self.functions = RewardFunctions(functions or {}, timeout_seconds, workers)
        self.puzzle = PuzzleVerifier(timeout_seconds, workers)
        self.math = MathVerifier(timeout_seconds, workers)
        self.text = TextVerifier(timeout_seconds, workers)
        self.code = CodeVerifier(timeout_seconds, workers, sandbox)
        self._threads = ThreadPoolExecutor(workers)  # none starts before the first batch

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
        if task.verifier in TEXT:
            return self.text.verify(task, solution)
        if task.verifier == "code":
            return self.code.verify(task, solution)
        if task.verifier == "composite":
            return verify_composite(task, solution, self.verify)
        raise UserError(
            f"task {task.id} asks for verifier {task.verifier!r}: use one of "
            f"{', '.join(VERIFIER_NAMES)}"
        )

    def verify_all(self, pairs: Sequence[tuple[Task, Solution]]) -> list[Verdict]:
        """Judge a batch in parallel, in its order; equal answers to one task are judged once.

        Raises:
            UserError: as `verify` does.
            RuntimeError: as `verify` does.
        """
        keys = [(task, one.answer, one.defect) for task, one in pairs]
        distinct = dict(zip(keys, pairs, strict=True))
        found = self._threads.map(lambda pair: self.verify(*pair), distinct.values())
        verdicts = dict(zip(distinct, found, strict=True))
        return [verdicts[key] for key in keys]

    def own_rewards(self, pairs: Sequence[tuple[Task, Solution]]) -> list[OwnReward]:
        """What the user's functions and the judge say of a batch, in its order."""
        found = [OwnReward()] * len(pairs)
        if self.functions.weights:
            found = list(self._threads.map(lambda pair: self.functions(*pair), pairs))
        if self.judge is None:
            return found
        return [a.plus(b) for a, b in zip(found, self.judge.score(pairs), strict=True)]

    def prove_own_rewards(self, task: Task) -> None:
        """Ask each function, and the judge, once about a task's reference.

        Raises:
            UserError: one cannot be used.
        """
        self.functions.prove(task)
        if self.judge is not None:
            self.judge.prove(task)

    def close(self) -> None:
        """End all workers."""
        self._threads.shutdown(cancel_futures=True)
        self.functions.close()
        self.puzzle.close()
        self.math.close()
        self.text.close()
        self.code.close()


def compares_with_reference(task: Task) -> bool:
    """Whether the task's verifier compares an answer with the reference and with nothing else."""
    if task.verifier == "json_schema":
        return read_parameters(JsonSchemaParameters, task.verifier, task.entry).equals_reference
    return task.verifier in ("math", "exact", "numeric")


def verify_exact(task: Task, solution: Solution) -> Verdict:
    """Compare strings, blind to letter case, spacing and Unicode's forms of one sign."""
    if solution.answer is None:
        return Verdict("invalid", _EXACT, _EXACT_VERSION, 0.0, f"malformed: {solution.defect}")
    equal = _normalised(solution.answer) == _normalised(task.reference)
    return score_verdict(float(equal), _EXACT, _EXACT_VERSION)


def _normalised(text: str) -> str:
    """Raised and lowered signs stay such: 10\u00b2 is not 102."""
    forms = (unicodedata.normalize("NFC" if _is_raised(sign) else "NFKC", sign) for sign in text)
    return " ".join(unicodedata.normalize("NFC", "".join(forms)).casefold().split())


def _is_raised(sign: str) -> bool:
    return unicodedata.decomposition(sign).startswith(("<super>", "<sub>"))
