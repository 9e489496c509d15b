"""The entropy law: recovered where it holds, none where nothing was traded, and its record kept."""

import math
import random

import pytest

from critic.monitor.entropy_law import Point, fit, foretell, law_line, points_of

A, B = 0.4, 1.3  # a ceiling of 0.9


def law_points(num: int, noise: float = 0.0, seed: int = 0) -> list[Point]:
    """A run along the law, whose entropy falls from 0.8 nats to 0.05."""
    rng = random.Random(seed)
    entropies = [0.8 - 0.75 * place / (num - 1) for place in range(num)]
    return [Point(h, B - A * math.exp(h) + rng.gauss(0, noise)) for h in entropies]


def test_exact_points_give_the_law_back() -> None:
    law = fit(law_points(6))
    assert law is not None
    assert (law.a, law.b, law.ceiling) == pytest.approx((A, B, B - A))
    assert law.half_width == pytest.approx(0, abs=1e-9) and law.at(0.3) == pytest.approx(
        B - A * math.exp(0.3)
    )


def test_the_interval_holds_the_ceiling_as_often_as_it_says() -> None:
    """400 runs of noise as of a probe of 64 by 4: 95%, within 3.5 of its own errors."""
    held = 0
    for seed in range(400):
        law = fit(law_points(8, noise=0.02, seed=seed))
        assert law is not None
        held += abs(law.b - law.a - (B - A)) <= law.half_width
    assert abs(held / 400 - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / 400)


@pytest.mark.parametrize(
    "points",
    [
        law_points(3),
        [Point(0.5, 0.3 + 0.1 * t) for t in range(6)],  # entropy stood still
        [Point(0.5 - 0.1 * t, 0.5 - 0.1 * t) for t in range(5)],  # both fell: a collapse
    ],
)
def test_no_law_where_nothing_was_traded(points: list[Point]) -> None:
    assert fit(points) is None and foretell(points) is None


def test_a_run_that_follows_the_law_is_foretold() -> None:
    found = foretell(law_points(20))
    assert found is not None and found.num_early == 8
    assert found.kept and found.followed and found.reached
    assert "ceiling 90.0% ± 0.0%. The run ended at 87.1%" in law_line(found)


def test_a_run_that_stops_early_breaks_off_or_outgrows_it_is_said_to() -> None:
    whole = law_points(20)
    stopped = foretell(whole[:8] + [whole[8]] * 12)
    assert stopped is not None and stopped.followed and not stopped.reached and stopped.kept
    fallen = foretell(whole[:8] + [Point(0.05, 0.1)] * 12)
    assert fallen is not None and not fallen.followed and not fallen.reached
    grown = foretell(whole[:8] + [Point(0.3, 1.0)] * 12)
    assert grown is not None and not grown.kept and "beyond the ceiling" in law_line(grown)
    assert foretell(whole[:5]) is None, "nothing is left to foretell"


def test_points_are_read_from_metrics() -> None:
    signals = {"token_entropy": 0.5, "gold_accuracy": 0.25}
    rows = [
        {"kind": "cold_start", "monitor/signals": signals},
        {"kind": "step"},
        {"kind": "round", "monitor/signals": {**signals, "gold_accuracy": None}},
        {"kind": "round", "monitor/signals": signals},
    ]
    assert points_of(rows) == [Point(0.5, 0.25)] * 2
