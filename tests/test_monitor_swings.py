"""The swing of gold accuracy is read from its second differences, without trend and noise."""

import random
import statistics
import sys
from pathlib import Path

import pytest

from critic.monitor.settings import GOLD

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from monitor_swings import bends, table


def run_of(swing: float, slope: float, seed: int, error: float = 0.015) -> dict[str, object]:
    rng = random.Random(seed)
    rows = []
    for number in range(25):
        value = 0.3 + slope * number + rng.gauss(0, swing) + rng.gauss(0, error)
        rows.append({"monitor/signals": {GOLD: value}, "monitor/errors": {GOLD: error}})
    return {"start": rows[0], "rounds": rows[1:]}


@pytest.mark.parametrize("slope", [0.0, 0.02])
@pytest.mark.parametrize("swing", [0.0, 0.02])
def test_the_swing_is_what_noise_and_trend_leave(swing: float, slope: float) -> None:
    found = [one for seed in range(200) for one in bends(run_of(swing, slope, seed))]
    assert statistics.fmean(found) == pytest.approx(swing**2, abs=3e-5)


def test_a_reading_taken_again_counts_as_it_was_first_read() -> None:
    own = run_of(0.0, 0.0, 0, error=0.0)
    rounds = own["rounds"]
    assert isinstance(rounds, list)
    rounds[5]["monitor/first"] = {GOLD: [0.1, 0.0]}
    assert max(bends(own)) > 0.01 and max(bends(run_of(0.0, 0.0, 0, error=0.0))) == 0
    assert "| stationary | 1 |" in table({"stationary": [own]})
    assert "| 1 of 24 |" in table({"stationary": [own]})
