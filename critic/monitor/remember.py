"""What the monitor remembers of one signal: its start, its best, its latest readings, its swing.

Pure functions. Leaves out what is made of it (`critic/monitor/evidence.py`).
"""

import math
from collections.abc import Sequence

from critic.monitor.readings import Frozen, Reading, pool
from critic.monitor.settings import MonitorSettings, SignalRule

NUM_BEST = 4  # readings of "the best": a single best one is mostly luck
NUM_PRIOR = 8  # bends that `MonitorSettings.swing` counts as: so few readings show nothing yet


class SignalState(Frozen):
    """What is remembered of one signal.

    Attributes:
        start: its first reading, beside one of gold accuracy where there is any: the cold start's.
        gold_at_start: gold accuracy at the same time; of a signal that lags, the check before.
        best: the best mean of four readings in a row so far; of fewer at the start.
        gold_at_best: the mean of gold accuracy over the same checks.
        recent: its latest readings, the earliest first; None where it could not be read.
        bends: the sum of what each three readings in a row, the latest aside, show of how it moves
            from check to check beyond their noise: a variance each.
        num_bends: how many.
    """

    start: Reading | None = None
    gold_at_start: Reading | None = None
    best: Reading | None = None
    gold_at_best: Reading | None = None
    recent: tuple[Reading | None, ...] = ()
    bends: float = 0.0
    num_bends: int = 0

    @property
    def last(self) -> Reading | None:
        """This check's reading."""
        return self.recent[-1] if self.recent else None


def observe(
    rule: SignalRule,
    signal: SignalState,
    reading: Reading | None,
    gold: Sequence[Reading | None],
    settings: MonitorSettings,
) -> SignalState:
    """Take one reading in; a missing one takes its place, so that windows stay aligned.

    Args:
        gold: the latest readings of gold accuracy, this check's last; of a signal that lags, the
            last is of the check before.
    """
    recent = (*signal.recent, reading)[-settings.window :]
    lacks_gold = signal.gold_at_start is None and gold[-1] is not None
    is_first = reading is not None and (signal.start is None or lacks_gold)
    best, gold_at_best = signal.best, signal.gold_at_best
    bend = _bend(signal.recent[-3:])
    if reading is not None:
        latest = pool(recent[-NUM_BEST:])
        best = _better(rule, signal.best, latest)
        if best is latest:
            gold_at_best = pool(gold[-min(NUM_BEST, len(recent)) :])
    return SignalState(
        start=reading if is_first else signal.start,
        gold_at_start=gold[-1] if is_first else signal.gold_at_start,
        best=best,
        gold_at_best=gold_at_best,
        recent=recent,
        bends=signal.bends + (bend or 0.0),
        num_bends=signal.num_bends + (bend is not None),
    )


def _bend(three: Sequence[Reading | None]) -> float | None:
    """The variance that three readings in a row show beyond their noise; a trend adds none to it.

    The second difference of independent readings has 6 times their variance.
    """
    there = [one for one in three if one is not None]
    if len(there) < 3:
        return None
    first, middle, last = there
    noise = first.error**2 + 4 * middle.error**2 + last.error**2
    return ((first.value - 2 * middle.value + last.value) ** 2 - noise) / 6


def swing_of(signal: SignalState, settings: MonitorSettings) -> float:
    """How far gold accuracy moves from check to check without falling, its noise aside.

    A standard deviation, of the bends so far and of the prior that `swing` is.
    """
    variance = NUM_PRIOR * settings.swing**2 + signal.bends
    return math.sqrt(max(variance, 0.0) / (NUM_PRIOR + signal.num_bends))


def _better(rule: SignalRule, best: Reading | None, other: Reading | None) -> Reading | None:
    """The one that is better by its less favourable end: short means are noisy."""
    if best is None or other is None:
        return best or other

    def badness(one: Reading) -> float:
        value = abs(one.value) if rule.bad == "either" else rule.sign * one.value
        return value + one.error

    return other if badness(other) < badness(best) else best
