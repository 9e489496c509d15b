"""The meta-check: are the critic's own claims true?

    what is known of the solution        claim                                     result
    its first flaw                       the first claim, at that step             confirmed
                                         the first claim, at another               refuted
                                         a further claim                           uncheckable
    that it passed                       any                                       refuted
    that it failed                       recompute: an equation of the step is
                                           false, and the payload is its value     confirmed
                                         recompute: otherwise, where the step
                                           states equations                        refuted
                                         anything else                             uncheckable
    anything                             the quote is empty or not in the step,
                                           or there is no such step                refuted

Leaves out who knows the first flaw (`pipelines/game/`), executed counterexamples, and judgement by
another model.
"""

from dataclasses import dataclass
from typing import Literal

from critic.critique import Critique, Flaw
from data.records import Task
from rewards.arithmetic import Equation, equations_in, evaluate
from rewards.solution import Dialect, Solution, first_bad_step

ClaimStatus = Literal["confirmed", "refuted", "uncheckable"]


@dataclass(frozen=True)
class ClaimResult:
    """A claim and what checking it found."""

    flaw: Flaw
    status: ClaimStatus


def check_claims(
    solution: Solution,
    critique: Critique,
    first_bad: str | None,
    sound: bool,
    checks_steps: bool = True,
) -> tuple[ClaimResult, ...]:
    """Check every claim of a critique, in the order of the solution's steps.

    Args:
        solution: what is criticised.
        critique: of it.
        first_bad: id of the first flawed step, None where it is unknown.
        sound: whether the rule passed the solution.
        checks_steps: whether code may look into a step of a solution whose flaw is unknown.
    """
    order = {step.id: index for index, step in enumerate(solution.steps)}
    flaws = sorted(critique.flaws, key=lambda flaw: order.get(flaw.step, len(order)))
    results = []
    for place, flaw in enumerate(flaws):
        index = order.get(flaw.step)
        if index is None or not flaw.quote or flaw.quote not in solution.steps[index].text:
            status: ClaimStatus = "refuted"
        elif first_bad is not None and place > 0:
            status = "uncheckable"
        elif first_bad is not None:
            status = "confirmed" if flaw.step == first_bad else "refuted"
        elif sound:
            status = "refuted"
        elif checks_steps:
            status = _check_arithmetic(solution.steps[index].text, flaw)
        else:
            status = "uncheckable"
        results.append(ClaimResult(flaw, status))
    return tuple(results)


def known_first_bad(task: Task, solution: Solution, dialect: Dialect) -> str | None:
    """Id of the first step that code shows to be wrong, None where it shows none."""
    index = first_bad_step(dialect.check_steps(task, solution))
    return None if index is None else solution.steps[index].id


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
