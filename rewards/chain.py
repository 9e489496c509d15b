"""The compact dialect of tiny models: running sums, least significant digit first.

The problem `Calculate 4 + 1 + 7 + 10.` becomes `a4b1c7d10` and a newline. The
solution restates every labelled operand with the running sum up to it, reversed
and padded to two digits, and ends with the total:

    a4=40
    b1=50
    c7=21
    d10=22>22

Reversed digits let a model that writes left to right carry as people do. Only
chains of additions of whole numbers are covered; nothing here verifies an answer.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase

from data.errors import UserError
from data.records import Task
from rewards.solution import Solution, Step

FINAL_STEP = ">"
MAX_TERMS = len(ascii_lowercase)
MAX_DIGITS = 8  # bounds int(); far above any sum these models meet

_NUMBER = rf"(?:0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})"
# Two digits, or more with no zero at the end: a number has exactly one spelling.
_SUM = rf"(?:[0-9]{{2,{MAX_DIGITS - 1}}}[1-9]|[0-9]{{2}})"
_STEP = re.compile(rf"([a-z])({_NUMBER})=({_SUM})")
_FINAL = re.compile(rf">({_SUM})")
_TERM = rf"[0-9]{{1,{MAX_DIGITS}}}"
_QUESTION = re.compile(rf"[A-Za-z: ]*?({_TERM}(?:\s*\+\s*{_TERM})*)\s*[.?]?\s*")


@dataclass(frozen=True)
class StepParts:
    """The content of one step; `label` is None at the final `>` and so is `operand`."""

    label: str | None
    operand: int | None
    sum_text: str

    @property
    def stated_sum(self) -> int:
        """The sum this step states, as a number."""
        return decode_sum(self.sum_text)


def encode_sum(value: int) -> str:
    """Write a sum reversed, at least two digits: 3 is `30`, 12 is `21`, 105 is `501`."""
    if value < 0:
        raise ValueError(f"a chain's sum must be 0 or more, got {value}: use additions only")
    return f"{value:02d}"[::-1]


def decode_sum(text: str) -> int:
    """Read what `encode_sum` wrote."""
    return int(text[::-1])


def chain_terms(task: Task) -> tuple[int, ...]:
    """The operands of an addition chain, from the task's question.

    Raises:
        UserError: the question is not a sum of 1 to 26 whole numbers.
    """
    match = _QUESTION.fullmatch(task.question)
    if match is None:
        raise UserError(
            f"the chain dialect reads sums of whole numbers such as 'Calculate 4 + 1 + 7.', got "
            f"{task.question!r} (task {task.id}): use basic_arithmetic with operators ['+'], "
            "no parentheses and no negation, or the tagged dialect"
        )
    terms = tuple(int(term) for term in match[1].split("+"))
    if len(terms) > MAX_TERMS or sum(terms) >= 10**MAX_DIGITS:
        raise UserError(
            f"the chain dialect covers {MAX_TERMS} terms and sums below 10^{MAX_DIGITS}, got "
            f"{len(terms)} terms and sum {sum(terms)} (task {task.id}): lower max_terms or "
            "max_digits"
        )
    return terms


def step_parts(step: Step) -> StepParts:
    """Take one parsed step apart.

    Raises:
        ValueError: the step was not made by `ChainDialect.parse_solution`.
    """
    if match := _STEP.fullmatch(step.text):
        return StepParts(match[1], int(match[2]), match[3])
    if match := _FINAL.fullmatch(step.text):
        return StepParts(None, None, match[1])
    raise ValueError(f"{step.text!r} is not a step of the chain dialect: parse the solution first")


def due_sum(task: Task, solution: Solution, index: int) -> int | None:
    """The sum that step `index` should state, given the sum stated just before it.

    None where no sum can repair the step: a wrong label or operand, a step beyond
    the last term, or a final `>` before every term was used.
    """
    terms = chain_terms(task)
    parts = step_parts(solution.steps[index])
    previous = step_parts(solution.steps[index - 1]).stated_sum if index else 0
    if parts.operand is None:
        return previous if index == len(terms) else None
    if index >= len(terms) or parts.label != ascii_lowercase[index]:
        return None
    return previous + terms[index] if parts.operand == terms[index] else None


class ChainDialect:
    """Labelled operands with reversed running sums (module docstring)."""

    name = "chain"
    conversational = False

    def render_problem(self, task: Task) -> str:
        """Write `a4b1c7d10` and a newline."""
        terms = chain_terms(task)
        return "".join(f"{label}{term}" for label, term in _labelled(terms)) + "\n"

    def parse_solution(self, text: str, *, truncated: bool) -> Solution:
        """Read steps until the final sum or the first character that leaves the grammar.

        Defects: `truncated` (the caller's flag), `no_answer` (well-formed steps, then
        nothing), `bare_answer` (a final sum without steps), `bad_steps` (anything else).
        """
        steps, position = _read_steps(text)
        final = _FINAL.match(text, position)
        if final is not None:
            position = final.end()
            steps.append(Step(FINAL_STEP, final.start(), final.end(), final[0]))
        defect = _defect(text, steps, position, truncated)
        answer = str(decode_sum(final[1])) if final is not None and defect is None else None
        return Solution(text, tuple(steps), answer, defect)

    def check_steps(self, task: Task, solution: Solution) -> tuple[bool, ...]:
        """Check each step against the task and the sum stated just before it.

        A step after a slip is valid if it continues correctly from the wrong sum. The
        final step is valid iff it repeats the last stated sum and every term was used.
        """
        return tuple(
            due_sum(task, solution, index) == step_parts(step).stated_sum
            for index, step in enumerate(solution.steps)
        )

    def kind_of_mistake(self, task: Task, solution: Solution, index: int) -> str:
        """Name the kind of mistake that step `index` makes."""
        return "other"

    def write_solution(self, task: Task, rng: random.Random, slip_rate: float) -> str:
        """Write a demonstration, with the human slip of a forgotten carry.

        Args:
            task: an addition chain.
            rng: drawn from once at every step whose ones overflow.
            slip_rate: chance in [0, 1] that such a step forgets its carry; the later
                steps then continue from the wrong sum.

        Raises:
            UserError: the task is not an addition chain.
            ValueError: the rate lies outside [0, 1].
        """
        if not 0 <= slip_rate <= 1:
            raise ValueError(f"slip_rate must lie in [0, 1], got {slip_rate}: it is a probability")
        total, lines = 0, []
        for label, term in _labelled(chain_terms(task)):
            overflow = total % 10 + term % 10 >= 10
            total += term
            if overflow and rng.random() < slip_rate:
                total -= 10
            lines.append(f"{label}{term}={encode_sum(total)}")
        return "\n".join(lines) + FINAL_STEP + encode_sum(total)


def _labelled(terms: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    return zip(ascii_lowercase, terms, strict=False)


def _read_steps(text: str) -> tuple[list[Step], int]:
    """Read labelled steps in alphabetical order; also return where reading stopped."""
    steps: list[Step] = []
    position = 0
    for label in ascii_lowercase:
        start = position
        if steps:
            if not text.startswith("\n", position):
                break
            start += 1
        match = _STEP.match(text, start)
        if match is None or match[1] != label:
            break
        position = match.end()
        steps.append(Step(label, start, position, match[0]))
    return steps, position


def _defect(text: str, steps: list[Step], position: int, truncated: bool) -> str | None:
    if truncated:
        return "truncated"
    if position < len(text):
        return "bad_steps"
    if not steps or steps[-1].id != FINAL_STEP:
        return "no_answer"
    return "bare_answer" if len(steps) == 1 else None
