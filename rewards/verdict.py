"""What a verifier says about one solution.

An outcome is never a bare number: a verifier that ran out of time or broke has said
nothing, and its sample is masked out instead of scoring 0.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Outcome = Literal["correct", "incorrect", "invalid", "timeout", "error"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
FULL_SCORE = 1 - 1e-9  # a float may fall short of 1 by rounding
COUNTED: frozenset[Outcome] = frozenset({"correct", "incorrect", "invalid"})


@dataclass(frozen=True)
class Verdict:
    """One verifier's judgement of one solution.

    Attributes:
        outcome: `invalid` is a malformed solution, `timeout` and `error` are the verifier's
            own failures.
        verifier: the verifier's name.
        version: the release of what did the judging.
        score: its score in [0, 1]; None iff it reached no judgement.
        detail: why, for a person to read.
    """

    outcome: Outcome
    verifier: str
    version: str
    score: float | None
    detail: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome {self.outcome!r}: use one of {OUTCOMES}")
        if self.counted != (self.score is not None):
            raise ValueError(
                f"outcome {self.outcome!r} with score {self.score}: a counted outcome needs a "
                "score, a timeout or error must have None"
            )
        if self.score is not None and not (math.isfinite(self.score) and 0 <= self.score <= 1):
            raise ValueError(f"score must lie in [0, 1], got {self.score}: check the scorer")

    @property
    def counted(self) -> bool:
        """Whether the verifier reached a judgement, so that the sample may be trained on."""
        return self.outcome in COUNTED

    @property
    def passed(self) -> bool:
        """Whether the solution is correct."""
        return self.outcome == "correct"

    @property
    def reward(self) -> float | None:
        """What the solution earns: 1 if it passed, else 0; None where it must be masked."""
        return float(self.passed) if self.counted else None


def score_verdict(score: float, verifier: str, version: str) -> Verdict:
    """Judge by a score in [0, 1]: correct only at full score, as partial credit solves nothing."""
    return Verdict("correct" if score >= FULL_SCORE else "incorrect", verifier, version, score)
