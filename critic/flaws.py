"""Flawed solutions made on purpose, to train and audit the critic.

A right chain solution gets one corrupted sum, whose location is known. Leaves out the learner's own
mistakes, which the rollouts supply, and planting in free text.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from data.records import Task
from rewards.chain import FINAL_STEP, ChainDialect, encode_sum, step_parts
from rewards.solution import Step
from rewards.verdict import Verdict

_CHAIN = ChainDialect()
_SLIPS = (-10, 10, -1, 1, -2, 2)


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
