"""How a critique is asked for, written and read: one name for each grammar.

    grammar    solutions           text
    chain      tiny models'        a4=40.b1=50.c7=21.~9 (`format_chain`)
    tagged     numbered lines      \\boxed{2}, fields   (`format_tagged`)
    free       paragraphs          the same, of the paragraphs' numbers

A critique speaks of two things: its flaws of the steps, its p_sound of the answer, whose chance to
pass the verifier it is. A true critique of an answer that is right by wrong steps therefore marks
the step and is confident all the same.

Leaves out the truth of the claims (`meta`) and what they earn (`reward`).
"""

import random
from collections.abc import Mapping
from typing import Protocol

from critic.critique import Critique, EvidenceKind, Flaw, ParseFailure, SoundOrFlawed, StepJudgement
from critic.format_chain import ChainCritique
from critic.format_tagged import FreeCritique, TaggedCritique
from data.errors import UserError, unknown_name
from data.records import Task
from rewards.solution import Dialect, Solution

__all__ = [
    "ChainCritique",
    "Critique",
    "CritiqueDialect",
    "EvidenceKind",
    "Flaw",
    "ParseFailure",
    "SoundOrFlawed",
    "StepJudgement",
    "TaggedCritique",
    "critique_dialect",
    "true_critique",
    "worked_steps",
    "wrong_steps",
]


MAX_WORKED_CHARS = 300  # of one step: longer ones are left out of a teacher's working


class CritiqueDialect(Protocol):
    """A grammar of critiques: what the pipelines need of it."""

    @property
    def name(self) -> str:
        """The name shared with the solution dialect that it critiques."""

    def render_prompt(self, problem: str, solution: str) -> str:
        """Ask for a critique, showing problem and solution only."""

    def parse(self, text: str, solution: Solution, *, truncated: bool) -> Critique | ParseFailure:
        """Read a critique of `solution`; any string gives a critique or a named failure."""

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
        """Write the critique that says what the caller knows; no step is checked for it.

        Args:
            first_bad: id of the first wrong step, None where none is known.
            right_step: the text of the step that should have stood there.
            sound: whether the answer passes.
            later: for each wrong step after the first the text that should have stood there; None
                where nothing is known of the steps after the first wrong one.
            worked: what stands for each step as it is worked out anew, up to the first wrong one
                (`worked_steps`); a dialect may leave it out.

        Raises:
            UserError: the dialect has no procedure for writing one.
        """


_DIALECTS: dict[str, CritiqueDialect] = {
    one.name: one for one in (ChainCritique(), TaggedCritique(), FreeCritique())
}


def critique_dialect(name: str) -> CritiqueDialect:
    """Find a grammar by the name of the solution dialect.

    Raises:
        UserError: there is no such dialect.
    """
    if name not in _DIALECTS:
        raise UserError(unknown_name("critique dialect", name, _DIALECTS))
    return _DIALECTS[name]


def true_critique(
    task: Task,
    solution: Solution,
    dialect: Dialect,
    rng: random.Random,
    *,
    sound: bool | None = None,
) -> str:
    """Write a true critique from code's own step checks, for the cold start.

    Args:
        dialect: the solution's.
        sound: whether the answer passes; left out, whether it is the reference to the letter.

    Raises:
        UserError: the dialect has no procedure for writing one.
    """
    passes = solution.answer == task.reference if sound is None else sound
    wrong = wrong_steps(task, solution, dialect)
    first_bad = next(iter(wrong), None)
    right_step = wrong.pop(first_bad) if first_bad is not None else None
    judge = critique_dialect(dialect.name)
    worked = worked_steps(task, solution, dialect, first_bad)
    return judge.write_critique(solution, first_bad, right_step, passes, rng, wrong, worked)


def wrong_steps(task: Task, solution: Solution, dialect: Dialect) -> dict[str, str | None]:
    """Ids of the steps that code shows to be wrong, each with the text that is due there."""
    checks = dialect.check_steps(task, solution)
    if checks is None:
        return {}
    return {
        step.id: dialect.right_step(task, solution, index)
        for index, (step, holds) in enumerate(zip(solution.steps, checks, strict=True))
        if not holds
    }


def worked_steps(
    task: Task, solution: Solution, dialect: Dialect, first_bad: str | None
) -> dict[str, str]:
    """What code makes of each step, by its id, up to the first wrong one.

    Steps of which it can make nothing are left out, and so is a wrong one that it takes for right.
    """
    checks = dialect.check_steps(task, solution)
    if checks is None:
        return {}
    place = [step.id for step in solution.steps].index(first_bad) if first_bad else len(checks)
    num = place + (first_bad is not None and not checks[place])
    texts = [dialect.right_step(task, solution, index) for index in range(num)]
    pairs = zip(solution.steps, texts, strict=False)
    return {step.id: text for step, text in pairs if text and len(text) <= MAX_WORKED_CHARS}
