"""The settings table of the proposer. Leaves out how it is trained (`game/proposer.py`)."""

from typing import Literal

from pydantic import Field, model_validator

from pipelines.settings.table import Table


class ProposerTable(Table):
    """The learner as a writer of tasks, paid for those that it solves about half the time."""

    steps: int = Field(
        default=0,
        ge=0,
        description="The number of optimizer steps per round in which the learner writes tasks, "
        "before those in which it solves; 0 leaves the proposer out.",
    )
    share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="The share of a round's groups whose task is one that the learner wrote, as "
        "far as there are any.",
    )
    solvers: int = Field(
        default=8,
        ge=2,
        description="The number of independent solutions of each valid, new proposal, which say "
        "how hard it is.",
    )
    validity: Literal["rule", "agreement"] = Field(
        default="rule",
        description="What makes a proposal valid and gives its answer: `rule` is code, for "
        "arithmetic that it can work out; `agreement` is the answer of the most solvers, which "
        "may be wrong, and is then rewarded as if it were right.",
    )
    agreement: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="The share of the solvers that must agree where nothing else makes a proposal "
        "valid.",
    )
    examples: int = Field(
        default=3,
        ge=1,
        description="The number of the source's tasks that a prompt for a proposal shows; the "
        "chain dialect's shows none.",
    )
    least_rate: float = Field(
        default=0.1,
        ge=0,
        lt=0.5,
        description="Proposals are played whose pass rate is at least this and at most its "
        "complement: those that are solved always or never teach nothing.",
    )
    max_waiting: int = Field(
        default=512,
        ge=1,
        description="The number of proposals that wait to be played; the oldest are dropped.",
    )

    @model_validator(mode="after")
    def _check_agreement(self) -> "ProposerTable":
        if self.validity == "agreement" and self.agreement > 1 - self.least_rate:
            raise ValueError(
                f"proposer.agreement = {self.agreement} and proposer.least_rate = "
                f"{self.least_rate} leave no proposal: what so many solvers agree on is too easy "
                f"to be played; lower one of them"
            )
        return self
