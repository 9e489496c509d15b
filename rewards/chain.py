"""The compact dialect of tiny models: running values, least significant digit first.

The problem `Calculate 4 + 1 + 7 + 10.` becomes `a4b1c7d10` and a newline. The
solution restates every labelled operand with the running value up to it, reversed
and padded to two digits, and ends with the last one:

    a4=40
    b1=50
    c7=21
    d10=22>22

A product differs in its problem alone, which opens with a star: `*a6b3c7` is solved by
`a6=60`, `b3=81`, `c7=621>621`. So does doubling with a digit added, which opens with a two:
`2a6b3c7` is solved by `a6=60`, `b3=51`, `c7=73>73`. Reversed digits let a model that writes left
to right carry as people do. What the operations do is in `rewards.operations`, what can go wrong in
`rewards.mistakes`; nothing here verifies an answer.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_lowercase

from data.errors import UserError
from data.records import Task
from rewards.mistakes import Mistake, Place, Stated, kind_of, mistakes_at
from rewards.operations import DOUBLE_AND_ADD, MAX_DIGITS, OPERATIONS, PRODUCT, Chain
from rewards.solution import Solution, Step

FINAL_STEP = ">"
MAX_TERMS = len(ascii_lowercase)
# How often an unreliable solver slips in which way, where it has the choice. It never answers
# early: a demonstration of that would teach to stop.
SLIP_WEIGHTS: Mapping[Mistake, float] = {
    "forgotten_carry": 8,
    "off_by_one": 2,
    "skipped_term": 1,
    "wrong_operation": 1,
    "wrong_operand": 1,
    "swapped_digits": 1,
    "miscopied_operand": 1,
    "miscopied_answer": 1,
}
# The same kinds and a wrong digit, each as often as any other: what a critic should know. But a
# misread operand, which only a look at the problem shows: a critic learns that last.
EVEN_SLIPS: Mapping[Mistake, float] = {
    **dict.fromkeys((*SLIP_WEIGHTS, "wrong_digit"), 1),
    "miscopied_operand": 4,
}

_NUMBER = rf"(?:0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})"
# Two digits, or more with no zero at the end: a number has exactly one spelling.
_RUNNING = rf"(?:[0-9]{{2,{MAX_DIGITS - 1}}}[1-9]|[0-9]{{2}})"
_STEP = re.compile(rf"([a-z])({_NUMBER})=({_RUNNING})")
_FINAL = re.compile(rf">({_RUNNING})")
_TERM = rf"[0-9]{{1,{MAX_DIGITS}}}"
_SYMBOLS = "[" + "".join(operation.symbol for operation in OPERATIONS) + "]"
_QUESTION = re.compile(
    rf"([A-Za-z: ]*?)({_TERM}(?:\s*{_SYMBOLS}\s*{_TERM})*)\s*[.?]?\s*"
    r"(?:Give only the result as your final answer\.\s*)?"
)


@dataclass(frozen=True)
class StepParts:
    """The content of one step; `label` is None at the final `>` and so is `operand`."""

    label: str | None
    operand: int | None
    value_text: str

    @property
    def stated_value(self) -> int:
        """The running value this step states, as a number."""
        return decode_value(self.value_text)


def encode_value(value: int) -> str:
    """Write a running value reversed, at least two digits: 3 is `30`, 105 is `501`."""
    if value < 0:
        raise ValueError(f"a chain's running value must be 0 or more, got {value}")
    return f"{value:02d}"[::-1]


def decode_value(text: str) -> int:
    """Read what `encode_value` wrote."""
    return int(text[::-1])


def chain_of(task: Task) -> Chain:
    """The task as a chain; see `read_chain` for the errors."""
    return read_chain(task.question)


@lru_cache(maxsize=4096)
def read_chain(question: str) -> Chain:
    """The operation and the operands that a question names.

    Raises:
        UserError: the question is not a sum, a product or a doubling of 1 to 26 whole numbers.
    """
    match = _QUESTION.fullmatch(question)
    symbols = set(re.findall(_SYMBOLS, match[2])) if match is not None else set()
    # A comma alone says nothing: "Add 4, 5, 7." and "Calculate 1,000." are no doublings.
    is_list = DOUBLE_AND_ADD.symbol in symbols and DOUBLE_AND_ADD.word not in question
    if match is None or len(symbols) > 1 or is_list:
        raise UserError(
            "the chain dialect reads sums or products of whole numbers such as 'Calculate 4 + 1 + "
            f"7.', got {question!r}: use products, double_and_add, or basic_arithmetic with "
            "operators ['+'], no parentheses and no negation, or the tagged dialect"
        )
    named = (
        operation for operation in OPERATIONS
        if operation.symbol in symbols or (not symbols and operation.word in match[1])
    )  # fmt: skip
    operands = tuple(int(term) for term in re.findall(_TERM, match[2]))
    chain = Chain(next(named), operands)
    if len(operands) > MAX_TERMS or max(chain.values()) >= 10**MAX_DIGITS:
        raise UserError(
            f"the chain dialect covers {MAX_TERMS} terms and values below 10^{MAX_DIGITS}, got "
            f"{len(operands)} terms and {len(str(max(chain.values())))} digits in {question!r}: "
            "lower max_terms or max_digits"
        )
    return chain


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


def stated(step: Step) -> Stated:
    """What a parsed step says, as numbers."""
    parts = step_parts(step)
    return Stated(parts.operand, parts.stated_value)


def place_of(chain: Chain, solution: Solution, index: int) -> Place:
    """Where step `index` stands, given what was stated just before it."""
    before = solution.steps[index - 1] if index else None
    previous = chain.operation.identity if before is None else step_parts(before).stated_value
    return Place(chain, index, previous)


def due_value(task: Task, solution: Solution, index: int) -> int | None:
    """The value that step `index` should state, given the one stated just before it.

    None where no value can repair the step: a wrong operand, a step beyond the last term, or a
    final `>` before every term was used.
    """
    chain = chain_of(task)
    due = place_of(chain, solution, index).due
    repairable = due.operand == step_parts(solution.steps[index]).operand
    return due.value if repairable and index <= len(chain.operands) else None


def write_step(index: int, stated: Stated) -> str:
    """The text of one step."""
    if stated.operand is None:
        return FINAL_STEP + encode_value(stated.value)
    return f"{ascii_lowercase[index]}{stated.operand}={encode_value(stated.value)}"


def write_steps(said: list[Stated]) -> str:
    """The text of a whole solution, the final answer last."""
    *lines, final = [write_step(index, each) for index, each in enumerate(said)]
    return "\n".join(lines) + final


class ChainDialect:
    """Labelled operands with reversed running values (module docstring).

    Args:
        slip_weights: how often demonstrations slip in which way, where they have the choice.
    """

    name = "chain"
    conversational = False

    def __init__(self, slip_weights: Mapping[Mistake, float] = SLIP_WEIGHTS) -> None:
        self._slip_weights = slip_weights

    def render_problem(self, task: Task) -> str:
        """Write `a4b1c7d10` and a newline."""
        return _render(chain_of(task)) + "\n"

    def shown(self, question: str) -> str | None:
        """The problem as it is rendered; None for a product with a zero.

        A zero swallows every mistake before it, so that such a product asks for nothing.

        Raises:
            UserError: the question is not a chain.
        """
        chain = read_chain(question)
        swallows = chain.operation is PRODUCT and 0 in chain.operands
        return None if swallows else _render(chain)

    def parse_solution(self, text: str, *, truncated: bool) -> Solution:
        """Read steps until the final value or the first character that leaves the grammar.

        Defects: `truncated` (the caller's flag), `no_answer` (well-formed steps, then
        nothing), `bare_answer` (a final value without steps), `bad_steps` (anything else).
        """
        steps, position = _read_steps(text)
        final = _FINAL.match(text, position)
        if final is not None:
            position = final.end()
            steps.append(Step(FINAL_STEP, final.start(), final.end(), final[0]))
        defect = _defect(text, steps, position, truncated)
        answer = str(decode_value(final[1])) if final is not None and defect is None else None
        return Solution(text, tuple(steps), answer, defect)

    def check_steps(self, task: Task, solution: Solution) -> tuple[bool, ...]:
        """Check each step against the task and the value stated just before it.

        A step after a slip is valid if it continues correctly from the wrong value. The
        final step is valid iff it repeats the last stated value and every term was used.
        """
        return tuple(
            due_value(task, solution, index) == step_parts(step).stated_value
            for index, step in enumerate(solution.steps)
        )

    def right_step(self, task: Task, solution: Solution, index: int) -> str:
        """The step that should stand at `index`, given the value stated just before it.

        It always exists: a wrong operand is replaced by the task's, a premature answer by the next
        term, and a step beyond the last term by the answer.
        """
        return write_step(index, place_of(chain_of(task), solution, index).due)

    def kind_of_mistake(self, task: Task, solution: Solution, index: int) -> str:
        """What happened at a step that does not hold (`rewards.mistakes`)."""
        return kind_of(place_of(chain_of(task), solution, index), stated(solution.steps[index]))

    def write_solution(self, task: Task, rng: random.Random, slip_rate: float) -> str:
        """Write a demonstration, as an unreliable solver would.

        Args:
            task: a task of the chain dialect.
            rng: chooses where it slips, and how.
            slip_rate: chance in [0, 1] that a step after the first, the final one included, slips
                in one of the ways that are possible there; later steps continue from the wrong
                value.

        Raises:
            UserError: the task is not a chain.
            ValueError: the rate lies outside [0, 1].
        """
        if not 0 <= slip_rate <= 1:
            raise ValueError(f"slip_rate must lie in [0, 1], got {slip_rate}: it is a probability")
        chain = chain_of(task)
        value, said = chain.operation.identity, list[Stated]()
        for index in range(len(chain.operands) + 1):
            place = Place(chain, index, value)
            slip = self._slip(place, rng) if index and rng.random() < slip_rate else None
            said.append(slip or place.due)
            value = said[-1].value
        return write_steps(said)

    def _slip(self, place: Place, rng: random.Random) -> Stated | None:
        """A slip of one of the kinds that are possible here; None where none is."""
        weights = dict(self._slip_weights)
        while weights:
            (kind,) = rng.choices(list(weights), list(weights.values()))
            if variants := mistakes_at(place, kind):
                return rng.choice(variants)
            del weights[kind]
        return None


def _render(chain: Chain) -> str:
    return chain.operation.mark + "".join(
        f"{label}{operand}" for label, operand in zip(ascii_lowercase, chain.operands, strict=False)
    )


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
