"""Verify and redo: where the critic flags a step, the learner goes on from the text before it.

A critique that does not parse flags nothing, and a solution without a flag stands. A verdict
"flawed" that names no step sends the learner back to the start; so does a malformed solution, which
code sees and no critic is asked about. Leaves out what the results are worth
(`inference/methods.py`).
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from critic.critique import Critique
from pipelines.inference.attempts import Attempt, Solver
from rewards.solution import Solution

_LABEL = re.compile(r"[ \t]*[0-9]{1,4}[.)][ \t]+\Z")  # "2. ", which goes with the step after it


@dataclass(frozen=True)
class Standing:
    """What stands after some redos, and what it cost.

    Attributes:
        attempt: the last one.
        learner_tokens: generated so far, by all attempts.
        critic_tokens: generated so far, by all critiques that were acted on.
    """

    attempt: Attempt
    learner_tokens: int
    critic_tokens: int


def redo_rounds(
    solver: Solver,
    first: Sequence[Attempt],
    num_redos: int,
    purpose: str,
    shuffle: random.Random | None = None,
) -> list[list[Standing]]:
    """Redo each attempt until nothing is flagged, at most `num_redos` times.

    Args:
        solver: criticises and continues.
        first: criticised attempts.
        num_redos: the most redos of one attempt.
        purpose: names the calls in the seeds.
        shuffle: deals the critiques of each round out among its solutions, as a control: the
            learner then goes back as often and as far, but not for what is wrong.

    Returns:
        What stands after 0, 1, ..., `num_redos` redos, in the order of `first`.
    """
    standing = [Standing(attempt, attempt.learner_tokens, 0) for attempt in first]
    rounds, being_redone = [list(standing)], list(range(len(first)))
    for number in range(1, num_redos + 1):
        judged = [standing[index].attempt for index in being_redone]
        if number > 1:
            judged = solver.criticise(judged, f"critique of {purpose} {number - 1}")
        prefixes = restarts(judged, shuffle)
        again = [(a.task, p) for a, p in zip(judged, prefixes, strict=True) if p is not None]
        redone = iter(solver.resume(again, f"{purpose} {number}"))
        for index, attempt, prefix in zip(being_redone, judged, prefixes, strict=True):
            before = standing[index]
            after = attempt if prefix is None else next(redone)
            generated = 0 if prefix is None else after.learner_tokens
            standing[index] = Standing(
                after,
                before.learner_tokens + generated,
                before.critic_tokens + attempt.critic_tokens,
            )
        rounds.append(list(standing))
        flagged = zip(being_redone, prefixes, strict=True)
        being_redone = [index for index, prefix in flagged if prefix is not None]
    return rounds


def restarts(judged: Sequence[Attempt], shuffle: random.Random | None = None) -> list[str | None]:
    """The text from which each criticised attempt goes on; None where it stands."""
    well_formed = [index for index, a in enumerate(judged) if a.solution.well_formed]
    flagged = [flagged_step(judged[index]) for index in well_formed]
    if shuffle is not None:
        shuffle.shuffle(flagged)
    prefixes: list[str | None] = [""] * len(judged)
    for index, step in zip(well_formed, flagged, strict=True):
        prefixes[index] = None if step is None else text_before(judged[index].solution, step)
    return prefixes


def flagged_step(attempt: Attempt) -> int | None:
    """Index of the first step that the critique calls wrong; None where it calls none wrong."""
    critique = attempt.critique
    if not isinstance(critique, Critique):
        return None
    wrong = {flaw.step for flaw in critique.flaws} | {s.id for s in critique.steps if not s.ok}
    named = [index for index, step in enumerate(attempt.solution.steps) if step.id in wrong]
    return named[0] if named else 0 if critique.verdict == "flawed" else None


def text_before(solution: Solution, step: int) -> str:
    """The solution's text up to a step, its number left out; a step beyond the last is the last."""
    step = min(step, len(solution.steps) - 1)
    last_end = solution.steps[step - 1].end if step else 0
    between = solution.text[last_end : solution.steps[step].start]
    return solution.text[:last_end] + _LABEL.sub("", between)
