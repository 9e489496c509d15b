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
    "critic_weight_zero",
    "double_audit",
    "raise_real_share",
]
CHANNELS: tuple[Channel, ...] = ("N", "E")
FULL_WEIGHT = 1 - 1e-9  # a channel alarms at weight 1, up to rounding of the sum

Finite = Annotated[float, Field(allow_inf_nan=False)]
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SignalRule(BaseModel):
    """How one signal is judged.

    Attributes:
        channel: N (no new information) or E (errors reinforced).
        bad: the direction that counts against the run; the other one is never alarming.
        std_floor: least standard deviation used for z-scores, in the signal's own unit: three
            checks can agree by chance, and then any noise would look like a large deviation.
        weight: evidence this signal gives when it alarms; its channel alarms when its alarming
            signals sum to 1. 0 switches the signal off: it is neither judged nor missed.
        reference: compare with this value instead of the mean of the first checks.
        max_drawdown: a breach also when the signal is this much worse than its best so far, from
            the second check on; None for no such limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel: Channel
    bad: Literal["falling", "rising"]
    std_floor: PositiveFinite
    weight: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    reference: Finite | None = None
    max_drawdown: PositiveFinite | None = None

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
    "novelty": _falling(0.05, 0.5),
    "probe_gain": _falling(0.05, 0.5, reference=0.0),
    "probe_nll": SignalRule(channel="E", bad="rising", std_floor=0.05),
    "probe_mean_at_8": SignalRule(
        channel="E", bad="falling", std_floor=0.03, weight=1.0, max_drawdown=0.15
    ),
    "proxy_gold_gap": SignalRule(channel="E", bad="rising", std_floor=0.05),
    "critic_ece": SignalRule(channel="E", bad="rising", std_floor=0.05),
}


class MonitorSettings(BaseModel):
    """Thresholds of the monitor; counts are in checks (one per round).

    Attributes:
        rules: one rule per signal name; given tables are laid over the defaults.
        baseline_checks: first readings of each signal that give its mean and std.
        k: CUSUM slack, in standard deviations.
        h: CUSUM threshold; k 0.5 and h 4 run about 340 in-control checks to a false alarm.
        consecutive: breaches in a row that make an alarm.
        ema: weight of the past in each reading; 0 (off) for rounds, 0.9 for every few steps.
        calm_checks: checks with everything below h/2 before a state is left.
        cooldown_checks: checks that must pass before the same kind of action is repeated.
        max_interventions: most actions of one kind in a run.
        persist_checks: E alarms in a row after an intervention that halt the run.
        blind_checks: checks in a row without one readable signal that make a channel alarm.
        learning_window: N alone only warns while probe_mean_at_8 set a new best within this many
            checks (diversity that falls while the gold probe rises is convergence); 0 is off.
        temperature_step: value of raise_temperature, added to the sampling temperature.
        real_share: value of raise_real_share, the least share of real data.
        audit_factor: value of double_audit, the factor on the audit rate.
        offers: what the loop can carry out; nothing else is ordered. Self-play's tasks are all
            verified and oracle-backed, so `verified_only` and `raise_real_share` are for loops
            that also train on data that is not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: dict[str, SignalRule] = Field(default_factory=lambda: dict(DEFAULT_RULES))
    baseline_checks: int = Field(default=3, ge=2)
    k: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    h: PositiveFinite = 4.0
    consecutive: int = Field(default=2, ge=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    calm_checks: int = Field(default=3, ge=1)
    cooldown_checks: int = Field(default=2, ge=0)
    max_interventions: int = Field(default=2, ge=0)
    persist_checks: int = Field(default=2, ge=1)
    blind_checks: int = Field(default=2, ge=1)
    learning_window: int = Field(default=2, ge=0)
    temperature_step: PositiveFinite = 0.1
    real_share: float = Field(default=0.3, ge=0, le=1)
    audit_factor: float = Field(default=2.0, ge=1, allow_inf_nan=False)
    offers: tuple[ActionKind, ...] = (
        "raise_temperature",
        "retire_saturated",
        "critic_weight_zero",
        "double_audit",
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
                "token entropy alone is no collapse detector (healthy RL lowers it too): keep "
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
