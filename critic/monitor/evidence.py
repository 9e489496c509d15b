"""What the monitor remembers of one signal, and whether its latest readings are an alarm.

    unpaired   the mean of the two latest readings against the run's best mean of four: worse by
               the threshold and by what matters, and the latest one alone is worse, too
    paired     the same two against the cold start, and against the two earliest of a rolling
               window; only where gold accuracy surely did not rise over the same checks, and
               where more of the novelty is lost than of the errors

Pure functions. What follows from alarms is decided in `critic/monitor/decide.py`.
"""

from critic.monitor.readings import Frozen, Reading, change, is_beyond, pool
from critic.monitor.settings import GOLD, MonitorSettings, SignalRule

NUM_LATEST = 2  # readings of "now": one bad reading alone confirms nothing
NUM_BEST = 4  # readings of "the best": a single best one is mostly luck


class SignalState(Frozen):
    """What is remembered of one signal.

    Attributes:
        start: its first reading: the cold start's where there is one.
        gold_at_start: gold accuracy at the same time; of a signal that lags, the check before.
        best: the best mean of four readings in a row so far; of fewer at the start.
        recent: its latest readings, the earliest first; None where it could not be read.
    """

    start: Reading | None = None
    gold_at_start: Reading | None = None
    best: Reading | None = None
    recent: tuple[Reading | None, ...] = ()

    @property
    def last(self) -> Reading | None:
        """This check's reading."""
        return self.recent[-1] if self.recent else None


class Alarm(Frozen):
    """A signal that moved the wrong way: by how much, from where, since when."""

    signal: str
    reference: Reading
    now: Reading
    since: str

    def line(self, rule: SignalRule) -> str:
        """Why it alarms, for a person."""
        moved = change(self.reference, self.now)
        size = (
            f"{abs(moved.value) / moved.error:.1f} standard errors" if moved.error else "no noise"
        )
        beside = ", and gold accuracy did not rise" if rule.paired else ""
        return (
            f"{self.signal} ({rule.channel}): {self.reference.value:.4g} {self.since}, now "
            f"{self.now.value:.4g} ± {self.now.error:.2g} ({size}){beside}"
        )


def observe(
    rule: SignalRule,
    signal: SignalState,
    reading: Reading | None,
    gold: Reading | None,
    settings: MonitorSettings,
) -> SignalState:
    """Take one reading in; a missing one takes its place, so that windows stay aligned.

    Args:
        gold: gold accuracy at the same check, or the one before if the signal lags.
    """
    recent = (*signal.recent, reading)[-settings.window :]
    is_first = signal.start is None and reading is not None
    return SignalState(
        start=reading if is_first else signal.start,
        gold_at_start=gold if is_first else signal.gold_at_start,
        best=_better(rule, signal.best, pool(recent[-NUM_BEST:])) if reading else signal.best,
        recent=recent,
    )


def alarm_of(
    name: str,
    signals: dict[str, SignalState],
    settings: MonitorSettings,
) -> Alarm | None:
    """The alarm that a signal's latest readings are, or None: calm, missing, or not comparable."""
    rule, signal = settings.rules[name], signals[name]
    last, now = signal.last, pool(signal.recent[-NUM_LATEST:])
    if last is None or now is None:
        return None
    for reference, since in _references(rule, signal, signals[GOLD], now, settings):
        if _is_worse(rule, reference, now, last, settings):
            return Alarm(signal=name, reference=reference, now=now, since=since)
    return None


def is_doubtful(name: str, signals: dict[str, SignalState], settings: MonitorSettings) -> bool:
    """Whether a signal's latest reading alone is so bad that another like it may be an alarm.

    An alarm is of two readings: the first bad one is mostly none yet, and no clean one either.
    """
    rule, signal = settings.rules[name], signals[name]
    last = signal.last
    return last is not None and any(
        _is_worse_alone(rule, reference, last, settings)
        for reference, _ in _references(rule, signal, signals[GOLD], last, settings)
    )


def _references(
    rule: SignalRule,
    signal: SignalState,
    gold: SignalState,
    now: Reading,
    settings: MonitorSettings,
) -> list[tuple[Reading, str]]:
    """What a signal is compared with, and since when; nothing that success explains."""
    if not rule.paired:
        return [] if signal.best is None else [(signal.best, "at its best")]
    gold_now = pool(gold.recent[-NUM_LATEST:])
    if gold.last is None or gold_now is None or _is_explained(rule, signal, now, gold_now):
        return []
    windows = [(signal.start, signal.gold_at_start, "at the start")]
    if len(signal.recent) == len(gold.recent) == settings.window:
        first = 1 if rule.lags else 0
        early = pool(signal.recent[first : first + NUM_LATEST])
        windows.append((early, pool(gold.recent[:NUM_LATEST]), "earlier in the window"))
    return [
        (reference, since)
        for reference, gold_then, since in windows
        if reference is not None
        and gold_then is not None
        and not _may_have_risen(change(gold_then, gold_now), settings)
    ]


def _is_worse(
    rule: SignalRule, reference: Reading, now: Reading, last: Reading, settings: MonitorSettings
) -> bool:
    """Whether the change is certain and large enough, and the latest reading alone agrees."""
    matters, worse = _matters(rule, reference), _worse_by(rule, reference, now)
    if worse.value < matters or matters == 0:
        return False
    certain = is_beyond(worse, settings.threshold)
    return certain and _is_worse_alone(rule, reference, last, settings)


def _is_worse_alone(
    rule: SignalRule, reference: Reading, last: Reading, settings: MonitorSettings
) -> bool:
    """Whether one reading is worse by half of what two must be worse by."""
    alone = _worse_by(rule, reference, last)
    large = alone.value >= _matters(rule, reference) / 2
    return large and is_beyond(alone, settings.threshold / 2)


def _matters(rule: SignalRule, reference: Reading) -> float:
    """The smallest change that may alarm, in the signal's unit."""
    return rule.matters * (abs(reference.value) if rule.relative else 1.0)


def _may_have_risen(gold: Reading, settings: MonitorSettings) -> bool:
    """Whether a change of gold accuracy is a rise, or the probe too small to rule one out."""
    highest = gold.value + settings.rise * gold.error
    return is_beyond(gold, settings.rise) or highest >= settings.rules[GOLD].matters


def _worse_by(rule: SignalRule, before: Reading, after: Reading) -> Reading:
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


def _is_explained(rule: SignalRule, signal: SignalState, now: Reading, gold_now: Reading) -> bool:
    """Whether no more of the novelty is lost than of the errors, since the start."""
    start, gold_then = signal.start, signal.gold_at_start
    if rule.channel != "N" or start is None or gold_then is None or start.value <= 0:
        return False
    errors_then, errors_now = 1 - gold_then.value, 1 - gold_now.value
    if errors_then <= 0:
        return False
    left = errors_now / errors_then
    return left < 1 and now.value >= start.value * left
