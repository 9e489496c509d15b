"""How a critique is asked for, written and read: one name for each grammar.

    grammar    solutions           text
    chain      tiny models' sums   a40.b50.c21x~0      (`format_chain`)
    tagged     numbered lines      \\boxed{2}, fields   (`format_tagged`)

Leaves out the truth of the claims (`meta`) and what they earn (`reward`).
"""

import random
from typing import Protocol

from critic.critique import Critique, EvidenceKind, Flaw, ParseFailure, SoundOrFlawed, StepJudgement
from critic.format_chain import ChainCritique
from critic.format_tagged import TaggedCritique
from data.errors import UserError, unknown_name
from data.records import Task
from rewards.solution import Solution

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
]


class CritiqueDialect(Protocol):
    """A grammar of critiques: what the pipelines need of it."""

    @property
    def name(self) -> str:
        """The name shared with the solution dialect that it critiques."""

    def render_prompt(self, problem: str, solution: str) -> str:
        """Ask for a critique, showing problem and solution only."""

    def parse(self, text: str, solution: Solution, *, truncated: bool) -> Critique | ParseFailure:
        """Read a critique of `solution`; any string gives a critique or a named failure."""

    def write_critique(self, task: Task, solution: Solution, rng: random.Random) -> str:
        """Write a true critique, for the cold start.

        Raises:
            UserError: the dialect has no procedure for writing one.
        """


_DIALECTS: dict[str, CritiqueDialect] = {"chain": ChainCritique(), "tagged": TaggedCritique()}


def critique_dialect(name: str) -> CritiqueDialect:
    """Find a grammar by the name of the solution dialect.

    Raises:
        UserError: there is no such dialect.
    """
    if name not in _DIALECTS:
        raise UserError(unknown_name("critique dialect", name, _DIALECTS))
    return _DIALECTS[name]
