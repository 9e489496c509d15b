"""The compact critique grammar of tiny models, for solutions of the chain dialect.

    critique   = judgement* "~" bucket
    judgement  = step "."        the step that is due here, after what the solution stated before
    step       = id operand "=" value | ">" value     as in a solution
    bucket     = digit           (bucket + 0.5) / 10 is the confidence in what the walk found:
                                 p_sound if that is nothing, 1 - p_sound if it is a flaw

`a4=40.b1=50.>50.~9` finds nothing wrong; `a4=40.b1=50.c7=21.d6=80.~9` says that step c should have
been c7=21, if it says another, and that step d is right given what c says. The first step that
differs from the solution's is the one that the critic calls wrong; the rest of the walk is beside
the point and may be left out. Where the truth is known half of the demonstrations go on past a
wrong step, because a model that sees few of them learns to copy what is stated: it then passes over
every mistake that looks nearly right. Whole steps are written because a model that writes
values alone never looks up the operand in the problem, and passes over every misread one. There is
no mark for right or wrong, nor does the bucket say which: a tiny model recomputes well and compares
badly, marked steps that it had just found right, and was confident of flawed answers. A differing
step makes the verdict `flawed`, while p_sound is the chance that the *answer* passes: of an answer
that is right by wrong steps a true critique writes the due step and ends in `~0`. Every step up to
the first wrong one must be judged, in order. Of a malformed solution only the steps that the
solution parser recovered can be judged, and the walk may end after any of them.

Leaves out whether a claim is true (`meta`) and how the truth is found (`format.true_critique`).
"""

import random
import re
from collections.abc import Mapping

from critic.critique import Critique, Flaw, ParseFailure, SoundOrFlawed, StepJudgement
from rewards.chain import decode_value, encode_value
from rewards.operations import MAX_DIGITS
from rewards.solution import Solution

MAX_RECOMPUTED_DIGITS = 2 * MAX_DIGITS  # the product of the largest value and operand
STOP = "."
GOES_ON = 0.5  # the chance of a demonstrated walk to go on past a wrong step
_STEP = re.compile(r"(?:[a-z](?:0|[1-9][0-9]*)=|>)([0-9]+)")


class ChainCritique:
    """Prompts, parses and demonstrates critiques in the compact grammar."""

    name = "chain"

    def render_prompt(self, problem: str, solution: str) -> str:
        """Ask for a critique: the critic sees the problem and the solution, nothing else."""
        return f"{problem}{solution}\n!"

    def parse(self, text: str, solution: Solution, *, truncated: bool) -> Critique | ParseFailure:
        """Read a critique of `solution`; any string gives a critique or a named failure.

        The verdict is `flawed` if a step differs or `p_sound` lies below one half.
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
        confidence = (int(bucket) + 0.5) / 10
        p_sound = round(1 - confidence, 2) if flaws else confidence
        verdict: SoundOrFlawed = "flawed" if flaws or p_sound < 0.5 else "sound"
        return Critique(steps, flaws, verdict, p_sound)

    def write_critique(
        self,
        solution: Solution,
        first_bad: str | None,
        right_step: str | None,
        sound: bool,
        rng: random.Random,
        later: Mapping[str, str | None] | None = None,
        worked: Mapping[str, str] | None = None,
    ) -> str:
        """Write the critique that says what the caller knows, without checking a step.

        The walk repeats the solution's own steps but for its flaws, where it writes the step that
        should have stood there. Buckets are drawn from the top three (or the bottom three, where
        the answer passes by wrong steps or fails by right ones), so that a model trained on
        demonstrations still explores the confidences that RL is to calibrate.

        Args:
            first_bad: the first wrong step, None where none is known.
            right_step: the text that should have stood there.
            sound: whether the answer passes.
            later: for each wrong step after the first the text that should have stood there, and
                then the walk may end after any of them; None where nothing is known of them, and
                then it ends at the first.

        Raises:
            ValueError: there is no such step, or nothing is known of what should have stood there.
        """
        wrong = {} if first_bad is None else {first_bad: right_step, **(later or {})}
        unknown = wrong.keys() - {step.id for step in solution.steps}
        if unknown:
            raise ValueError(f"the solution has no step {min(unknown)!r}: {solution.text!r:.200}")
        walk = ""
        for step in solution.steps:
            due = wrong.get(step.id, step.text)
            if due is None or _STEP.fullmatch(due) is None:
                raise ValueError(f"step {step.id} is wrong, but {due!r} is no step")
            walk += due + STOP
            if step.id in wrong and (later is None or rng.random() >= GOES_ON):
                break
        doubt = rng.choices((0, 1, 2), weights=(7, 2, 1))[0]
        agrees = sound == (first_bad is None)  # the answer with its steps
        return f"{walk}~{9 - doubt if agrees else doubt}"


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
        due = _STEP.match(walk, position)
        value = None if due is None else _parse_value(due[1])
        if due is None or value is None or not walk.startswith(STOP, due.end()):
            return ParseFailure("bad_judgement")
        position = due.end() + 1
        ok = due[0] == step.text
        steps.append(StepJudgement(step.id, ok))
        if not ok:  # what follows of the walk is beside the point
            flaw = Flaw(step.id, step.text, "value", "recompute", str(value))
            return tuple(steps), (flaw,)
    if position < len(walk):
        return ParseFailure("unexpected_step")
    return tuple(steps), ()


def _parse_value(digits: str) -> int | None:
    if not _is_digits(digits) or not 2 <= len(digits) <= MAX_RECOMPUTED_DIGITS:
        return None
    value = decode_value(digits)
    return value if encode_value(value) == digits else None  # a number has one spelling


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
