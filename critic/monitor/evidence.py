"""Whether a signal's latest readings are an alarm.

    unpaired      the mean of the two latest readings against the run's best mean of four: worse by
                  the threshold and by what matters, and the latest one alone is worse, too
    confirmed     gold accuracy is worse than its best by what matters and by `sure`, of its noise
                  and of how a run may swing: in one reading, deeper than any dip that the run came
                  back from, or in two on average
    paired        the same two against the cold start, and against the two earliest of a rolling
                  window; only where gold accuracy surely did not rise over the same checks, and
                  where surely more of the novelty is lost than of the errors
    excused       gold_form (and unpaired signals of channel E that a user adds), where gold
                  accuracy surely rose since that best: it warns, and nothing follows
    weighed       false accusations and location, only where both together are surely worse than at
                  their best: a critic that learns to point accuses, too, and one that spares all is
                  blind
    overwhelming  the latest reading alone is worse far beyond its noise, and most of what falls is
                  lost

Pure functions. What is remembered is in `critic/monitor/remember.py`, what follows from alarms in
`critic/monitor/decide.py`.
"""

import math
from collections.abc import Mapping

from critic.monitor.readings import Frozen, Reading, change, is_beyond, pool
from critic.monitor.remember import NUM_BEST, SignalState, matters_of, observe, worse_by
from critic.monitor.settings import ACCUSED, GOLD, LOCATED, MonitorSettings, SignalRule

WEIGHED = "critic_balanced_accuracy"  # of no rule: it decides nothing by itself
WEIGHED_RULE = SignalRule(channel="critic", bad="falling", matters=0.1)
DEEPER = 1.5  # times the deepest dip that the run came back from, to be no other dip
WORTH = 0.6  # of `threshold`, alone: reading again costs a healthy run a tenth of its probe
NUM_LATEST = 2  # readings of "now": one bad reading alone confirms nothing


class Alarm(Frozen):
    """A signal that moved the wrong way: by how much, from where, since when.

    Attributes:
        is_excused: gold accuracy surely rose meanwhile, so that nothing may follow from it.
        is_overwhelming: the latest reading needs no second, and most is lost.
        is_confirmed: what was read makes it sure, and no further check is waited for.
    """

    signal: str
    reference: Reading
    now: Reading
    since: str
    is_excused: bool = False
    is_overwhelming: bool = False
    is_confirmed: bool = False

    @property
    def is_sure(self) -> bool:
        """Whether it is a fall of gold accuracy that needs no second check."""
        return self.signal == GOLD and (self.is_confirmed or self.is_overwhelming)

    def line(self, rule: SignalRule) -> str:
        """Why it alarms, for a person."""
        moved = change(self.reference, self.now)
        size = (
            f"{abs(moved.value) / moved.error:.1f} standard errors" if moved.error else "no noise"
        )
        beside = ", and gold accuracy did not rise" if rule.paired else ""
        beside = ", but gold accuracy rose" if self.is_excused else beside
        return (
            f"{self.signal} ({rule.channel}): {self.reference.value:.4g} {self.since}, now "
            f"{self.now.value:.4g} ± {self.now.error:.2g} ({size}){beside}"
        )


def alarm_of(
    name: str,
    signals: dict[str, SignalState],
    settings: MonitorSettings,
) -> Alarm | None:
    """The alarm that a signal's latest readings are, or None: calm, missing, or not comparable."""
    rule, signal = settings.rules[name], signals[name]
    last, now = signal.last, pool(signal.recent[-NUM_LATEST:])
    if last is None or now is None or _is_no_worse_critic(name, signals, settings):
        return None
    for reference, since in _references(rule, signal, signals[GOLD], now, settings):
        is_overwhelming = _is_overwhelming(rule, reference, last, settings)
        confirmed = _is_confirmed(signal, reference, last, settings) if name == GOLD else None
        alone = last if is_overwhelming else confirmed
        if alone is not None or _is_worse(rule, reference, now, last, settings):
            return Alarm(
                signal=name,
                reference=reference,
                now=now if alone is None else alone,
                since=since,
                is_excused=_is_excused(name, signals, settings),
                is_overwhelming=is_overwhelming,
                is_confirmed=confirmed is not None,
            )
    return None


