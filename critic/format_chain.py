"""The compact critique grammar of tiny models, for solutions of the chain dialect.

    critique   = step* "~" bucket
    step       = id sum "."      the step is right: it states the recomputed sum
               | id sum "x"      the first wrong step: it does not; the walk ends here
    sum        = digits          recomputed from the sum stated before, written as in the dialect
                                 (reversed, two digits or more)
    bucket     = digit           p_sound = (bucket + 0.5) / 10

`a40.b50.>50.~9` finds nothing wrong; `a40.b50.c21x~0` says that step c should have reached 12. The
critic recomputes before it judges: a tiny model compares two numbers that it can see far better
than it adds and compares in one token. A step marked right though the recomputed sum differs is a
parse failure. Every step up to the first wrong one must be judged, in order. Of a malformed
solution only the steps that the solution parser recovered can be judged, and the walk may end after
any of them.

Leaves out whether a claim is true (`meta`).
"""

import random
import re

from critic.critique import Critique, Flaw, ParseFailure, SoundOrFlawed, StepJudgement
from data.records import Task
from rewards.chain import MAX_DIGITS, ChainDialect, chain_terms, decode_sum, encode_sum, step_parts
from rewards.solution import Solution

_SOLUTION_DIALECT = ChainDialect()
_JUDGEMENT = re.compile(r"([0-9]+)([.x])")


def right_sum(task: Task, solution: Solution, index: int) -> int:
    """Recompute what step `index` should state, given the sum stated just before it.

    Unlike `due_sum` this always has an answer, so that every wrong step can be refuted with one:
    a wrong operand is replaced by the task's, a premature `>` by the next term's sum, and a step
    beyond the last term should have left the sum as it was.
    """
    terms = chain_terms(task)
    previous = step_parts(solution.steps[index - 1]).stated_sum if index else 0
    return previous + (terms[index] if index < len(terms) else 0)


class ChainCritique:
    """Prompts, parses and demonstrates critiques in the compact grammar."""

    name = "chain"

    def render_prompt(self, problem: str, solution: str) -> str:
        """Ask for a critique: the critic sees the problem and the solution, nothing else."""
        return f"{problem}{solution}\n!"

    def parse(self, text: str, solution: Solution, *, truncated: bool) -> Critique | ParseFailure:
        """Read a critique of `solution`; any string gives a critique or a named failure.

        The verdict is `flawed` if a step is marked wrong or `p_sound` lies below one half.
        """
        if truncated:
            return ParseFailure("truncated")
        walk, mark, bucket = text.partition("~")
        if not mark:
            return ParseFailure("no_confidence")
        if len(bucket) != 1 or not _is_digits(bucket):
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
        valid = _SOLUTION_DIALECT.check_steps(task, solution)
        walk = ""
        for index, (step, ok) in enumerate(zip(solution.steps, valid, strict=True)):
            recomputed = encode_sum(right_sum(task, solution, index))
            walk += f"{step.id}{recomputed}{'.' if ok else 'x'}"
            if not ok:
                break
        doubt = rng.choices((0, 1, 2), weights=(7, 2, 1))[0]
        return f"{walk}~{9 - doubt if solution.well_formed and all(valid) else doubt}"


def _parse_walk(
    walk: str, solution: Solution
) -> tuple[tuple[StepJudgement, ...], tuple[Flaw, ...]] | ParseFailure:
    steps: list[StepJudgement] = []
    position = 0
    for step in solution.steps:
        if position == len(walk):
            if solution.well_formed:
                return ParseFailure("missing_step")
            break
        if not walk.startswith(step.id, position):
            return ParseFailure("unexpected_step")
        judgement = _JUDGEMENT.match(walk, position + len(step.id))
        value = None if judgement is None else _parse_sum(judgement[1])
        if judgement is None or value is None:
            return ParseFailure("bad_judgement")
        position, ok = judgement.end(), judgement[2] == "."
        if ok and value != step_parts(step).stated_sum:
            return ParseFailure("contradiction")
        steps.append(StepJudgement(step.id, ok))
        if not ok:
            flaw = Flaw(step.id, step.text, "sum", "recompute", str(value))
            return ParseFailure("trailing_text") if walk[position:] else (tuple(steps), (flaw,))
    if position < len(walk):
        return ParseFailure("unexpected_step")
    return tuple(steps), ()


def _parse_sum(digits: str) -> int | None:
    if not _is_digits(digits) or not 2 <= len(digits) <= MAX_DIGITS:
        return None
    value = decode_sum(digits)
    return value if encode_sum(value) == digits else None  # a sum has one spelling


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
