"""Several verifiers of one answer, and what their verdicts come to together.

A part that ran out of time or failed has said nothing. The whole is decided where the others decide
it, and says nothing itself where they do not. Leaves out the parts' verifiers (`verifiers.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from data.records import Task
from data.verifier_parameters import CompositeParameters, check_parameters, read_parameters
from rewards.solution import Solution
from rewards.verdict import Verdict

NAME = "composite"
VERSION = "1"


def part_tasks(task: Task) -> list[Task]:
    """The task as each part of its verifier sees it.

    Raises:
        UserError: its parameters are not those of a composite.
    """
    parts = read_parameters(CompositeParameters, NAME, task.entry).parts
    return [
        replace(
            task, verifier=check_parameters(part.verifier, part.parameters),
            reference=task.reference if part.reference is None else part.reference,
            entry=part.parameters,
        )
        for part in parts
    ]  # fmt: skip


def verify_composite(
    task: Task, solution: Solution, verify: Callable[[Task, Solution], Verdict]
) -> Verdict:
    """Judge a solution by all parts, or until one of them decides.

    Raises:
        UserError: the task's parameters are not those of a composite.
    """
    require = read_parameters(CompositeParameters, NAME, task.entry).require
    found = list[Verdict]()
    for part in part_tasks(task):
        found.append(verify(part, solution))
        if found[-1].counted and found[-1].passed == (require == "any"):
            break
    return combined(found, require)


def combined(verdicts: Sequence[Verdict], require: Literal["all", "any"]) -> Verdict:
    """What the parts' verdicts come to: a failure decides "all", a pass decides "any".

    Where none decides, the first part that said nothing makes the whole say nothing.
    """
    decisive = require == "any"
    counted = [one for one in verdicts if one.counted]
    decided = next((one for one in counted if one.passed == decisive), None)
    silent = next((one for one in verdicts if not one.counted), None)
    if decided is None and silent is not None:
        detail = f"{silent.verifier}: {silent.detail}"
        return Verdict(silent.outcome, NAME, VERSION, None, detail)
    last = decided or counted[-1]
    detail = "" if last.passed else f"{last.verifier}: {last.detail or last.outcome}"
    return Verdict(last.outcome, NAME, VERSION, float(last.passed), detail)
