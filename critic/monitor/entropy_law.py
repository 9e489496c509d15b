"""The entropy law R = -a e^H + b: what a run can reach at most, told from its first checks.

"The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models" (arXiv:2505.22617):
a policy that GRPO trains buys reward with entropy, along this curve, so that with H = 0 it ends at
b - a. Fitted here by least squares to the monitor's own readings of gold accuracy and token entropy
(nats per token). It decides nothing: where a run keeps its entropy by resets or a bonus, or where
accuracy is lost to collapse, the law does not hold. Leaves out showing it (`pipelines/report/`).
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scipy import stats

from critic.monitor.readings import Frozen
from critic.monitor.settings import GOLD

EARLY_SHARE = 0.4  # of a run's checks, whose readings foretell the others
LEAST_POINTS = 4
NEAR = 0.05  # of accuracy: what counts as foretold, as for the gold probe's falls


class Point(NamedTuple):
    """One check."""

    entropy: float
    accuracy: float


class EntropyLaw(Frozen):
    """A fitted law.

    Attributes:
        a, b: of R = -a e^H + b.
        ceiling: R where H is 0, at most 1.
        half_width: of the ceiling's 95% interval (t), from the points' scatter around the line.
    """

    a: float
    b: float
    ceiling: float
    half_width: float

    def at(self, entropy: float) -> float:
        """The accuracy at an entropy."""
        return self.b - self.a * math.exp(entropy)


class Foretold(Frozen):
    """What the law of the early checks said of the rest, and what came.

    Attributes:
        law: of the early checks.
        num_early: of how many.
        end: the mean accuracy of the two last checks.
        at_end: what the law gives at their mean entropy.
        kept: whether no two checks in a row, on average, went beyond the ceiling by `NEAR`.
        reached: whether the end is within `NEAR` of the ceiling.
        followed: whether the end is within `NEAR` of the law at the end's entropy.
    """

    law: EntropyLaw
    num_early: int
    end: float
    at_end: float
    kept: bool
    reached: bool
    followed: bool


def fit(points: Sequence[Point]) -> EntropyLaw | None:
    """Fit the law by least squares over e^H.

    Returns:
        None for fewer than `LEAST_POINTS` points, where entropy did not move, or where accuracy
        did not rise as it fell (a <= 0): then no entropy was traded for anything.
    """
    if len(points) < LEAST_POINTS:
        return None
    xs = [math.exp(point.entropy) for point in points]
    mean_x = math.fsum(xs) / len(xs)
    mean_y = math.fsum(point.accuracy for point in points) / len(points)
    spread = math.fsum((x - mean_x) ** 2 for x in xs)
    if spread <= 1e-12 * mean_x**2:
        return None
    moments = [(x - mean_x) * (p.accuracy - mean_y) for x, p in zip(xs, points, strict=True)]
    slope = math.fsum(moments) / spread
    a, b = -slope, mean_y - slope * mean_x
    if a <= 0:
        return None
    freedom = len(points) - 2
    residuals = math.fsum((p.accuracy - b + a * x) ** 2 for x, p in zip(xs, points, strict=True))
    error = math.sqrt(residuals / freedom * (1 / len(xs) + (1 - mean_x) ** 2 / spread))
    half = float(stats.t.ppf(0.975, freedom)) * error
    return EntropyLaw(a=a, b=b, ceiling=min(b - a, 1.0), half_width=half)


def foretell(points: Sequence[Point]) -> Foretold | None:
    """Fit the law to a run's early checks, and compare it with the others.

    Args:
        points: of the whole run, its start first.

    Returns:
        None without a law, or without two checks after the early ones.
    """
    num_early = max(LEAST_POINTS, math.ceil(EARLY_SHARE * len(points)))
    law = fit(points[:num_early])
    if law is None or len(points) < num_early + 2:
        return None
    later = points[num_early - 1 :]
    pairs = [(one.accuracy + two.accuracy) / 2 for one, two in itertools.pairwise(later)]
    end, at_end = pairs[-1], law.at((points[-1].entropy + points[-2].entropy) / 2)
    return Foretold(
        law=law,
        num_early=num_early,
        end=end,
        at_end=at_end,
        kept=max(pairs) <= law.ceiling + NEAR,
        reached=abs(end - law.ceiling) <= NEAR,
        followed=abs(end - at_end) <= NEAR,
    )


def points_of(rows: Iterable[Mapping[str, object]]) -> list[Point]:
    """The points of a run's metrics: of every row whose monitor read both signals."""
    found = []
    for row in rows:
        signals = row.get("monitor/signals")
        if isinstance(signals, Mapping):
            entropy, accuracy = signals.get("token_entropy"), signals.get(GOLD)
            if isinstance(entropy, float | int) and isinstance(accuracy, float | int):
                found.append(Point(float(entropy), float(accuracy)))
    return found


def law_line(foretold: Foretold) -> str:
    """For a person."""
    law = foretold.law
    return (
        f"Entropy law (arXiv:2505.22617) of the first {foretold.num_early} checks: "
        f"R = {law.b:.3f} - {law.a:.3f} e^H, ceiling {law.ceiling:.1%} ± {law.half_width:.1%}. The "
        f"run ended at {foretold.end:.1%}"
        f"{'' if foretold.kept else ', after it went beyond the ceiling'}; at its last entropy "
        f"the law gives {foretold.at_end:.1%}."
    )
