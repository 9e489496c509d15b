"""What the monitor remembers of one signal, and how a reading changes it.

z-score against the first checks (or the rule's reference), one-sided CUSUM, drawdown from the best
reading, breaches in a row. What follows from them is decided in `critic/monitor/decide.py`.
"""

import math

from pydantic import BaseModel, ConfigDict

from critic.monitor.settings import MonitorSettings, SignalRule

LARGEST_READABLE = 1e100  # beyond it a squared deviation overflows: no signal of ours is near


class Frozen(BaseModel):
    """Base of the monitor's records: immutable, unknown keys refused, exact through JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SignalState(Frozen):
    """What is remembered of one signal; all readings after smoothing."""

    baseline: tuple[float, ...] = ()
    smoothed: float | None = None
    best: float | None = None
    best_check: int | None = None
    cusum: float = 0.0
    streak: int = 0  # breaches in a row; frozen while the signal is missing


def readable(value: float | None) -> bool:
    """Whether a reading can be judged: given, finite, and not so large that it overflows."""
    return value is not None and math.isfinite(value) and abs(value) < LARGEST_READABLE


def baseline_of(
    rule: SignalRule, signal: SignalState, settings: MonitorSettings
) -> tuple[float, float] | None:
    """Mean (or the rule's reference) and floored std of a signal; None while not yet known."""
    if len(signal.baseline) < settings.baseline_checks:
        return None
    mean = math.fsum(signal.baseline) / len(signal.baseline)
    variance = math.fsum((x - mean) ** 2 for x in signal.baseline) / (len(signal.baseline) - 1)
    centre = mean if rule.reference is None else rule.reference
    return centre, max(math.sqrt(variance), rule.std_floor)


def observe(
    rule: SignalRule,
    signal: SignalState,
    value: float | None,
    check: int,
    settings: MonitorSettings,
) -> SignalState:
    """Take one reading in; one that cannot be read leaves the signal's evidence as it was."""
    if value is None or not readable(value):
        return signal
    past = value if signal.smoothed is None else signal.smoothed
    smoothed = settings.ema * past + (1 - settings.ema) * value
    baseline = baseline_of(rule, signal, settings)
    cusum, breach = 0.0, False
    if baseline is not None:
        z = rule.sign * (smoothed - baseline[0]) / baseline[1]
        # Capped, so that a long collapse does not take equally long to be forgiven.
        cusum = min(max(signal.cusum + z - settings.k, 0.0), 2 * settings.h)
        # The reading itself must be bad too: one outlier keeps a CUSUM high for many checks.
        breach = cusum > settings.h and z > settings.k
    is_best = signal.best is None or rule.sign * (smoothed - signal.best) < 0
    best = smoothed if is_best or signal.best is None else signal.best
    dropped = rule.max_drawdown is not None and rule.sign * (smoothed - best) >= rule.max_drawdown
    return SignalState(
        baseline=signal.baseline if baseline is not None else (*signal.baseline, smoothed),
        smoothed=smoothed,
        best=best,
        best_check=check if is_best else signal.best_check,
        cusum=cusum,
        streak=signal.streak + 1 if breach or dropped else 0,
    )


def is_calm(signal: SignalState, settings: MonitorSettings) -> bool:
    """Whether a signal is below the line (h/2) at which a state may be left."""
    return signal.cusum < settings.h / 2 and signal.streak == 0


def breach_line(name: str, signal: SignalState, settings: MonitorSettings) -> str:
    """One line that shows why a signal is past its threshold."""
    rule = settings.rules[name]
    baseline = baseline_of(rule, signal, settings)
    against = "no baseline yet" if baseline is None else f"{baseline[0]:.4g} ± {baseline[1]:.2g}"
    return (
        f"{name} ({rule.channel}, weight {rule.weight:g}): {signal.smoothed:.4g} "
        f"against {against}, best {signal.best:.4g}, CUSUM {signal.cusum:.3g} "
        f"(limit {settings.h:g}), breach {signal.streak} in a row"
    )
