"""Settings of the entropy monitor: one rule per signal, thresholds, and what it may change.

Data only; `critic/monitor/decide.py` holds the decisions. A config table overrides single fields of
a rule (`monitor.rules.token_entropy.weight = 0.2`) and may add rules for further signals.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.errors import unknown_name

Channel = Literal["N", "E"]
ActionKind = Literal[
    "raise_temperature",
    "retire_saturated",
    "verified_only",
    "silence_critic",
    "double_audit",
    "raise_real_share",
]
CHANNELS: tuple[Channel, ...] = ("N", "E")
FULL_WEIGHT = 1 - 1e-9  # a channel alarms at weight 1, up to rounding of the sum

Finite = Annotated[float, Field(allow_inf_nan=False)]
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SignalRule(BaseModel):
    """How one signal is judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel: Channel = Field(
        description="The signal's channel: N (no new information) or E (errors reinforced)."
    )
    bad: Literal["falling", "rising"] = Field(
        description="The direction that counts against the run; the other one never alarms."
    )
    std_floor: PositiveFinite = Field(
        description="The least standard deviation that a deviation is measured in, in the signal's "
        "own unit: three checks can agree by chance, and then any noise would look large."
    )
    weight: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        default=0.5,
        description="The evidence that an alarm of this signal gives; a channel alarms when its "
        "alarming signals sum to 1, and a signal of weight 0 is neither judged nor missed.",
    )
    reference: Finite | None = Field(
        default=None,
        description="The value that the signal is compared with; by default the mean of its first "
        "checks.",
    )
    max_drawdown: PositiveFinite | None = Field(
        default=None,
        description="From the second check on, a signal that is so much worse than its best so far "
        "is a breach, too; by default there is no such limit.",
    )

    @property
    def sign(self) -> float:
        """Factor that makes a deviation positive where it is bad."""
        return 1.0 if self.bad == "rising" else -1.0


def _falling(std_floor: float, weight: float, reference: float | None = None) -> SignalRule:
    return SignalRule(
        channel="N", bad="falling", std_floor=std_floor, weight=weight, reference=reference
    )


# Token and within-group entropy fall in healthy RL as well, so even together they are half an
# alarm. The probe gain repeats the probe NLL of channel E, so alone it must not open channel N.
DEFAULT_RULES: Mapping[str, SignalRule] = {
    "token_entropy": _falling(0.05, 0.25),
    "answer_entropy_across": _falling(0.15, 0.5),
    "answer_entropy_within": _falling(0.15, 0.25),
    "mutual_information": _falling(0.15, 0.5),
    "distinct_ratio": _falling(0.05, 0.5),
    "effective_groups": _falling(0.10, 0.5),
    "probe_gain": _falling(0.05, 0.5, reference=0.0),
    "probe_nll": SignalRule(channel="E", bad="rising", std_floor=0.05),
    "probe_mean_at_8": SignalRule(
        channel="E", bad="falling", std_floor=0.03, weight=1.0, max_drawdown=0.15
    ),
    "proxy_gold_gap": SignalRule(channel="E", bad="rising", std_floor=0.05),
    "critic_ece": SignalRule(channel="E", bad="rising", std_floor=0.05),
}


