"""The compact critique grammar of tiny models, for solutions of the chain dialect.

    critique   = step* "~" bucket
    step       = id "."                  the step is right
               | id "x" digit digit      the first wrong step: its right sum, digits reversed; the
                                         walk over the steps ends here
    bucket     = digit                   p_sound = (bucket + 0.5) / 10

`a.b.c.d.>.~9` finds nothing wrong; `a.b.cx21~0` says that step c should have reached 12. Every step
up to the first wrong one must be judged, in order. Of a malformed solution only the steps that the
solution parser recovered can be judged, and the walk may end after any of them.

Leaves out whether a claim is true (`meta`).
"""

import random
import re

from critic.critique import Critique, Flaw, ParseFailure, SoundOrFlawed, StepJudgement
from data.records import Task
from rewards.dialect import ChainDialect, Solution

_DIGITS = "0123456789"
_OPERAND = re.compile(r"([a-z])([0-9]+)")
_STATED = re.compile(r"[=>]([0-9]{2})$")
_SOLUTION_DIALECT = ChainDialect()


def right_sum(task: Task, solution: Solution, index: int) -> int | None:
    """Recompute what step `index` should have stated, given what the step before it stated.

    Returns:
        The sum modulo 100 (the grammar has two digits), or None where the step before states no
        sum. A step without an operand in the task should have left the sum as it was.
    """
    stated = stated_sum(solution.steps[index - 1].text) if index else 0
    if stated is None:
        return None
    return (stated + _operands(task).get(solution.steps[index].id, 0)) % 100


def stated_sum(step_text: str) -> int | None:
    """Read the sum that a step of a chain solution states, None if it states none."""
    match = _STATED.search(step_text.strip())
    return int(match.group(1)[::-1]) if match else None


def _operands(task: Task) -> dict[str, int]:
    labelled = _OPERAND.findall(_SOLUTION_DIALECT.render_problem(task))
    return {label: int(operand) for label, operand in labelled}


class ChainCritique:
    """Prompts, parses and demonstrates critiques in the compact grammar."""

    name = "chain"

    def render_prompt(self, problem: str, solution: str) -> str:
        """Ask for a critique: the critic sees the problem and the solution, nothing else."""
        return f"{problem}{solution}\n!"

    def parse(self, text: str, solution: Solution, *, truncated: bool) -> Critique | ParseFailure:
        """Read a critique of `solution`; any string gives a critique or a named failure."""
        if truncated:
            return ParseFailure("truncated")
        walk, mark, bucket = text.partition("~")
        if not mark:
            return ParseFailure("no_confidence")
        if len(bucket) != 1 or bucket not in _DIGITS:
            return ParseFailure("bad_confidence")
        judged = _parse_walk(walk, solution)
        if isinstance(judged, ParseFailure):
            return judged
        steps, flaws = judged
        p_sound = (int(bucket) + 0.5) / 10
        verdict: SoundOrFlawed = "flawed" if flaws or p_sound < 0.5 else "sound"
        return Critique(steps, flaws, verdict, p_sound)

    def write_critique(self, task: Task, solution: Solution, rng: random.Random) -> str:
        """Write a true critique of `solution`, for the cold start.

        Buckets are drawn from the top (nothing wrong) or bottom three, so that a model trained on
        demonstrations still explores the confidences that RL is to calibrate.
        """
        valid = _SOLUTION_DIALECT.check_steps(task, solution) or ()
        walk = ""
        for index, (step, ok) in enumerate(zip(solution.steps, valid, strict=False)):
            walk += f"{step.id}{'.' if ok else 'x'}"
            if not ok:
                value = right_sum(task, solution, index) or 0
                walk += f"{value:02d}"[::-1]
                break
        num_steps = len(_operands(task)) + 1  # one for each operand and the final answer
        sound = solution.defect is None and len(valid) == num_steps and all(valid)
        doubt = rng.choices((0, 1, 2), weights=(7, 2, 1))[0]
        return f"{walk}~{9 - doubt if sound else doubt}"


def _parse_walk(
    walk: str, solution: Solution
) -> tuple[tuple[StepJudgement, ...], tuple[Flaw, ...]] | ParseFailure:
    steps: list[StepJudgement] = []
    position = 0
    for step in solution.steps:
        if position == len(walk) and solution.defect is not None:
            break
        if not walk.startswith(step.id, position):
            return ParseFailure("unexpected_step" if position < len(walk) else "missing_step")
        position += len(step.id)
        mark = walk[position : position + 1]
        position += 1
        if mark == ".":
            steps.append(StepJudgement(step.id, True))
        elif mark == "x":
            digits = walk[position:]
            if len(digits) != 2 or any(digit not in _DIGITS for digit in digits):
                return ParseFailure("bad_payload")
            flaw = Flaw(step.id, step.text, "sum", "recompute", str(int(digits[::-1])))
            return (*steps, StepJudgement(step.id, False)), (flaw,)
        else:
            return ParseFailure("bad_mark")
    if position != len(walk):
        return ParseFailure("unexpected_step")
    return tuple(steps), ()
