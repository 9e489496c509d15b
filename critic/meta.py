"""The meta-check: are the critic's own claims true?

Every claim ends confirmed, refuted or uncheckable, by code alone:

    claim                                                            result
    quote is empty or not in the step; no such step                  refuted
    chain: the step is right, or the recomputed sum is wrong         refuted
    chain: the step is wrong and the recomputed sum is right         confirmed
    tagged, a value: an equation of the step is false and the
      value is what it should have been                              confirmed
    tagged, another value, where the step states equations           refuted
    tagged, no value, and an equation of the step is false           confirmed
    tagged, anything else                                            uncheckable

A right location with a wrong recomputation is refuted: a claim is checked as a whole, and a critic
that shows the wrong reason is not to be trusted. Leaves out judgement by another model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from critic.critique import Critique, Flaw, ParseFailure
from critic.format_chain import right_sum
from data.records import Task
from rewards.aggregate import CriticView
from rewards.arithmetic import Equation, equations_of_steps, evaluate
from rewards.chain import ChainDialect
from rewards.notation import plainly
from rewards.solution import Dialect, Solution, first_bad_step

ClaimStatus = Literal["confirmed", "refuted", "uncheckable"]


@dataclass(frozen=True)
class ClaimResult:
    """A claim and what checking it found."""

    flaw: Flaw
    status: ClaimStatus


def check_claims(
    task: Task, solution: Solution, critique: Critique, dialect: Dialect
) -> tuple[ClaimResult, ...]:
    """Check every claim of a critique by code, in the order of the solution's steps."""
    order = {step.id: index for index, step in enumerate(solution.steps)}
    flaws = sorted(critique.flaws, key=lambda flaw: order.get(flaw.step, len(order)))
    results = []
    for flaw in flaws:
        index = order.get(flaw.step)
        if index is None or not flaw.quote or flaw.quote not in solution.steps[index].text:
            status: ClaimStatus = "refuted"
        elif isinstance(dialect, ChainDialect):
            status = _check_chain(task, solution, index, flaw, dialect)
        else:
            status = _check_arithmetic(task, solution, index, flaw)
        results.append(ClaimResult(flaw, status))
    return tuple(results)


def known_first_bad(task: Task, solution: Solution, dialect: Dialect) -> str | None:
    """Id of the first step that code shows to be wrong, None where it shows none."""
    index = first_bad_step(dialect.check_steps(task, solution))
    return None if index is None else solution.steps[index].id


def is_checkable(task: Task, solution: Solution, dialect: Dialect) -> bool:
    """Whether code can check any step of this solution, and so any claim about it."""
    return dialect.check_steps(task, solution) is not None


def critic_view(
    critique: Critique | ParseFailure, claims: Sequence[ClaimResult], solution: Solution
) -> CriticView | None:
    """Condense a critique to what the learner's reward may use; None if it did not parse.

    `sound_share` counts the steps before the first *confirmed* flaw and is 0 without one: were an
    unlocated flaw worth more, a wrong answer would pay best by deceiving the critic.
    """
    if isinstance(critique, ParseFailure):
        return None
    confirmed = {claim.flaw.step for claim in claims if claim.status == "confirmed"}
    located = [index for index, step in enumerate(solution.steps) if step.id in confirmed]
    return CriticView(
        p_sound=critique.p_sound,
        sound_share=located[0] / len(solution.steps) if located else 0.0,
        confirmed_flaw=bool(confirmed),
    )


def _check_chain(
    task: Task, solution: Solution, index: int, flaw: Flaw, dialect: ChainDialect
) -> ClaimStatus:
    if dialect.check_steps(task, solution)[index]:
        return "refuted"
    return "confirmed" if flaw.payload == str(right_sum(task, solution, index)) else "refuted"


def _check_arithmetic(task: Task, solution: Solution, index: int, flaw: Flaw) -> ClaimStatus:
    texts = [step.text for step in solution.steps]
    equations = equations_of_steps(task.question, texts)[index]
    wrong = [equation.left for equation in equations if not equation.holds]
    if flaw.evidence_kind != "recompute":
        return "confirmed" if wrong else "uncheckable"
    recomputed = _stated_value(flaw.payload)
    value = evaluate(recomputed)
    if not equations or value is None:
        return "uncheckable"
    found = any(Equation(left, value, _decimals(recomputed)).holds for left in wrong)
    return "confirmed" if found else "refuted"


def _stated_value(payload: str) -> str:
    """The number of a payload: `12`, `5 + 7 = 12.`, `$12$`, `\\boxed{12}` or `12 apples`."""
    value = plainly(payload).rpartition("=")[2].strip(" $.*\t")
    return re.sub(r"(?<=[0-9)])[ \t]+[A-Za-z]+\Z", "", value)


def _decimals(number: str) -> int | None:
    point = number.strip().partition(".")[2]
    return len(point) if point.isascii() and point.isdigit() else None