class MonitorSettings(BaseModel):
    """Thresholds of the monitor; counts are in checks (one per round)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: dict[str, SignalRule] = Field(
        default_factory=lambda: dict(DEFAULT_RULES),
        description="One rule per signal, by its name; given tables are laid over the defaults.",
    )
    baseline_checks: int = Field(
        default=3,
        ge=2,
        description="The first readings of each signal, whose mean and deviation later ones are "
        "compared with.",
    )
    k: float = Field(
        default=0.5,
        ge=0,
        allow_inf_nan=False,
        description="The slack of the CUSUM, in standard deviations: smaller ones do not add up.",
    )
    h: PositiveFinite = Field(
        default=4.0,
        description="The threshold of the CUSUM, in standard deviations; with k = 0.5 it runs "
        "about 340 checks to a false alarm.",
    )
    consecutive: int = Field(
        default=2, ge=1, description="The number of breaches in a row that make an alarm."
    )
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="The weight of the past in each reading; 0 judges each by itself, 0.9 suits "
        "checks every few steps.",
    )
    calm_checks: int = Field(
        default=3,
        ge=1,
        description="A state is left after so many checks with every CUSUM below h/2.",
    )
    cooldown_checks: int = Field(
        default=2,
        ge=0,
        description="The number of checks that must pass before an action is repeated.",
    )
    max_interventions: int = Field(
        default=2, ge=0, description="The most actions of one kind in a run."
    )
    persist_checks: int = Field(
        default=2,
        ge=1,
        description="The run is halted when channel E alarms in so many checks in a row after an "
        "intervention.",
    )
    blind_checks: int = Field(
        default=2,
        ge=1,
        description="A channel alarms when none of its signals can be read in so many checks in a "
        "row.",
    )
    learning_window: int = Field(
        default=2,
        ge=0,
        description="Channel N alone only warns while probe_mean_at_8 set a new best within so "
        "many checks: diversity that falls while the gold probe rises is convergence; 0 is off.",
    )
    temperature_step: PositiveFinite = Field(
        default=0.1, description="What raise_temperature adds to the sampling temperature."
    )
    real_share: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="The least share of real data that raise_real_share asks for.",
    )
    audit_factor: float = Field(
        default=2.0,
        ge=1,
        allow_inf_nan=False,
        description="The factor by which double_audit raises the share of audited tasks.",
    )
    offers: tuple[ActionKind, ...] = Field(
        default=("raise_temperature", "retire_saturated", "silence_critic", "double_audit"),
        description="The actions that the loop can carry out; the monitor orders no other. "
        "Self-play's tasks are all verified, so verified_only and raise_real_share are for loops "
        "that also train on other data.",
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _over_defaults(cls, given: object) -> object:
        """Lay the given tables over the default rules, field by field."""
        if not isinstance(given, Mapping):
            return given  # pydantic names the wrong type
        merged: dict[str, object] = dict(DEFAULT_RULES)
        for name, table in given.items():
            if isinstance(table, Mapping):
                base = DEFAULT_RULES.get(name)
                if base is None and not {"channel", "bad", "std_floor"} <= set(table):
                    known = unknown_name("monitor signal", str(name), DEFAULT_RULES)
                    raise ValueError(f"{known}; a further one needs channel, bad and std_floor")
                table = {**(base.model_dump() if base else {}), **table}
            merged[name] = table
        return merged

    @model_validator(mode="after")
    def _can_judge(self) -> "MonitorSettings":
        """Refuse rules that could never alarm, or that would trust token entropy alone."""
        for channel in CHANNELS:
            total = sum(rule.weight for rule in self.rules.values() if rule.channel == channel)
            if total < FULL_WEIGHT:
                raise ValueError(
                    f"the weights of channel {channel} sum to {total:g}, so it can never alarm: "
                    "raise monitor.rules.*.weight to a sum of at least 1"
                )
        token = self.rules["token_entropy"]
        if token.weight >= FULL_WEIGHT or token.channel != "N":
            raise ValueError(
                "token entropy alone does not detect a collapse (healthy RL lowers it too): keep "
                f"token_entropy in channel N with a weight below 1, got {token.weight:g} in "
                f"{token.channel}"
            )
        if not any(self.rules[name].weight for name in ("probe_nll", "probe_mean_at_8")):
            raise ValueError(
                "the monitor needs a labelled gold probe: give probe_nll or probe_mean_at_8 a "
                "weight above 0"
            )
        return self

    @property
    def active(self) -> dict[str, SignalRule]:
        """The rules that are judged (weight above 0)."""
        return {name: rule for name, rule in self.rules.items() if rule.weight > 0}
