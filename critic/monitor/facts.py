"""Why a verdict is what it is, for a person: a line per alarm, and what each action changed.

Leaves out the level's own reason (`critic/monitor/decide.py`).
"""

from collections.abc import Mapping, Sequence

from critic.monitor.evidence import Alarm
from critic.monitor.readings import change
from critic.monitor.remember import SignalState
from critic.monitor.repair import REPAIRS
from critic.monitor.settings import GOLD, MonitorSettings
from critic.monitor.state import MonitorState

EFFECT_AFTER = 2  # checks after an action at which its effect is said
LEARNER_EFFECTS = (GOLD, "token_entropy", "training_reward")
CRITIC_EFFECTS = ("critic_false_accusations", "critic_location", "critic_brier", "critic_bias")
CRITIC_ACTIONS = (*REPAIRS, "unsilence_critic")


def facts(
    alarms: Sequence[Alarm],
    signals: Mapping[str, SignalState],
    state: MonitorState,
    settings: MonitorSettings,
) -> tuple[str, ...]:
    """A line for each alarm, for the signals that could not be read, and for what actions did.

    Args:
        alarms: of this check.
        signals: after it.
        state: before it.
        settings: thresholds.
    """
    rules = settings.rules
    lines = [alarm.line(rules[alarm.signal]) for alarm in alarms]
    unread = [name for name in settings.active if signals[name].last is None]
    if unread:
        lines.append(f"no reading, so not judged: {', '.join(unread)}")
    if state.critic_is_silenced:
        lines.append("the critic is silenced, so that its signals decide nothing")
    return (*lines, *_effects(signals, state))


def _effects(signals: Mapping[str, SignalState], state: MonitorState) -> list[str]:
    """What changed since each action whose time it is: of the critic, where it was meant for it."""
    due = [
        kind
        for kind, at in state.last_action.items()
        if kind != "double_audit" and state.num_checks - at == EFFECT_AFTER
    ]
    for_critic = [kind for kind in due if kind in CRITIC_ACTIONS]
    for_learner = [kind for kind in due if kind not in CRITIC_ACTIONS or kind == "silence_critic"]
    lines = []
    for kinds, names in ((for_learner, LEARNER_EFFECTS), (for_critic, CRITIC_EFFECTS)):
        if kinds:
            moved = "; ".join(_moved(signals, names)) or "no readings"
            lines.append(f"{EFFECT_AFTER} checks after {', '.join(kinds)}: {moved}")
    return lines


def _moved(signals: Mapping[str, SignalState], names: tuple[str, ...]) -> list[str]:
    """How signals changed since the check at which actions were ordered."""
    moved = []
    for name in names:
        recent = signals[name].recent if name in signals else ()
        now = recent[-1] if recent else None
        then = recent[-1 - EFFECT_AFTER] if len(recent) > EFFECT_AFTER else None
        if now is not None and then is not None:
            by = change(then, now)
            moved.append(
                f"{name} {then.value:.3g} → {now.value:.3g} ({by.value:+.2g} ± {by.error:.2g})"
            )
    return moved
