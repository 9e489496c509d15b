"""The entropy monitor: decides from recorded signals whether synthetic data still helps the run.

    signals ──► z against the first checks ──► one-sided CUSUM ──► breach ──► alarm (2 in a row)
    alarms  ──► channel N (no new information), channel E (errors reinforced)
    N and E, or E persisting after an intervention ──► halt      one of them ──► intervene
    a breach that opens no channel, or a signal that cannot be read ──► warn

`check` is a pure function of (state, signals, settings): `replay` over the rows of a run's
`metrics.jsonl` gives every decision again, bit for bit. The brakes: a state is left only after
some calm checks, an action has a cooldown and a cap, and acting on a channel restarts its CUSUMs
at h/2 (fast initial response), so that E persists only if the signals after the action say so.

Left out: measuring signals (`critic/monitor/signals.py`), the incident record
(`critic/monitor/incident.py`), carrying actions out (the loop), and the fit of reward against
entropy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from critic.monitor.evidence import (
    SignalState,
    baseline_of,
    breach_line,
    is_calm,
    observe,
    readable,
)
from critic.monitor.settings import (
    CHANNELS,
    FULL_WEIGHT,
    ActionKind,
    Channel,
    MonitorSettings,
)
from critic.monitor.state import LEVELS, Action, Health, Level, MonitorState
from data.errors import unknown_name

CHANNEL_ACTIONS: Mapping[Channel, tuple[ActionKind, ...]] = {
    "N": ("raise_temperature", "retire_saturated"),
    "E": ("verified_only", "raise_real_share", "silence_critic"),
}
LEARNING_SIGNAL = "probe_mean_at_8"


def check(
    state: MonitorState, signals: Mapping[str, float | None], settings: MonitorSettings
) -> tuple[MonitorState, Health]:
    """Judge one check's signals.

    A signal that is absent, None or not finite keeps its last evidence (it cannot leave an alarm
    by going missing), is named in `reasons`, and makes the state at least warn. A channel without
    any readable signal for `blind_checks` checks alarms: what cannot be seen is not assumed good.

    Args:
        state: what the previous check returned; `MonitorState()` at the start of a run.
        signals: this check's readings by name; names without a rule are refused.
        settings: thresholds; the same ones throughout a run.

    Returns:
        The state to pass to the next check, and the verdict.

    Raises:
        ValueError: a signal has no rule.
    """
    for name in signals:
        if name not in settings.rules:
            known = unknown_name("monitor signal", name, settings.rules)
            raise ValueError(f"{known}; give it a rule under monitor.rules, or do not pass it")
    if state.level == "halt":
        reason = f"halted at check {state.num_checks - 1}: a halted run is not judged again"
        return state, Health(
            check=state.num_checks - 1, state="halt", halted=True, reasons=(reason,)
        )
    evidence = _weigh(state, signals, settings)
    target, why = _target(evidence, state, settings)
    actions = _actions(target, why, evidence, state, settings)
    level, calm = _settle(target, evidence, state, settings)
    following = MonitorState(
        num_checks=state.num_checks + 1,
        level=level,
        calm=calm,
        signals=_restart(evidence, actions, settings),
        blind=evidence.blind,
        num_actions={
            **state.num_actions,
            **{a.kind: state.num_actions.get(a.kind, 0) + 1 for a in actions},
        },
        last_action={**state.last_action, **{a.kind: state.num_checks for a in actions}},
        e_persisted=None if level == "ok" else evidence.e_persisted,
        last_clean_check=(
            state.num_checks if _is_clean(level, evidence, settings) else state.last_clean_check
        ),
    )
    held = "" if target == level else f"{level} is held: {calm} of {settings.calm_checks} calm"
    return following, Health(
        check=state.num_checks,
        state="warn" if evidence.missing and level == "ok" else level,
        alarms=evidence.alarms,
        channels=evidence.channels,
        actions=actions,
        halted=level == "halt",
        missing=evidence.missing,
        reasons=tuple(line for line in (why, held) if line) + _facts(evidence, signals, settings),
    )


@dataclass(frozen=True, slots=True)
class _Evidence:
    """All signals after this check's readings, and the channels they open.

    `e_persisted` is None until channel E is acted on, 0 at that check, then E alarms in a row.
    """

    signals: dict[str, SignalState]
    missing: tuple[str, ...]
    alarms: tuple[str, ...]
    blind: dict[Channel, int]
    channels: tuple[Channel, ...]
    e_persisted: int | None


def _weigh(
    state: MonitorState, signals: Mapping[str, float | None], settings: MonitorSettings
) -> _Evidence:
    """Take the readings in, and weigh the alarms of each channel."""
    rules = settings.active
    seen = {
        name: observe(
            rule,
            state.signals.get(name, SignalState()),
            signals.get(name),
            state.num_checks,
            settings,
        )
        for name, rule in rules.items()
    }
    missing = tuple(name for name in rules if not readable(signals.get(name)))
    alarms = tuple(name for name in rules if seen[name].streak >= settings.consecutive)
    sighted = {rule.channel for name, rule in rules.items() if name not in missing}
    blind = {c: 0 if c in sighted else state.blind.get(c, 0) + 1 for c in CHANNELS}
    weights = {
        c: math.fsum(rules[name].weight for name in alarms if rules[name].channel == c)
        for c in CHANNELS
    }
    channels = tuple(
        c for c in CHANNELS if weights[c] >= FULL_WEIGHT or blind[c] >= settings.blind_checks
    )
    persisted = state.e_persisted
    if "E" in channels:
        persisted = 0 if persisted is None else persisted + 1
    elif persisted is not None:
        persisted = 0
    return _Evidence(seen, missing, alarms, blind, channels, persisted)


def _target(
    evidence: _Evidence, state: MonitorState, settings: MonitorSettings
) -> tuple[Level, str]:
    """The level this check's evidence asks for, before hysteresis, and why."""
    if len(evidence.channels) == 2:
        return "halt", "Entropy Threshold: channels N and E both alarm"
    if "E" in evidence.channels:
        if (evidence.e_persisted or 0) >= settings.persist_checks:
            since = f"{evidence.e_persisted} checks after it was acted on"
            return "halt", f"channel E still alarms, {since}"
        return "intervene", "channel E alarms alone: errors are being reinforced"
    if "N" in evidence.channels:
        best_check = evidence.signals.get(LEARNING_SIGNAL, SignalState()).best_check
        if best_check is not None and state.num_checks - best_check < settings.learning_window:
            age = state.num_checks - best_check
            return "warn", f"channel N alarms, but {LEARNING_SIGNAL} was best {age} checks ago"
        return "intervene", "channel N alarms alone: samples bring nothing new"
    if any(signal.streak for signal in evidence.signals.values()):
        return "warn", "a signal is past its threshold, but opens no channel"
    return "ok", ""


