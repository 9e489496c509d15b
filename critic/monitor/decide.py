"""The entropy monitor: decides from recorded readings whether synthetic data still helps the run.

    readings (value ± error) ──► alarms: certain, large enough, and unexplained by success
    alarms ──► channel N       no new information: novelty fell, gold accuracy did not rise
               channel E       errors reinforced: the learner got worse than it was
               channel critic  the critic got worse than it was
    one check of alarms ──► warn      two in a row ──► intervene, or one that gold accuracy confirms
    N and E, or E that persists after the run intervened ──► halt (the Entropy Threshold)
    as much of E, where nothing that the run offers could help ──► halt
    most of gold accuracy lost in one check, or a fall of it that lost novelty or rising rewards
    have led for two ──► halt at once

`begin` and `check` are pure functions of (state, readings, settings): `replay` over the rows of a
run's `metrics.jsonl` gives every decision again, bit for bit. A level follows from the present
readings: a signal without one leaves the decision, and a run that is well again is `ok` again. The
critic's alarms change what the critic may do, and never halt the learner; how it comes back is in
`critic/monitor/repair.py`.

Left out: measuring signals (`critic/monitor/signals.py`), what an alarm is
(`critic/monitor/evidence.py`), the incident record (`critic/monitor/incident.py`), carrying actions
out (the loop).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from critic.monitor.evidence import (
    WEIGHED,
    WEIGHED_RULE,
    Alarm,
    alarm_of,
    gold_falls,
    is_doubtful,
    may_have_fallen,
    weigh_critic,
    weighed_so_far,
)
from critic.monitor.facts import facts
from critic.monitor.orders import CHANNEL_ACTIONS, may_act, may_help, orders
from critic.monitor.readings import Reading
from critic.monitor.remember import SignalState, observe
from critic.monitor.repair import CriticRecord, at_chance, followed, since_repair
from critic.monitor.settings import (
    ACCUSED,
    AUROC,
    CHANNELS,
    GOLD,
    LOCATED,
    Channel,
    MonitorSettings,
)
from critic.monitor.state import LEVELS, Action, Health, Level, MonitorState
from data.errors import unknown_name

Readings = Mapping[str, Reading | None]
LEAST_EFFECTIVE = 0.1  # share of groups with both outcomes that a dead run must rule out


def begin(readings: Readings, settings: MonitorSettings) -> MonitorState:
    """The state before the first check, given the readings of the cold start.

    Without them the first check is what the later ones are compared with, and what the first round
    of training breaks is not seen.
    """
    return MonitorState(signals=_observed(MonitorState(), readings, settings))


def wants_more(state: MonitorState, readings: Readings, settings: MonitorSettings) -> bool:
    """Whether gold accuracy, so read, may have fallen, and is not sure to.

    It should be read again then, from fresh samples of the same weights, before it is judged: the
    fresh ones alone, since what was low by luck would stay so in a mean with it.

    Args:
        state: before the check.
        readings: that it would judge.
        settings: thresholds.
    """
    if state.level == "halt":
        return False
    signals = _observed(state, readings, settings)
    alarm = alarm_of(GOLD, signals, settings)
    is_sure = alarm is not None and alarm.is_sure
    return not is_sure and may_have_fallen(signals, settings)


def check(
    state: MonitorState, readings: Readings, settings: MonitorSettings
) -> tuple[MonitorState, Health]:
    """Judge one check's readings.

    A signal that is absent, None or not readable neither alarms nor is held against the run. It is
    named in `missing`; where it is gold accuracy for some checks, the state is at least warn.

    Args:
        state: what the previous check, or `begin`, returned.
        readings: this check's, by name; names without a rule are refused.
        settings: thresholds; the same ones throughout a run.

    Returns:
        The state to pass to the next check, and the verdict.

    Raises:
        ValueError: a signal has no rule.
    """
    if state.level == "halt":
        reason = f"halted at check {state.num_checks - 1}: a halted run is not judged again"
        return state, Health(
            check=state.num_checks - 1, state="halt", halted=True, reasons=(reason,)
        )
    evidence = _weigh(state, readings, settings)
    target, why = _target(evidence, state, settings)
    actions = orders(target, why, evidence.channels, evidence.critic, state, settings)
    target, why, actions = _done_or_said(target, why, actions, settings)
    level, calm = _settle(target, state, settings)
    following = MonitorState(
        num_checks=state.num_checks + 1,
        level=level,
        calm=calm,
        signals=evidence.signals,
        streaks=evidence.streaks,
        blind=evidence.blind,
        dead=evidence.dead,
        num_actions={
            **state.num_actions,
            **{a.kind: state.num_actions.get(a.kind, 0) + 1 for a in actions},
        },
        last_action={**state.last_action, **{a.kind: state.num_checks for a in actions}},
        e_persisted=(
            evidence.e_persisted if level == "intervene" or evidence.streaks["E"] else None
        ),
        last_clean_check=state.num_checks if evidence.is_clean else state.last_clean_check,
        critic=since_repair(evidence.critic, [action.kind for action in actions]),
    )
    held = "" if target == level else f"{level} is held: {calm} of {settings.calm_checks} calm"
    return following, Health(
        check=state.num_checks,
        state=level,
        alarms=tuple(alarm.signal for alarm in evidence.alarms),
        channels=evidence.channels,
        actions=actions,
        halted=level == "halt",
        missing=evidence.missing,
        reasons=tuple(line for line in (why, held) if line)
        + facts(evidence.alarms, evidence.signals, state, settings),
    )


@dataclass(frozen=True, slots=True)
class _Evidence:
    """All signals after this check's readings, and the channels they open.

    `is_clean` says that nothing in channel E alarms, or would if the next reading were as bad;
    `overwhelming` names the signals that halt the run in one check.
    """

    signals: dict[str, SignalState]
    missing: tuple[str, ...]
    alarms: tuple[Alarm, ...]
    streaks: dict[Channel, int]
    channels: tuple[Channel, ...]
    overwhelming: tuple[str, ...]
    blind: int
    dead: int
    e_persisted: int | None
    is_clean: bool
    critic: CriticRecord


def _observed(
    state: MonitorState, readings: Readings, settings: MonitorSettings
) -> dict[str, SignalState]:
    """Every watched signal with one more reading; one that is not readable counts as missing."""
    for name in readings:
        if name not in settings.rules:
            known = unknown_name("monitor signal", name, settings.rules)
            raise ValueError(f"{known}; give it a rule under monitor.rules, or do not pass it")
    given = {name: one for name, one in readings.items() if one is not None and one.is_readable}
    before = state.signals.get(GOLD, SignalState()).recent
    seen = {}
    for name, rule in settings.active.items():
        gold = (*before, given.get(GOLD))
        if rule.lags:
            gold = (*before[:-1], before[-1] or given.get(GOLD)) if before else gold
        signal = state.signals.get(name, SignalState())
        seen[name] = observe(rule, signal, given.get(name), gold, settings)
    if {ACCUSED, LOCATED} <= settings.active.keys():
        signal = weighed_so_far(state.signals, settings)
        seen[WEIGHED] = observe(WEIGHED_RULE, signal, weigh_critic(given), (None,), settings)
    return seen


def _weigh(state: MonitorState, readings: Readings, settings: MonitorSettings) -> _Evidence:
    """Take the readings in, and count for how long each channel alarms."""
    signals, rules = _observed(state, readings, settings), settings.active
    alarms = tuple(a for name in rules if (a := alarm_of(name, signals, settings)) is not None)
    counted = [rules[alarm.signal].channel for alarm in alarms if not alarm.is_excused]
    counts = {channel: counted.count(channel) for channel in CHANNELS}
    least = {c: settings.quorum if c == "N" else 1 for c in CHANNELS}
    alarming = {c: counts[c] >= least[c] for c in CHANNELS}
    doubts = {rule.channel for name, rule in rules.items() if is_doubtful(name, signals, settings)}
    critic = followed(
        state.critic,
        state.num_checks,
        settings,
        auroc=readings.get(AUROC),
        is_read=any(_last(signals, n) for n, rule in rules.items() if rule.channel == "critic"),
        alarms=alarming["critic"],
        is_doubtful="critic" in doubts,
        learner_alarms=alarming["E"],
        is_silenced=state.critic_is_silenced,
    )
    alarming["critic"] &= not state.critic_is_silenced
    streaks = {c: state.streaks.get(c, 0) + 1 if alarming[c] else 0 for c in CHANNELS}
    channels = tuple(c for c in CHANNELS if streaks[c] >= settings.consecutive)
    overwhelming = _overwhelming(alarms, channels, signals, settings)
    if any(alarm.is_sure for alarm in alarms):
        channels = tuple(c for c in CHANNELS if c in (*channels, "E"))
    persisted = state.e_persisted
    if "E" in channels:
        persisted = 0 if persisted is None else persisted + 1
    is_blind = signals[GOLD].last is None
    is_dead = _teaches_nothing(signals)
    return _Evidence(
        signals=signals,
        missing=tuple(name for name in rules if signals[name].last is None),
        alarms=alarms,
        streaks=streaks,
        channels=channels,
        overwhelming=overwhelming,
        blind=state.blind + 1 if is_blind else 0,
        dead=state.dead + 1 if is_dead else 0,
        e_persisted=persisted,
        is_clean=not (streaks["E"] or is_blind or "E" in doubts),
        critic=critic,
    )


def _overwhelming(
    alarms: tuple[Alarm, ...],
    channels: tuple[Channel, ...],
    signals: dict[str, SignalState],
    settings: MonitorSettings,
) -> tuple[str, ...]:
    """The signals that halt the run at this check, without a wait for what an intervention does.

    Gold accuracy itself; or others, in a channel that has alarmed long enough to act on, beside a
    fall of gold accuracy that alone would be no alarm yet: as many of channel N as its quorum, or
    one of channel E.
    """
    found = [alarm.signal for alarm in alarms if alarm.is_overwhelming and not alarm.is_excused]
    if GOLD in found:
        return (GOLD,)
    if not gold_falls(signals, settings):
        return ()
    rules = settings.rules
    led = {c: tuple(n for n in found if rules[n].channel == c and c in channels) for c in "NE"}
    return led["E"] + (led["N"] if len(led["N"]) >= settings.quorum else ())


def _teaches_nothing(signals: Mapping[str, SignalState]) -> bool:
    """Whether most solutions are wrong, and nothing tells better ones: no gold task has both
    outcomes, or all of a round's rollouts earned the same."""
    groups, reward = _last(signals, "effective_groups"), _last(signals, "training_reward")
    gold = _last(signals, GOLD)
    if gold is None or gold.value >= 0.5:
        return False
    return (groups is not None and groups.value <= 0) or (reward is not None and not reward.error)


