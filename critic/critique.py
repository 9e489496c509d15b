"""What a critique says, whatever text it was written in.

Holds the parsed form shared by every grammar, so that one meta-check, one reward and one set of
metrics serve tiny and large models alike. Leaves out the grammars (`format_chain`, `format_tagged`)
and the truth of the claims (`meta`).
"""

from dataclasses import asdict, dataclass
from typing import Literal

EvidenceKind = Literal["recompute", "counterexample", "rule"]
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

    def to_json(self) -> dict[str, object]:
        """Give the critique as the JSON object of the tagged format, for records and logs."""
        return {
            "steps": [asdict(step) for step in self.steps],
            "flaws": [
                {
                    "step": flaw.step,
                    "quote": flaw.quote,
                    "type": flaw.type,
                    "evidence": {"kind": flaw.evidence_kind, "payload": flaw.payload},
                }
                for flaw in self.flaws
            ],
            "verdict": self.verdict,
            "p_sound": self.p_sound,
        }


@dataclass(frozen=True)
class ParseFailure:
    """Why a text is no critique: a short name, such as `truncated` or `bad_mark`."""

    reason: str
