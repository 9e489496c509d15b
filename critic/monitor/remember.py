"""What the monitor remembers of one signal: its start, its best, its latest readings, its dips.

Pure functions. Leaves out what is made of it (`critic/monitor/evidence.py`).
"""

from collections.abc import Sequence

from critic.monitor.readings import Frozen, Reading, change, pool
from critic.monitor.settings import MonitorSettings, SignalRule

NUM_BEST = 4  # readings of "the best": a single best one is mostly luck


class SignalState(Frozen):
    """What is remembered of one signal.

    Attributes:
        start: its first reading, beside one of gold accuracy where there is any: the cold start's.
        gold_at_start: gold accuracy at the same time; of a signal that lags, the check before.
        best: the best mean of four readings in a row so far; of fewer at the start.
        gold_at_best: the mean of gold accuracy over the same checks.
        recent: its latest readings, the earliest first; None where it could not be read.
        dip: the most by which a reading was worse than the best before it, and the run came back.
        falling: the same of the readings since it was last back; 0 while it is.
    """

    start: Reading | None = None
    gold_at_start: Reading | None = None
    best: Reading | None = None
    gold_at_best: Reading | None = None
    recent: tuple[Reading | None, ...] = ()
    dip: float = 0.0
    falling: float = 0.0

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
    dip, falling = _dips(rule, signal, reading)
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
        dip=dip,
        falling=falling,
    )


def _dips(rule: SignalRule, signal: SignalState, reading: Reading | None) -> tuple[float, float]:
    """The deepest dip that the run came back from, and how deep it is in one now."""
    if reading is None or signal.best is None:
        return signal.dip, signal.falling
    lost = worse_by(rule, signal.best, reading).value
    if lost < matters_of(rule, signal.best) / 2:
        return max(signal.dip, signal.falling), 0.0
    return signal.dip, max(signal.falling, lost)


def matters_of(rule: SignalRule, reference: Reading) -> float:
    """The smallest change that may alarm, in the signal's unit."""
    return rule.matters * (abs(reference.value) if rule.relative else 1.0)


def worse_by(rule: SignalRule, before: Reading, after: Reading) -> Reading:
    """The change from one reading to another, positive where it is bad."""
    moved = change(before, after)
    if rule.bad == "either":
        return Reading(value=abs(after.value) - abs(before.value), error=moved.error)
    return Reading(value=rule.sign * moved.value, error=moved.error)


def _better(rule: SignalRule, best: Reading | None, other: Reading | None) -> Reading | None:
    """The one that is better by its less favourable end: short means are noisy."""
    if best is None or other is None:
        return best or other

    def badness(one: Reading) -> float:
        value = abs(one.value) if rule.bad == "either" else rule.sign * one.value
        return value + one.error

    return other if badness(other) < badness(best) else best
