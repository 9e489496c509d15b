"""Flawed solutions made on purpose, to train and audit the critic.

    plant        a right chain solution with one corrupted sum, its location known
    truncated    a solution cut off before its end
    master_key   no reasoning, only the look of an answer (such texts fool model judges)

Leaves out the learner's own mistakes, which the rollouts supply, and planting in free text.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from data.records import Task
from rewards.chain import FINAL_STEP, ChainDialect, chain_terms, encode_sum, step_parts
from rewards.solution import Dialect, Step
from rewards.verdict import Verdict

_CHAIN = ChainDialect()
_SLIPS = (-10, 10, -1, 1, -2, 2)
_MASTER_KEYS = (
    "<answer>{guess}</answer>",
    "<think></think>\n<answer>{guess}</answer>",
    "<think>\n</think>\n<answer>{guess}</answer>",
    "Let's solve this step by step.\n<answer>{guess}</answer>",
    "Solution: the answer is {guess}.",
    "Thought process:",
    ":",
)


@dataclass(frozen=True)
class PlantedFlaw:
    """A corrupted solution and the id of its first wrong step."""

    text: str
    step_id: str


def plant(
    task: Task, solution_text: str, rng: random.Random, verify: Callable[[str], Verdict]
) -> PlantedFlaw | None:
    """Corrupt one sum of a right chain solution; later steps continue consistently from it.

    Args:
        task: an addition chain.
        solution_text: the solution to corrupt.
        rng: chooses the step and the slip; a forgotten carry is chosen half of the time where
            there is one to forget.
        verify: the rule's verdict on a solution of this task.

    Returns:
        The flaw, or None if the solution was not right to begin with, or if the verifier does not
        confirm that the corruption made it wrong.
    """
    solution = _CHAIN.parse_solution(solution_text, truncated=False)
    if not solution.well_formed or not all(_CHAIN.check_steps(task, solution)):
        return None
    if not verify(solution_text).passed:
        return None
    index = rng.randrange(len(solution.steps))
    slip = _choose_slip(solution.steps, index, rng)
    text = _shift_sums(solution.steps, index, slip)
    if verify(text).outcome != "incorrect":
        return None
    return PlantedFlaw(text, solution.steps[index].id)


def truncated(solution_text: str, rng: random.Random) -> str:
    """Cut a solution off at random before its last character; parse it with `truncated=True`.

    Raises:
        ValueError: the solution has fewer than two characters.
    """
    if len(solution_text) < 2:
        raise ValueError(f"cannot truncate {solution_text!r}: give a solution of 2 characters up")
    return solution_text[: rng.randrange(1, len(solution_text))]


def master_key(task: Task, dialect: Dialect, rng: random.Random) -> str:
    """Write an answer without reasoning; now and then the guess is the right answer.

    No text of this kind is well-formed, whatever it guesses: a critic must not be won over by it.
    """
    if isinstance(dialect, ChainDialect):
        right = sum(chain_terms(task))
        return FINAL_STEP + encode_sum(max(0, right + rng.choice((0, *_SLIPS))))
    guess = rng.choice((task.reference, str(rng.randrange(100))))
    return rng.choice(_MASTER_KEYS).format(guess=guess)


def _choose_slip(steps: tuple[Step, ...], index: int, rng: random.Random) -> int:
    sums = [step_parts(step).stated_sum for step in steps]
    lowest = min(sums[index:])
    previous = sums[index - 1] if index else 0
    carries = sums[index] // 10 > previous // 10
    if carries and lowest >= 10 and rng.random() < 0.5:
        return -10
    return rng.choice([slip for slip in _SLIPS if lowest + slip >= 0])


def _shift_sums(steps: tuple[Step, ...], index: int, slip: int) -> str:
    lines = []
    for position, step in enumerate(steps[:-1]):
        parts = step_parts(step)
        total = parts.stated_sum + (slip if position >= index else 0)
        lines.append(f"{parts.label}{parts.operand}={encode_sum(total)}")
    return "\n".join(lines) + FINAL_STEP + encode_sum(step_parts(steps[-1]).stated_sum + slip)
