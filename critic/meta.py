"""The meta-check: are the critic's own claims true?

Every claim ends confirmed, refuted or uncheckable, by code alone:

    claim                                                            result
    quote is empty or not in the step; no such step                  refuted
    chain: the step is right, or the recomputed sum is wrong         refuted
    chain: the step is wrong and the recomputed sum is right         confirmed
    tagged, recompute: an equation of the step is false and the
      payload is its value                                           confirmed
    tagged, recompute: otherwise, where the step states equations    refuted
    tagged, anything else                                            uncheckable

A right location with a wrong recomputation is refuted: the evidence is what is checked, and a
critic that points without being able to show why is not to be trusted. Leaves out executed
counterexamples and judgement by another model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from critic.critique import Critique, Flaw, ParseFailure
from critic.format_chain import right_sum
from data.records import Task
from rewards.aggregate import CriticView
from rewards.arithmetic import Equation, equations_in, evaluate
from rewards.chain import ChainDialect
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
            status = _check_arithmetic(solution.steps[index].text, flaw)
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


def _check_arithmetic(step_text: str, flaw: Flaw) -> ClaimStatus:
    equations = equations_in(step_text)
    if flaw.evidence_kind != "recompute" or not equations:
        return "uncheckable"
    recomputed = flaw.payload.rpartition("=")[2]  # "12", or "5 + 7 = 12"
    value = evaluate(recomputed)
    if value is None:
        return "refuted"
    decimals = _decimals(recomputed)
    wrong = [equation.left for equation in equations if not equation.holds]
    found = any(Equation(left, value, decimals).holds for left in wrong)
    return "confirmed" if found else "refuted"


def _decimals(number: str) -> int | None:
    point = number.strip().partition(".")[2]
    return len(point) if point.isascii() and point.isdigit() else None