def _actions(
    target: Level, why: str, evidence: _Evidence, state: MonitorState, settings: MonitorSettings
) -> tuple[Action, ...]:
    """The actions a level calls for, less those cooling down or used up."""
    values: dict[ActionKind, float] = {
        "raise_temperature": settings.temperature_step,
        "retire_saturated": 1.0,
        "verified_only": 1.0,
        "silence_critic": 0.0,
        "double_audit": settings.audit_factor,
        "raise_real_share": settings.real_share,
    }
    kinds: tuple[ActionKind, ...] = ()
    if target == "warn":
        kinds = ("double_audit",)
    elif target == "intervene":
        kinds = tuple(kind for c in evidence.channels for kind in CHANNEL_ACTIONS[c])
    return tuple(
        Action(kind=kind, value=values[kind], why=why)
        for kind in kinds
        if _may_act(kind, state, settings)
    )


def _may_act(kind: ActionKind, state: MonitorState, settings: MonitorSettings) -> bool:
    if kind not in settings.offers or state.num_actions.get(kind, 0) >= settings.max_interventions:
        return False
    last = state.last_action.get(kind)
    return last is None or state.num_checks - last > settings.cooldown_checks


def _restart(
    evidence: _Evidence, actions: tuple[Action, ...], settings: MonitorSettings
) -> dict[str, SignalState]:
    """Restart the CUSUMs of the channels that were acted on at h/2, where they stand higher."""
    kinds = {action.kind for action in actions}
    acted = {c for c in CHANNELS if kinds & set(CHANNEL_ACTIONS[c])}
    return {
        name: signal.model_copy(update={"cusum": min(signal.cusum, settings.h / 2)})
        if settings.rules[name].channel in acted
        else signal
        for name, signal in evidence.signals.items()
    }


def _settle(
    target: Level, evidence: _Evidence, state: MonitorState, settings: MonitorSettings
) -> tuple[Level, int]:
    """Apply hysteresis: rise at once, fall only after enough calm checks in a row."""
    if LEVELS.index(target) >= LEVELS.index(state.level):
        return target, 0
    unclear = any(evidence.blind.values()) or not all(
        is_calm(signal, settings) for signal in evidence.signals.values()
    )
    if unclear:
        return state.level, 0
    if state.calm + 1 >= settings.calm_checks:
        return target, 0
    return state.level, state.calm + 1


def _is_clean(level: Level, evidence: _Evidence, settings: MonitorSettings) -> bool:
    """Whether samples up to here may be kept: E readable and calm, no channel open, no halt."""
    errors = [name for name in evidence.signals if settings.rules[name].channel == "E"]
    return (
        level != "halt"
        and not evidence.channels
        and not any(name in evidence.missing for name in errors)
        and all(is_calm(evidence.signals[name], settings) for name in errors)
    )


def _facts(
    evidence: _Evidence, signals: Mapping[str, float | None], settings: MonitorSettings
) -> tuple[str, ...]:
    """One line per breach, per signal that could not be read, per blind channel."""
    seen = evidence.signals
    lines = [breach_line(name, seen[name], settings) for name in seen if seen[name].streak]
    for name in evidence.missing:
        value = signals.get(name)
        what = "missing" if value is None else f"not a finite number ({value})"
        lines.append(f"{name} ({settings.rules[name].channel}): {what}, so not judged")
    for channel, checks in evidence.blind.items():
        if checks:
            lines.append(f"channel {channel} is blind: no readable signal, {checks} in a row")
    learning = [n for n in seen if baseline_of(settings.rules[n], seen[n], settings) is None]
    if learning:
        which = "any signal" if len(learning) == len(seen) else ", ".join(learning)
        lines.append(f"no baseline yet, so no CUSUM, for {which}")
    return tuple(lines)
