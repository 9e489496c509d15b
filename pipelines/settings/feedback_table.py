"""The `[feedback]` table: what of the run's own records its learner and its critic imitate."""

from typing import Literal

from pydantic import Field, model_validator

from pipelines.settings.table import Table


class FeedbackTable(Table):
    """Supervised steps between blocks, on records that the run admitted."""

    steps: int = Field(
        default=0,
        ge=0,
        description="The number of supervised optimizer steps per round in which the learner "
        "imitates admitted solutions, its own of this round and of earlier ones; fewer are taken "
        "while there are too few records. A step takes as many replies as one of GRPO's takes "
        "completions. 0 feeds nothing back.",
    )
    gate: Literal["verified", "none"] = Field(
        default="verified",
        description="What may be imitated: `verified` takes records that the verifier passed and "
        "the gate admitted; `none` takes everything that the learner wrote in the round, wrong or "
        "not. `none` is dangerous, and there as a control: it reinforces the learner's errors.",
    )
    rate_factor: float = Field(
        default=1.0,
        gt=0,
        description="The learning rate of the supervised steps, as a multiple of what the "
        "learner's schedule says at that step.",
    )
    max_age_rounds: int = Field(
        default=8,
        ge=0,
        description="How many rounds old a record may be that is imitated; 0 takes those of the "
        "round alone.",
    )
    max_copies: int = Field(
        default=8,
        ge=1,
        description="How often one record may be imitated in one round: the learner would learn a "
        "handful of solutions by heart.",
    )
    replay_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="The share of the imitated solutions that are of tasks which the learner still "
        "fails, as far as there are any; the others are drawn from all tasks alike.",
    )
    replay_below: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="The learner still fails a task whose pass rate at its last visit was below "
        "this.",
    )
    revisit_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="The share of a round's groups that play again a task whose solution was "
        "replayed, in place of a fresh one. Tasks that are made on demand are not visited again "
        "otherwise, and what replay did for them stays unknown.",
    )
    critiques_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="The share of the critiques that the critic imitates which are its own, of "
        "failed solutions of this round and of earlier ones within `max_age_rounds`, whose first "
        "claim was confirmed and none refuted. They replace a teacher's of flawed solutions, so "
        "that there are never more than of those; 0 leaves them out.",
    )

    @model_validator(mode="after")
    def _check_gate(self) -> "FeedbackTable":
        if self.gate == "none" and (self.replay_share > 0 or self.revisit_share > 0):
            raise ValueError(
                'feedback.gate = "none" imitates what the learner just wrote, and knows no '
                "verified solution: set feedback.replay_share = 0 and feedback.revisit_share = 0"
            )
        return self

    @model_validator(mode="after")
    def _check_replay(self) -> "FeedbackTable":
        if self.steps == 0 and self.replay_share > 0:
            raise ValueError(
                f"feedback.replay_share = {self.replay_share}, but feedback.steps = 0 takes no "
                "step: give it some"
            )
        if self.revisit_share > 0 and self.replay_share == 0:
            raise ValueError(
                f"feedback.revisit_share = {self.revisit_share} visits tasks that were replayed, "
                "and feedback.replay_share = 0 replays none: raise the second"
            )
        return self