def _is_dead(evidence: _Evidence, settings: MonitorSettings) -> bool:
    """Whether nothing was there to learn from for long enough to be no chance of a small probe."""
    if evidence.dead < settings.dead_checks:
        return False
    groups = _last(evidence.signals, "effective_groups")
    reward = _last(evidence.signals, "training_reward")
    if reward is not None and not reward.error:
        return True
    margin = settings.threshold / math.sqrt(evidence.dead)
    return groups is not None and margin * groups.error <= LEAST_EFFECTIVE


def _last(signals: Mapping[str, SignalState], name: str) -> Reading | None:
    return signals.get(name, SignalState()).last


def _target(
    evidence: _Evidence, state: MonitorState, settings: MonitorSettings
) -> tuple[Level, str]:
    """The level that this check's evidence asks for, before hysteresis, and why."""
    channels = evidence.channels
    if GOLD in evidence.overwhelming:
        return "halt", f"{GOLD} collapsed in one check, and needs no second"
    if evidence.overwhelming:
        named = ", ".join(evidence.overwhelming)
        return "halt", f"Entropy Threshold: {named} collapsed, and now {GOLD} falls"
    if "N" in channels and "E" in channels:
        return "halt", "Entropy Threshold: channels N and E both alarm"
    if "E" in channels:
        if (evidence.e_persisted or 0) >= settings.persist_checks:
            since = f"{evidence.e_persisted} checks after the run intervened"
            return "halt", f"channel E still alarms, {since}"
        if not may_help(state, settings):
            return "halt", "channel E alarms, and no action is left that could help the learner"
        return "intervene", "channel E alarms: the learner's errors are reinforced"
    if "N" in channels:
        return "intervene", "channel N alarms: samples bring nothing new"
    if "critic" in channels and any(
        may_act(kind, state, settings) for kind in CHANNEL_ACTIONS["critic"]
    ):
        return "intervene", "the critic got worse"
    if alarming := [c for c in CHANNELS if evidence.streaks[c]]:
        return "warn", f"alarms in channel {', '.join(alarming)}, which nothing follows from yet"
    if excused := [alarm.signal for alarm in evidence.alarms if alarm.is_excused]:
        return "warn", f"{', '.join(excused)} got worse while {GOLD} rose"
    if evidence.blind >= settings.blind_checks:
        return "warn", f"{GOLD} could not be read for {evidence.blind} checks: nothing is certain"
    if _is_dead(evidence, settings):
        return (
            "warn",
            f"for {evidence.dead} checks all solutions fared alike: nothing to learn from",
        )
    if (line := at_chance(evidence.critic.auroc, settings)) and not state.critic_is_silenced:
        return "warn", line
    return "ok", ""


def _done_or_said(
    target: Level, why: str, actions: tuple[Action, ...], settings: MonitorSettings
) -> tuple[Level, str, tuple[Action, ...]]:
    """A level and its orders, of which a monitor that only watches makes words."""
    if not settings.watch_only:
        return target, why, actions
    if target == "halt":
        return "intervene", f"{why}; only watched, so that the run goes on", ()
    would = ", ".join(action.kind for action in actions)
    return target, f"{why}; only watched: it would have ordered {would}" if would else why, ()


def _settle(target: Level, state: MonitorState, settings: MonitorSettings) -> tuple[Level, int]:
    """Rise at once; warn no longer than there is a reason; intervene until some calm checks."""
    if LEVELS.index(target) >= LEVELS.index(state.level) or state.level == "warn":
        return target, 0
    if state.calm + 1 >= settings.calm_checks:
        return target, 0
    return state.level, state.calm + 1
