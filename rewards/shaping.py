"""What a solution earns for its form and pays for its length, beside the verifier's outcome.

Leaves out the weights (`[rewards]`) and the outcome itself (`verifiers.py`).
"""

from dataclasses import replace

from rewards.free import final_answer
from rewards.solution import Solution


def overlength(num_tokens: int, limit: int, allowance: float) -> float:
    """How much too long a completion is: the soft punishment of DAPO (arXiv:2503.14476, Eq. 13).

    Args:
        num_tokens: of the completion.
        limit: the most tokens that it may have.
        allowance: the share of `limit` that costs nothing, from 0 to below 1.

    Returns:
        0 within the allowance, 1 at the limit, and straight between them.
    """
    beyond = (num_tokens / limit - allowance) / (1 - allowance)
    return min(1.0, max(0.0, beyond))


def readable(solution: Solution, answer_in: str = "any") -> Solution:
    """A malformed solution as if its form were right, where it gives an answer all the same.

    Args:
        answer_in: where its dialect reads an answer (`rewards.free.PLACES`).
    """
    if solution.defect in (None, "truncated"):
        return solution
    answer = final_answer(solution.text, answer_in)
    return solution if answer is None else replace(solution, answer=answer, defect=None)
