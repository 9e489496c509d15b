"""The `[rewards]` table: what a solution earns."""

from pydantic import Field

from pipelines.settings.table import Table
from rewards.judge_settings import JudgeSettings
from rewards.sandbox.settings import SandboxSettings


class RewardTable(Table):
    """What the verifier pays, and what the user adds."""

    timeout_seconds: float = Field(
        default=5.0,
        gt=0,
        le=86400,
        description="A verifier that needs more seconds for one solution is stopped, and the "
        "solution is left out. A program has as much processor time, twice as much by the clock, "
        "and fails beyond that.",
    )
    outcome_weight: float = Field(
        default=1.0,
        ge=0,
        description="The reward of a solution that the verifier passes; 0 leaves the reward to "
        "`functions`, and the verifier only measures.",
    )
    functions: dict[str, float] = Field(
        default_factory=dict,
        description='Your own rewards with their weights: `"mine.py:reward" = 0.5`, or '
        '`"package.module:reward"`, a function of task and completion that returns a number, one '
        "for each step, or None (`rewards/functions.py`).",
    )
    judge: JudgeSettings | None = Field(
        default=None,
        description="A model behind an OpenAI-compatible API whose score is added to the reward "
        "(`rewards/judge.py`); leave the table out for none.",
    )
    sandbox: SandboxSettings = Field(
        default=SandboxSettings(),
        description="Where the code verifier runs programs, and what they may use there.",
    )
    proof_tasks: int = Field(
        default=8,
        ge=0,
        description="The number of held-out tasks of each verifier and family on which it proves "
        "itself before a run: references must pass, planted wrong answers must not; 0 asks no "
        "proof.",
    )
    min_tpr: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="The least share of right answers that a verifier must pass in its proof; "
        "below it the run is refused.",
    )
    min_tnr: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="The least share of planted wrong answers that a verifier must judge wrong in "
        "its proof; below it the run is refused.",
    )
    format_weight: float = Field(
        default=0.0,
        ge=0,
        description="What a well-formed solution earns besides. Above 0 a malformed one is paid "
        "for its answer, where that can be read, instead of earning nothing.",
    )
    length_penalty: float = Field(
        default=0.0,
        ge=0,
        description="What a completion of `max_completion_length` tokens loses; a shorter one "
        "loses less, and none that is within `length_allowance`.",
    )
    length_allowance: float = Field(
        default=0.8,
        ge=0,
        lt=1,
        description="The share of `max_completion_length` that a completion may have without any "
        "`length_penalty`; 0 makes every token cost alike.",
    )
    workers: int = Field(
        default=4,
        ge=1,
        description="The most processes of a verifier, which judge a batch in parallel: an answer "
        "that hangs holds up one of them.",
    )
    shuffled: bool = Field(
        default=False,
        description="Permutes the rewards over each batch, as a control: nothing can be learned.",
    )
