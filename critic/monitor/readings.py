"""A reading: what a signal shows at one check, and how far off it may be by chance.

Readings of the same weights differ by their standard error. Every threshold of the monitor is in
units of it, so that a small probe is not alarmed by its own noise. Leaves out measuring
(`critic/monitor/signals.py`) and judging (`critic/monitor/evidence.py`).
"""

import math
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

NUM_START = 4  # readings of the weights that a run begins with: a single one is mostly luck
LARGEST_READABLE = 1e100  # beyond it a square overflows: no signal of ours is near


class Frozen(BaseModel):
    """Base of the monitor's records: immutable, unknown keys refused, exact through JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reading(Frozen):
    """One signal at one check.

    Attributes:
        value: in the signal's unit.
        error: its standard error at unchanged weights, in the same unit; 0 where it has no noise.
    """

    value: float
    error: float

    @property
    def is_readable(self) -> bool:
        """Whether it can be judged: finite, not overflowing, with an error that is no nonsense."""
        fits = all(math.isfinite(x) and abs(x) < LARGEST_READABLE for x in (self.value, self.error))
        return fits and self.error >= 0


def reading(value: float | None, error: float | None) -> Reading | None:
    """A reading, or None where either number is missing or cannot be judged."""
    if value is None or error is None:
        return None
    made = Reading(value=value, error=error)
    return made if made.is_readable else None


def pool(readings: Sequence[Reading | None]) -> Reading | None:
    """The mean of those there are, with its error; None without any."""
    there = [one for one in readings if one is not None]
    if not there:
        return None
    error = math.sqrt(math.fsum(one.error**2 for one in there)) / len(there)
    return Reading(value=math.fsum(one.value for one in there) / len(there), error=error)


def pooled(rows: Sequence[Mapping[str, Reading | None]]) -> dict[str, Reading | None]:
    """Several readings of the same weights as one, signal by signal."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: pool([row.get(name) for row in rows]) for name in names}


def settled(
    first: Mapping[str, Reading | None], fresh: Sequence[Mapping[str, Reading | None]]
) -> dict[str, Reading | None]:
    """A check's readings, where some signals were read again: those of the fresh ones alone.

    What was read again because it was low is low by luck too, and a mean with it would stay so.

    Args:
        first: every signal, as first read.
        fresh: the signals that were read again, each time; where no one of them could be read,
            the first reading stays.
    """
    return {**first, **{name: one for name, one in pooled(fresh).items() if one is not None}}


def change(before: Reading, after: Reading) -> Reading:
    """`after` minus `before`, which share no noise."""
    return Reading(value=after.value - before.value, error=math.hypot(before.error, after.error))


def is_beyond(moved: Reading, threshold: float) -> bool:
    """Whether a change is above 0 by more than so many of its errors."""
    return moved.value > 0 and moved.value >= threshold * moved.error
