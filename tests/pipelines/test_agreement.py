"""Where two sets of log-probabilities differ most."""

import math

from pipelines.sync.agreement import largest_difference


def test_a_nan_anywhere_is_no_agreement() -> None:
    nan = float("nan")
    assert largest_difference([[-1.0, -2.0], [-1.0]], [[-1.0, -2.5], [-1.0]]) == (0.5, 0, 2)
    assert largest_difference([[-1.0, -2.0], [-9.0]], [[-1.0, nan], [-1.0]]) == (math.inf, 0, 2)
