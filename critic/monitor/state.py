"""What the monitor says and remembers: levels, actions, a round's verdict, the state between
rounds."""

from typing import Literal

from pydantic import Field

from critic.monitor.readings import Frozen
from critic.monitor.remember import SignalState
from critic.monitor.repair import CriticRecord
from critic.monitor.settings import ActionKind, Channel

Level = Literal["ok", "warn", "intervene", "halt"]
LEVELS: tuple[Level, ...] = ("ok", "warn", "intervene", "halt")


class Action(Frozen):
    """One intervention for the loop to carry out.

    `value` is: raise_temperature, the amount to add; raise_real_share, the least share;
    double_audit, the factor on the critiques per audited solution; silence_critic and
    unsilence_critic, the weight (0, 1); restore_critic, the check whose critic comes back;
    retrain_critic, the number of rounds; retire_saturated and verified_only, 1 (on).
    """

    kind: ActionKind
    value: float
    why: str


class Health(Frozen):
    """The outcome of one check.

    `alarms` names the alarming signals, `channels` those that have alarmed long enough to act on,
    `missing` the judged signals that could not be read; `reasons` explains the state line by line.
    """

    check: int
    state: Level
    alarms: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()
    actions: tuple[Action, ...] = ()
    halted: bool = False
    missing: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


class MonitorState(Frozen):
    """Everything the next check depends on; `model_dump_json` and back is exact.

    Attributes:
        streaks: for each channel the checks in a row in which it alarmed.
        blind: checks in a row without a reading of gold accuracy.
        dead: checks in a row in which most solutions were wrong, and none fared better.
        calm: checks in a row that would not have made the run intervene, while it does.
        e_persisted: checks since channel E was first acted on, while it alarms; None before, and
            once the run no longer intervenes.
        last_clean_check: the last check (0-based) at which nothing in channel E alarmed, nor would
            have if the next one had been as bad: the one to roll back to.
        critic: of the critic beside its signals.
    """

    num_checks: int = 0
    level: Level = "ok"
    calm: int = 0
    signals: dict[str, SignalState] = Field(default_factory=dict)
    streaks: dict[Channel, int] = Field(default_factory=dict)
    blind: int = 0
    dead: int = 0
    num_actions: dict[ActionKind, int] = Field(default_factory=dict)
    last_action: dict[ActionKind, int] = Field(default_factory=dict)
    e_persisted: int | None = None
    last_clean_check: int | None = None
    critic: CriticRecord = CriticRecord()

    @property
    def critic_is_silenced(self) -> bool:
        """Whether the critic's word counts for nothing, so that it decides nothing."""
        silenced = self.num_actions.get("silence_critic", 0)
        return silenced > self.num_actions.get("unsilence_critic", 0)
