"""Which answers to a task are the same, as its verifier compares them.

Two answers are the same where the verifier accepts the second with the first as reference. Leaves
out the vote over them (`inference/estimates.py`).
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from data.records import Task
from rewards.solution import Solution
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers, compares_with_reference


def same_answers(
    verifiers: Verifiers, task: Task, judged: Sequence[tuple[Solution, Verdict]]
) -> list[int | None]:
    """The class of each solution's answer; None for a malformed solution, which has none.

    Answers of one spelling are one class. Beyond that a verifier that compares with the reference
    is asked. A puzzle's scorer judges against the puzzle, a pattern against itself: there the
    spelling decides, and so it does where the verifier had timed out or failed on an answer.
    """
    spellings: dict[str, int] = {}
    representatives: dict[int, str] = {}
    found: list[int | None] = []
    for solution, verdict in judged:
        if solution.answer is None:
            found.append(None)
            continue
        text = _spelling(solution.answer)
        if text not in spellings:
            known = None
            if verdict.counted and compares_with_reference(task):
                known = _accepted_by(verifiers, task, solution, representatives)
            if known is None:
                known = len(spellings)
                if verdict.counted:
                    representatives[known] = solution.answer
            spellings[text] = known
        found.append(spellings[text])
    return found


def _accepted_by(
    verifiers: Verifiers, task: Task, solution: Solution, representatives: dict[int, str]
) -> int | None:
    """The first class whose first answer, as the reference, makes this solution correct."""
    for number, reference in representatives.items():
        if verifiers.verify(replace(task, reference=reference), solution).passed:
            return number
    return None


def _spelling(answer: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", answer).split())
