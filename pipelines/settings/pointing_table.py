"""The `[pointing]` table: who points at first flaws, how a pointing is confirmed, what it does."""

from typing import Literal

from pydantic import Field

from pipelines.settings.table import Table


class PointingTable(Table):
    """Who points at the first flaw of a failed solution, and what follows from it."""

    source: Literal["cheapest", "code", "critic", "chance", "none"] = Field(
        default="cheapest",
        description="Who points: code, the critic, chance, nobody, or the cheapest that can: code "
        "where it can check steps, else the critic, with a share left to chance.",
    )
    step_checks: bool = Field(
        default=True,
        description="Whether code may check single steps for training; false withholds that, so "
        "that it only measures.",
    )
    confirm: bool = Field(
        default=True,
        description="Whether a pointing must be confirmed, by code or by continuations, before it "
        "counts; false believes every one, as a control.",
    )
    trust: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="A critic's pointing that no test could decide counts too while at least this "
        "share of its pointings at planted flaws is right, by the lower end of a 95% interval; 1 "
        "trusts no critic.",
    )
    meta_checks: int = Field(
        default=0,
        ge=0,
        description="A critic's pointing that no test could decide counts only if so many members "
        "of its pool name the same step too: the critic that the run began with, then its latest "
        "snapshots. Where no flaw can be planted, and nothing says how far to trust it, their "
        "agreement alone makes it count; 0 asks none.",
    )
    credit: bool = Field(
        default=True,
        description="Whether a first flaw that counts alone carries the penalty of its solution.",
    )
    flaw_penalty: float = Field(
        default=1.0,
        ge=0,
        description="Each token of a first flaw that counts gets minus this as its advantage.",
    )
    chance_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="The share of failed solutions at which chance points instead of the critic, "
        "so that the critic's blind spots are found; unless 0, chance points at every failure in "
        "which the critic finds no flaw, too.",
    )
    look: int = Field(
        default=4,
        ge=1,
        description="The number of continuations from each side of a step that one look samples; "
        "a claim gets three looks at most.",
    )
    continuation_budget: float = Field(
        default=0.5,
        ge=0,
        description="The most tokens that may be spent on continuations, as a multiple of the "
        "learner's own.",
    )
    reset_share: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="The share of a round's groups that begin within a solution of an earlier "
        "round: before a flaw, or anywhere in one that passed; 0 begins all of them at the "
        "problem.",
    )
    reset_max_age: int = Field(
        default=24,
        ge=1,
        description="How many updates old the weights may be that wrote such a beginning.",
    )
    reset_focus: float = Field(
        default=2.0,
        ge=0,
        description="How strongly those beginnings are preferred from which about half of the "
        "continuations should pass; 0 draws all alike.",
    )

    @property
    def by_critic(self) -> bool:
        """Whether the critic points, and no code in its place."""
        return self.source == "critic" or (self.source == "cheapest" and not self.step_checks)
