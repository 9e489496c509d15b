"""Settings of the entropy monitor: one rule per signal, thresholds, and what it may change.

Data only; `critic/monitor/decide.py` holds the decisions. A config table overrides single fields of
a rule (`monitor.rules.token_entropy.matters = 0.4`) and may add rules for further signals.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.errors import unknown_name

Channel = Literal["N", "E", "critic"]
ActionKind = Literal[
    "raise_temperature",
    "retire_saturated",
    "verified_only",
    "silence_critic",
    "unsilence_critic",
    "restore_critic",
    "retrain_critic",
    "double_audit",
    "raise_real_share",
]
CHANNELS: tuple[Channel, ...] = ("N", "E", "critic")
GOLD = "gold_accuracy"
# Either may be bought with the other, so both are weighed in one (`critic/monitor/evidence.py`).
ACCUSED, LOCATED = "critic_false_accusations", "critic_location"
AUROC = "critic_auroc"  # no change of it alarms; where it stays at chance (`repair.py`) does

PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]


# Of a run that is not ours: fine-tuning at a constant rate swings by 1.5 points and more.
FOREIGN_SWING = 0.015


class SignalRule(BaseModel):
    """How one signal is judged."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    channel: Channel = Field(
        description="The signal's channel: N (no new information), E (the learner's errors are "
        "reinforced) or critic (the critic got worse)."
    )
    bad: Literal["falling", "rising", "either"] = Field(
        description="The direction that counts against the run; the other one never alarms. "
        "With either, what counts is the distance from 0."
    )
    matters: PositiveFinite = Field(
        description="The smallest change that may alarm, however certain it is, in the signal's "
        "own unit, or as a share of the reference where `relative` is set."
    )
    relative: bool = Field(
        default=False, description="Whether `matters` is a share of the reference's value."
    )
    paired: bool = Field(
        default=False,
        description="Whether the signal alarms only where gold accuracy did not rise over the "
        "same checks; it is then compared with the cold start and with a rolling window, and "
        "otherwise with the run's best.",
    )
    lags: bool = Field(
        default=False,
        description="Whether a round's reading is of its rollouts, before what it learned from "
        "them; a paired signal is then compared with the gold accuracy of the check before.",
    )
    watched: bool = Field(
        default=True, description="Whether the signal decides; one that does not is only logged."
    )

    @property
    def sign(self) -> float:
        """Factor that makes a change positive where it is bad."""
        return -1.0 if self.bad == "falling" else 1.0


def _novelty(matters: float = 0.3) -> SignalRule:
    return SignalRule(channel="N", bad="falling", matters=matters, relative=True, paired=True)


# Where each `matters` comes from stands in docs/use.md.
DEFAULT_RULES: Mapping[str, SignalRule] = {
    "token_entropy": _novelty(),
    "answer_entropy_across": _novelty().model_copy(update={"watched": False}),
    "answer_entropy_within": _novelty(),
    "mutual_information": _novelty(),
    "distinct_ratio": _novelty(),
    "effective_groups": _novelty(),
    GOLD: SignalRule(channel="E", bad="falling", matters=0.05),
    "gold_form": SignalRule(channel="E", bad="falling", matters=0.10),
    "gold_nll": SignalRule(channel="E", bad="rising", matters=0.5, paired=True),
    "training_reward": SignalRule(channel="E", bad="rising", matters=0.10, paired=True, lags=True),
    ACCUSED: SignalRule(channel="critic", bad="rising", matters=0.15),
    LOCATED: SignalRule(channel="critic", bad="falling", matters=0.15),
    "critic_brier": SignalRule(channel="critic", bad="rising", matters=0.10),
    "critic_bias": SignalRule(channel="critic", bad="either", matters=0.20),
    AUROC: SignalRule(channel="critic", bad="falling", matters=0.10, watched=False),
}
FED = "fed_accuracy"
# Not among the defaults: where nothing is fed back it could never be read.
FED_RULE = SignalRule(channel="E", bad="falling", matters=0.10)


