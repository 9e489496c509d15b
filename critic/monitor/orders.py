"""What the monitor orders at a level: actions that the run offers, has not used up, and may repeat.

Leaves out which level it is (`critic/monitor/decide.py`) and carrying actions out (the loop).
"""

from collections.abc import Mapping, Sequence

from critic.monitor.repair import CriticRecord, at_chance, repairs
from critic.monitor.settings import ActionKind, Channel, MonitorSettings
from critic.monitor.state import Action, Level, MonitorState

CHANNEL_ACTIONS: Mapping[Channel, tuple[ActionKind, ...]] = {
    "N": ("raise_temperature", "retire_saturated"),
    "E": ("verified_only", "raise_real_share", "silence_critic"),
    "critic": ("silence_critic", "restore_critic"),
}

ONCE: tuple[ActionKind, ...] = ("retire_saturated", "verified_only", "raise_real_share")


def orders(
    target: Level,
    why: str,
    channels: Sequence[Channel],
    critic: CriticRecord,
    state: MonitorState,
    settings: MonitorSettings,
) -> tuple[Action, ...]:
    """The actions a level calls for, less those cooling down or used up.

    Args:
        target: the level.
        why: it is called for.
        channels: that have alarmed for long enough to act on.
        critic: what the critic's record asks for besides.
        state: before this check.
        settings: what may be ordered, and how much of it.
    """
    values: dict[ActionKind, float] = {
        "raise_temperature": settings.temperature_step,
        "retire_saturated": 1.0,
        "verified_only": 1.0,
        "silence_critic": 0.0,
        "unsilence_critic": 1.0,
        "restore_critic": -1.0 if state.critic.champion is None else state.critic.champion,
        "retrain_critic": settings.retrain_rounds,
        "double_audit": settings.audit_factor,
        "raise_real_share": settings.real_share,
    }
    kinds: tuple[ActionKind, ...] = ()
    if target == "warn" and not at_chance(critic.auroc, settings):  # asked more, it says no more
        kinds = ("double_audit",)
    elif target == "intervene":
        kinds = tuple(dict.fromkeys(kind for c in channels for kind in CHANNEL_ACTIONS[c]))
    may_be_silenced = is_left("silence_critic", state, settings)
    further, because = repairs(critic, state.critic_is_silenced, may_be_silenced, settings)
    if target == "halt":
        further = ()
    if state.critic_is_silenced:  # it is silent already
        kinds = tuple(kind for kind in kinds if kind != "silence_critic")
    wanted = [(kind, why) for kind in kinds] + [(kind, because) for kind in further]
    return tuple(
        Action(kind=kind, value=values[kind], why=reason)
        for kind, reason in wanted
        if may_act(kind, state, settings)
    )


def may_act(kind: ActionKind, state: MonitorState, settings: MonitorSettings) -> bool:
    """Whether an action may be ordered now: offered, not used up, not cooling down."""
    if not is_left(kind, state, settings):
        return False
    if kind in ONCE and kind in state.last_action:  # it is so from then on
        return False
    if kind == "restore_critic" and (state.critic.champion is None or _retrains(state, settings)):
        return False
    last = state.last_action.get(kind)
    return last is None or state.num_checks - last > settings.cooldown_checks


def _retrains(state: MonitorState, settings: MonitorSettings) -> bool:
    """Whether the critic is being retrained, which putting it back would undo."""
    began = state.last_action.get("retrain_critic")
    return began is not None and state.num_checks - began <= settings.retrain_rounds


def may_help(state: MonitorState, settings: MonitorSettings) -> bool:
    """Whether the learner's errors may yet recede by an action: one that is left, or just taken."""
    for kind in CHANNEL_ACTIONS["E"]:
        taken = state.last_action.get(kind)
        if taken is not None and state.num_checks - taken < settings.persist_checks:
            return True
        is_done = kind == "silence_critic" and state.critic_is_silenced
        if not is_done and may_act(kind, state, settings):
            return True
    return False


def is_left(kind: ActionKind, state: MonitorState, settings: MonitorSettings) -> bool:
    """Whether the loop can do it, and the run has not used it up."""
    used = state.num_actions.get(kind, 0)
    return kind in settings.offers and used < settings.max_interventions
