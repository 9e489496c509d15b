"""What the monitor says and remembers: levels, actions, a round's verdict, the state between
rounds."""

from typing import Literal

from pydantic import Field

from critic.monitor.evidence import Frozen, SignalState
from critic.monitor.settings import ActionKind, Channel

Level = Literal["ok", "warn", "intervene", "halt"]
LEVELS: tuple[Level, ...] = ("ok", "warn", "intervene", "halt")


class Action(Frozen):
    """One intervention for the loop to carry out.

    `value` is: raise_temperature, the amount to add; raise_real_share, the least share;
    double_audit, the factor on the audit rate; silence_critic, the weight (0);
    retire_saturated and verified_only, 1 (on).
    """

    kind: ActionKind
    value: float
    why: str


class Health(Frozen):
    """The outcome of one check.

    `alarms` names the alarming signals, `channels` the channels they open, `missing` the judged
    signals that could not be read; `reasons` explains the state line by line.
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

    `last_clean_check` is the last check (0-based) with channel E calm and N not alarming: the one
    to roll back to. `e_persisted` counts E alarms in a row since channel E was acted on, None
    before that.
    """

    num_checks: int = 0
    level: Level = "ok"
    calm: int = 0
    signals: dict[str, SignalState] = Field(default_factory=dict)
    blind: dict[Channel, int] = Field(default_factory=dict)
    num_actions: dict[ActionKind, int] = Field(default_factory=dict)
    last_action: dict[ActionKind, int] = Field(default_factory=dict)
    e_persisted: int | None = None
    last_clean_check: int | None = None