def is_doubtful(name: str, signals: dict[str, SignalState], settings: MonitorSettings) -> bool:
    """Whether a signal's latest reading alone is so bad that another like it may be an alarm.

    An alarm is of two readings: the first bad one is mostly none yet, and no clean one either.
    """
    rule, signal = settings.rules[name], signals[name]
    last = signal.last
    if last is None or _is_excused(name, signals, settings):
        return False
    if _is_no_worse_critic(name, signals, settings):
        return False
    return any(
        _is_worse_alone(rule, reference, last, settings)
        for reference, _ in _references(rule, signal, signals[GOLD], last, settings)
    )


def may_have_fallen(signals: dict[str, SignalState], settings: MonitorSettings) -> bool:
    """Whether gold accuracy's latest reading alone is so low that it is worth reading again."""
    gold, rule = signals[GOLD], settings.rules[GOLD]
    if gold.last is None or gold.best is None or not is_doubtful(GOLD, signals, settings):
        return False
    return is_beyond(worse_by(rule, gold.best, gold.last), WORTH * settings.threshold)


def gold_falls(signals: dict[str, SignalState], settings: MonitorSettings) -> bool:
    """Whether gold accuracy's latest reading alone is worse than its best by what matters.

    By half the threshold of its noise: too little for an alarm, and enough beside an overwhelming
    one of another signal.
    """
    rule, gold = settings.rules[GOLD], signals[GOLD]
    if gold.best is None or gold.last is None:
        return False
    lost = worse_by(rule, gold.best, gold.last)
    return lost.value >= matters_of(rule, gold.best) and is_beyond(lost, settings.threshold / 2)


def _is_excused(name: str, signals: dict[str, SignalState], settings: MonitorSettings) -> bool:
    """Whether the learner surely became right more often since the signal was at its best."""
    rule, signal, gold = settings.rules[name], signals[name], signals[GOLD]
    if rule.channel != "E" or rule.paired or name == GOLD or gold.last is None:
        return False
    then, now = signal.gold_at_best, pool(gold.recent[-NUM_LATEST:])
    return then is not None and now is not None and is_beyond(change(then, now), settings.threshold)


def _is_no_worse_critic(
    name: str, signals: dict[str, SignalState], settings: MonitorSettings
) -> bool:
    """Whether false accusations or location may be worse, and both together are not surely so."""
    weighed = signals.get(WEIGHED)
    if name not in (ACCUSED, LOCATED) or weighed is None or weighed.last is None:
        return False
    now = pool(weighed.recent[-NUM_LATEST:])
    if weighed.best is None or now is None:
        return False
    return not is_beyond(change(now, weighed.best), settings.rise)


def weigh_critic(readings: Mapping[str, Reading | None]) -> Reading | None:
    """The mean of location accuracy and of the share of sound solutions that are spared.

    Not their harmonic mean (ProcessBench's F1, arXiv:2412.06559): where one of them is 0 it is 0
    whatever becomes of the other, so that a critic that names no flaw may come to accuse all. None
    where either is missing.
    """
    located, accused = readings.get(LOCATED), readings.get(ACCUSED)
    if located is None or accused is None:
        return None
    return pool([located, Reading(value=1 - accused.value, error=accused.error)])