class MonitorSettings(BaseModel):
    """Thresholds of the monitor; counts are in checks (one per round)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rules: dict[str, SignalRule] = Field(
        default_factory=lambda: dict(DEFAULT_RULES),
        description="One rule per signal, by its name; given tables are laid over the defaults.",
    )
    threshold: PositiveFinite = Field(
        default=3.5,
        description="A change alarms from so many of its standard errors on; `python -m "
        "critic.monitor.calibrate` says how often a healthy run is then alarmed.",
    )
    rise: PositiveFinite = Field(
        default=1.0,
        description="A paired signal does not alarm where gold accuracy rose by so many of its "
        "standard errors, or may have risen by what matters of it, within so many.",
    )
    sure: PositiveFinite = Field(
        default=4.0,
        description="A fall of gold accuracy is not waited on from so many standard errors on, "
        "never fewer than `threshold`; `swing` is among them. One check is then enough, if it is "
        "half as deep again as any dip that the run came back from.",
    )
    swing: float = Field(
        default=0.0075,
        ge=0,
        le=1,
        description="The standard deviation by which gold accuracy is taken to move from check to "
        "check without falling, its noise aside.",
    )
    reads_again: int = Field(
        default=3,
        ge=0,
        description="How often the gold tasks are sampled afresh, before a check is judged, where "
        "gold accuracy may have fallen and is not sure to; the fresh samples alone are judged.",
    )
    overwhelming: PositiveFinite = Field(
        default=6.0,
        description="One reading alone is overwhelming from so many of its standard errors on, "
        "never fewer than `threshold`, if it is also large enough: gold accuracy then halts the "
        "run at once, other signals that have alarmed for long enough do where gold accuracy falls "
        "beside them.",
    )
    overwhelming_share: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="The share of its reference that a falling signal must have lost to be "
        "overwhelming: a policy that swings loses less in one check, and is well in the next.",
    )
    quorum: int = Field(
        default=2,
        ge=2,
        description="The signals that must alarm together to open channel N: entropy falls in "
        "every run that learns, so one alone is never enough.",
    )
    window: int = Field(
        default=6,
        ge=4,
        description="The rolling window of paired signals: the mean of its two latest readings is "
        "compared with that of its two earliest ones.",
    )
    consecutive: int = Field(
        default=2,
        ge=1,
        description="The number of checks in a row in which a channel alarms until the run "
        "intervenes; before that it warns. A fall of gold accuracy that one check makes sure needs "
        "no second.",
    )
    persist_checks: int = Field(
        default=2,
        ge=1,
        description="The run is halted when channel E still alarms so many checks after the run "
        "intervened; at once where the run offers nothing that could help the learner.",
    )
    calm_checks: int = Field(
        default=2,
        ge=1,
        description="The run stops intervening after so many checks in a row that would not have "
        "made it intervene.",
    )
    cooldown_checks: int = Field(
        default=2,
        ge=0,
        description="The number of checks that must pass before an action is repeated.",
    )
    max_interventions: int = Field(
        default=2, ge=0, description="The most actions of one kind in a run."
    )
    blind_checks: int = Field(
        default=2,
        ge=1,
        description="The monitor warns when gold accuracy could not be read in so many checks in "
        "a row.",
    )
    dead_checks: int = Field(
        default=5,
        ge=1,
        description="The monitor warns when in so many checks in a row most solutions were wrong "
        "and all fared alike, a round's rollouts or each gold task's: nothing is there to learn "
        "from.",
    )
    chance_checks: int = Field(
        default=5,
        ge=0,
        description="The monitor warns when over so many checks the verdicts of a critic at work, "
        "one that is trained or points without code, were no better than chance; 0 never does.",
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
    retrain_rounds: int = Field(
        default=2,
        ge=1,
        description="The number of rounds in which a critic that retrain_critic is ordered for "
        "learns by imitation of true critiques alone.",
    )
    audit_factor: int = Field(
        default=2,
        ge=1,
        description="The factor by which double_audit raises the number of critiques per audited "
        "solution; the solutions stay the same.",
    )
    offers: tuple[ActionKind, ...] = Field(
        default=(
            "raise_temperature",
            "retire_saturated",
            "silence_critic",
            "unsilence_critic",
            "restore_critic",
            "retrain_critic",
            "double_audit",
        ),
        description="The actions that the loop can carry out; the monitor orders no other. A run "
        "whose critic points at nothing leaves out silence_critic and unsilence_critic. "
        "A run with `feedback.steps` adds verified_only: from then on it feeds back only records "
        "that the verifier passed, of rounds whose check was clean. raise_real_share is for loops "
        "that also train on the data of others.",
    )

    watch_only: bool = Field(
        default=False,
        description="Whether the monitor only says what it sees and would do: it then orders "
        "nothing, and where it would halt the run it stays at intervene.",
    )
    critic_points: bool = Field(
        default=True,
        description="Whether the critic may point at the learner's flaws, so that one that got "
        "worse is silenced before it is retrained; a run whose `pointing.source` leaves it out "
        "says false by itself.",
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
                if base is None and not {"channel", "bad", "matters"} <= set(table):
                    known = unknown_name("monitor signal", str(name), DEFAULT_RULES)
                    raise ValueError(f"{known}; a further one needs channel, bad and matters")
                table = {**(base.model_dump() if base else {}), **table}
            merged[name] = table
        return merged

    @model_validator(mode="after")
    def _can_judge(self) -> "MonitorSettings":
        """Refuse rules without the gold probe, which every pair needs."""
        gold = self.rules[GOLD]
        if not gold.watched or (gold.channel, gold.bad, gold.paired) != ("E", "falling", False):
            raise ValueError(
                f"the monitor needs a labelled gold probe: keep monitor.rules.{GOLD} watched, in "
                "channel E, falling and unpaired"
            )
        novel = sum(rule.channel == "N" for rule in self.active.values())
        if 0 < novel < self.quorum:
            raise ValueError(
                f"channel N watches {novel} signals, so it can never alarm with monitor.quorum = "
                f"{self.quorum}: watch more of them, or none"
            )
        return self

    @property
    def active(self) -> dict[str, SignalRule]:
        """The rules that decide."""
        return {name: rule for name, rule in self.rules.items() if rule.watched}


def table_of_run(
    table: Mapping[str, object], *, critic_points: bool, feeds_back: bool
) -> dict[str, object]:
    """A `[monitor]` table with what the run can do about an alarm, where it says nothing itself.

    Args:
        table: as the user wrote it.
        critic_points: the critic may point for the learner; else silencing it changes nothing.
        feeds_back: the run trains on its own records: one more action and signal.
    """
    offers = MonitorSettings.model_fields["offers"].default
    if not critic_points:
        offers = tuple(
            kind for kind in offers if kind not in ("silence_critic", "unsilence_critic")
        )
    rules = table.get("rules", {})
    if not feeds_back or not isinstance(rules, Mapping):  # pydantic names the wrong type
        return {"critic_points": critic_points, "offers": offers, **table}
    own = rules.get(FED, {})
    fed = {**FED_RULE.model_dump(), **own} if isinstance(own, Mapping) else own
    offers = (*offers, "verified_only")
    return {"critic_points": critic_points, "offers": offers, **table, "rules": {**rules, FED: fed}}
