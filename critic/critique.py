"""What a critique says, whatever text it was written in.

Holds the parsed form shared by every grammar, so that one meta-check, one reward and one set of
metrics serve tiny and large models alike. Leaves out the grammars (`format_chain`, `format_tagged`)
and the truth of the claims (`meta`).
"""

from dataclasses import dataclass
from typing import Literal

EvidenceKind = Literal["recompute", "rule"]
SoundOrFlawed = Literal["sound", "flawed"]


@dataclass(frozen=True)
class StepJudgement:
    """The critic's opinion of one step of the solution."""

    id: str
    ok: bool


@dataclass(frozen=True)
class Flaw:
    """One claim: this step is wrong, and here is evidence that can be checked.

    `quote` is what the critic cites from the step; `payload` is the evidence itself, for
    `recompute` the value the step should have had.
    """

    step: str
    quote: str
    type: str
    evidence_kind: EvidenceKind
    payload: str


@dataclass(frozen=True)
class Critique:
    """A well-formed critique. `p_sound`, in [0, 1], is the probability that the answer passes."""

    steps: tuple[StepJudgement, ...]
    flaws: tuple[Flaw, ...]
    verdict: SoundOrFlawed
    p_sound: float


@dataclass(frozen=True)
class ParseFailure:
    """Why a text is not a critique: a short name, such as `truncated` or `bad_mark`."""

    reason: str