def weighed_so_far(signals: Mapping[str, SignalState], settings: MonitorSettings) -> SignalState:
    """What is remembered of both together; of an older state, from what it remembers of each."""
    weighed = signals.get(WEIGHED)
    if weighed is not None:
        return weighed
    weighed = SignalState()
    accused, located = (signals.get(name, SignalState()).recent for name in (ACCUSED, LOCATED))
    for one, other in zip(accused, located, strict=False):
        both = weigh_critic({ACCUSED: one, LOCATED: other})
        weighed = observe(WEIGHED_RULE, weighed, both, (None,), settings)
    return weighed


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
    if gold.last is None or gold_now is None:
        return []
    if rule.channel == "N" and _is_explained(signal, now, gold_now, settings):
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
    matters, worse = matters_of(rule, reference), worse_by(rule, reference, now)
    if worse.value < matters or matters == 0:
        return False
    certain = is_beyond(worse, settings.threshold)
    return certain and _is_worse_alone(rule, reference, last, settings)


def _is_worse_alone(
    rule: SignalRule, reference: Reading, last: Reading, settings: MonitorSettings
) -> bool:
    """Whether one reading is worse by half of what two must be worse by."""
    alone = worse_by(rule, reference, last)
    large = alone.value >= matters_of(rule, reference) / 2
    return large and is_beyond(alone, settings.threshold / 2)


def _is_confirmed(
    gold: SignalState, reference: Reading, last: Reading, settings: MonitorSettings
) -> Reading | None:
    """The reading that makes a fall of gold accuracy sure, beyond how a run may swing; or None.

    The latest one alone, if it is deeper than every dip that the run came back from; or the mean of
    two, each of which alone is worse, too.
    """
    rule, now = settings.rules[GOLD], pool(gold.recent[-NUM_LATEST:])
    least = matters_of(rule, reference)

    def is_sure(one: Reading, num: int) -> bool:
        lost = worse_by(rule, reference, one)
        error = math.hypot(lost.error, settings.swing * math.sqrt(1 / num + 1 / NUM_BEST))
        bound = max(settings.sure, settings.threshold)
        return lost.value >= least and is_beyond(Reading(value=lost.value, error=error), bound)

    deeper = worse_by(rule, reference, last).value >= DEEPER * gold.dip
    if deeper and is_sure(last, 1):
        return last
    both = [one for one in gold.recent[-NUM_LATEST:] if one is not None]
    each = [_is_worse_alone(rule, reference, one, settings) for one in both]
    is_lasting = len(both) == NUM_LATEST and all(each)
    return now if is_lasting and now is not None and is_sure(now, NUM_LATEST) else None


def _is_overwhelming(
    rule: SignalRule, reference: Reading, last: Reading, settings: MonitorSettings
) -> bool:
    """Whether one reading is worse far beyond its noise, and most of what falls is lost."""
    alone, least = worse_by(rule, reference, last), matters_of(rule, reference)
    if rule.bad == "falling":
        least = max(least, settings.overwhelming_share * abs(reference.value))
    bound = max(settings.overwhelming, settings.threshold)
    return least > 0 and alone.value >= least and is_beyond(alone, bound)


def _may_have_risen(gold: Reading, settings: MonitorSettings) -> bool:
    """Whether a change of gold accuracy is a rise, or the probe too small to rule one out."""
    highest = gold.value + settings.rise * gold.error
    return is_beyond(gold, settings.rise) or highest >= settings.rules[GOLD].matters


def _is_explained(
    signal: SignalState, now: Reading, gold_now: Reading, settings: MonitorSettings
) -> bool:
    """Whether no more of the novelty may be lost than of the errors, since the start.

    Of few errors the share that is left is hardly known: what is lost beyond it must be as certain
    as an alarm is. With novelty v and errors e, v_start e_now - v_now e_start is above 0 then.
    """
    start, gold_then = signal.start, signal.gold_at_start
    if start is None or gold_then is None or start.value <= 0:
        return False
    errors_then, errors_now = 1 - gold_then.value, 1 - gold_now.value
    error = math.hypot(
        start.error * errors_now,
        start.value * gold_now.error,
        now.error * errors_then,
        now.value * gold_then.error,
    )
    beyond = Reading(value=start.value * errors_now - now.value * errors_then, error=error)
    return not is_beyond(beyond, settings.threshold)
