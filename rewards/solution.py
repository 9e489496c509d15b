"""What a parsed solution is, and what a dialect must offer.

Holds the data (`Step`, `Solution`) and the `Dialect` protocol. The dialects
themselves live in `rewards.chain` and `rewards.tagged`; verifying an answer
is left to `rewards.verify`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from data.records import Task


@dataclass(frozen=True)
class Step:
    """One reasoning step: `text` is the completion's characters `start:end`."""

    id: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Solution:
    """A completion taken apart.

    `defect` is None for a well-formed text, else the name of what is wrong. A
    defective solution never has an answer; its `steps` are those that were read
    before the defect.
    """

    text: str
    steps: tuple[Step, ...]
    answer: str | None
    defect: str | None

    @property
    def well_formed(self) -> bool:
        """Whether the text obeys its dialect from the first character to the last."""
        return self.defect is None


class Dialect(Protocol):
    """How the learner's text looks: one way to write problems and to read solutions."""

    @property
    def name(self) -> str:
        """The name used in configs."""

    @property
    def conversational(self) -> bool:
        """Whether a problem goes through the tokenizer's chat template."""

    def render_problem(self, task: Task) -> str:
        """Write the task as the learner sees it."""

    def parse_solution(self, text: str, *, truncated: bool) -> Solution:
        """Take any text apart; never raises."""

    def check_steps(self, task: Task, solution: Solution) -> tuple[bool, ...] | None:
        """Say per step whether it holds, given what was stated before; None if code cannot say."""

    def kind_of_mistake(self, task: Task, solution: Solution, index: int) -> str:
        """Name the kind of mistake that step `index`, which does not hold, makes."""

    def write_solution(self, task: Task, rng: random.Random, slip_rate: float) -> str:
        """Write a demonstration.

        Raises:
            UserError: the dialect has no procedure for this task.
        """


def first_bad_step(flags: Sequence[bool] | None) -> int | None:
    """Index of the first step that does not hold, or None if none is known to fail."""
    if flags is None:
        return None
    return next((index for index, holds in enumerate(flags) if not holds), None)
