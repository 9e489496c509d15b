"""The meta-check: are the critic's own claims true?

    what is known of the solution        claim                                     result
    its first flaw                       the first claim, at that step             confirmed
                                         the first claim, at another               refuted
                                         a further claim                           uncheckable
    that it passed                       any                                       refuted
    that it failed                       an equation of the step is false; where
                                           the claim has a value, it is its value  confirmed
                                         another value, where the step states
                                           equations                               refuted
                                         anything else                             uncheckable
    anything                             the quote is empty or not in the step,
                                           or there is no such step                refuted

Leaves out who knows the first flaw (`pipelines/game/`), executed counterexamples, and judgement by
another model.
"""

import re
from dataclasses import dataclass
from typing import Literal

from critic.critique import Critique, Flaw
from data.records import Task
from rewards.arithmetic import Equation, equations_of_steps, evaluate
from rewards.notation import plainly
from rewards.solution import Dialect, Solution, first_bad_step

ClaimStatus = Literal["confirmed", "refuted", "uncheckable"]


@dataclass(frozen=True)
class ClaimResult:
    """A claim and what checking it found."""

    flaw: Flaw
    status: ClaimStatus


def check_claims(
    task: Task,
    solution: Solution,
    critique: Critique,
    first_bad: str | None,
    sound: bool,
    checks_steps: bool = True,
) -> tuple[ClaimResult, ...]:
    """Check every claim of a critique, in the order of the solution's steps.

    Args:
        task: what was asked.
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
            status = _check_arithmetic(task, solution, index, flaw)
        else:
            status = "uncheckable"
        results.append(ClaimResult(flaw, status))
    return tuple(results)


def known_first_bad(task: Task, solution: Solution, dialect: Dialect) -> str | None:
    """Id of the first step that code shows to be wrong, None where it shows none."""
    index = first_bad_step(dialect.check_steps(task, solution))
    return None if index is None else solution.steps[index].id


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
