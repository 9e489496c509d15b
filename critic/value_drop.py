"""Is a step fatal? Continuations that take another step there against those that take this one.

The value of a step is the chance that what continues from it passes the verifier. A step is the
flaw that ends a solution where its value falls below that of the other steps that the policy takes
at its place: V(others) > V(same). Both are estimated by counts, under uniform priors; the test is
sequential, and nothing is sampled after a decision.
Leaves out the sampling (`pipelines/game/confirmation.py`).
"""

import math
from dataclasses import dataclass
from typing import Literal

Decision = Literal["confirmed", "refuted", "unknown"]
# The probability of a drop that confirms. Most steps that a weak critic accuses are harmless, so a
# lax threshold would confirm mostly harmless ones.
CONFIRMS = 0.99
CONFIRMS_LAST = 0.98
REFUTES = 0.5
_Z = 1.96  # of a two-sided 95% interval


@dataclass(frozen=True)
class Tally:
    """How many continuations of one state passed."""

    passed: int = 0
    tried: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.passed <= self.tried:
            raise ValueError(f"{self.passed} of {self.tried} continuations cannot have passed")

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.passed + other.passed, self.tried + other.tried)

    @property
    def value(self) -> float | None:
        """The share that passed; None where nothing was tried."""
        return self.passed / self.tried if self.tried else None

    def interval(self) -> tuple[float, float]:
        """The share's 95% interval."""
        return share_interval(self.passed, self.tried)


NOTHING = Tally()


def share_interval(passed: float, tried: int) -> tuple[float, float]:
    """A share's 95% interval (Wilson, 1927); (0, 1) where nothing was tried.

    Args:
        passed: 0 to `tried`; not whole where each trial is a mean of several.
    """
    if not tried:
        return 0.0, 1.0
    share, weight = passed / tried, _Z**2 / tried
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def probability_of_drop(others: Tally, same: Tally) -> float:
    """P(V(others) > V(same)) for two independent values with uniform priors.

    The sum over i < a of B(c + i, d + b) / ((b + i) B(1 + i, b) B(c, d)), where the values are
    Beta(a, b) for the others and Beta(c, d) for the same, a = passed + 1 and b = failed + 1.
    """
    a, b = others.passed + 1, others.tried - others.passed + 1
    c, d = same.passed + 1, same.tried - same.passed + 1
    terms = (
        math.exp(_log_beta(c + i, d + b) - _log_beta(1 + i, b) - _log_beta(c, d)) / (b + i)
        for i in range(a)
    )
    return min(1.0, math.fsum(terms))


def decide(others: Tally, same: Tally, is_last_look: bool) -> Decision:
    """What the counts say of the step.

    Where no other step passes either, the solution was lost before, or success is too rare to tell:
    unknown.
    """
    if others.passed == 0 or same.tried == 0:
        return "unknown"
    drop = probability_of_drop(others, same)
    if drop >= (CONFIRMS_LAST if is_last_look else CONFIRMS):
        return "confirmed"
    return "refuted" if same.passed and drop <= REFUTES else "unknown"


def expected_value(pass_rate: float, share_done: float) -> float:
    """A guess of V for a sound beginning that nobody has continued yet.

    If each part of a solution is as hard as any other, the chance to finish from where a share f
    is written is the whole's to the power 1 - f.

    Args:
        pass_rate: of whole solutions, above 0.
        share_done: f, 0 to 1.
    """
    return float(pass_rate ** (1 - share_done))


def _log_beta(a: int, b: int) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
