"""The configuration's `[learner]` and `[critic]` tables: a role's model, sizes and training."""

from typing import Literal

from pydantic import Field, field_validator

from pipelines.settings.library import LibraryTable
from pipelines.settings.table import Table


class RoleTable(Table):
    """One policy: what it starts from, how long its blocks are, and TRL's own options."""

    model: str = Field(
        default="",
        description="A checkpoint's folder or hub id; empty takes the cold start.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="The type of weights that are not trained: the engine's or, with `lora`, those "
        "of the frozen base. What is trained stays in float32, in which small steps are not lost, "
        "and so does an engine that serves a base merged with its adapter.",
    )
    steps_per_round: int = Field(
        default=4,
        ge=0,
        description="The number of optimizer steps per round; 0 leaves the critic untrained and is "
        "refused for the learner.",
    )
    max_completion_length: int = Field(
        default=64, ge=1, description="The most tokens of one completion."
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="The temperature that training samples are drawn at; 1 is the policy itself.",
    )
    system_prompt: str = Field(
        default="",
        description="What every conversation with this role begins with, as the system's turn.",
    )
    router_bias_rate: float = Field(
        default=0.0,
        ge=0,
        description="How far one step moves an expert's routing bias towards an even load "
        "(arXiv:2408.15664); 0 leaves the bias as it is.",
    )
    lora: LibraryTable = Field(
        default_factory=dict,
        description="Options that peft's LoraConfig gets as they stand; empty trains all weights.",
    )
    adapter: str = Field(
        default="",
        description="The folder of a saved LoRA adapter that training goes on from, such as "
        "`RUN/checkpoints/round_00003/learner_adapter`; `model` is what it was trained on, and "
        "its options are its own.",
    )
    grpo: LibraryTable = Field(
        default_factory=dict, description="Options that TRL's GRPOConfig gets as they stand."
    )

    @field_validator("grpo")
    @classmethod
    def _has_a_table_for_the_template(cls, grpo: LibraryTable) -> LibraryTable:
        given = grpo.get("chat_template_kwargs")
        if given is not None and not isinstance(given, dict):
            raise ValueError("chat_template_kwargs must be a table, as { enable_thinking = false }")
        return grpo

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained, and the model beneath it is not."""
        return bool(self.lora or self.adapter)

    @property
    def held_dtype(self) -> str:
        """The type of the weights as the trainer loads them."""
        return self.dtype if self.adapts else "float32"

    @property
    def served_dtype(self) -> str:
        """The type of the weights in the engine."""
        return "float32" if self.adapts else self.dtype

    @property
    def autocast(self) -> dict[str, object]:
        """TRL's options of half precision, which follow `dtype` unless the table says otherwise."""
        half = self.dtype == "bfloat16" and not self.grpo.get("fp16")
        return {"bf16": self.grpo.get("bf16", half), "fp16": self.grpo.get("fp16", False)}

    @property
    def chat_template_kwargs(self) -> dict[str, object]:
        """What the chat template gets for every conversation with this role."""
        given = self.grpo.get("chat_template_kwargs")
        return dict(given) if isinstance(given, dict) else {}


class CriticTable(RoleTable):
    """The critic's role, and what it is asked to judge."""

    reward: Literal["default", "dsm2", "tango", "rlcr"] = Field(
        default="default",
        description="How a critique is rewarded: our default, or as in DeepSeekMath-V2, Tango or "
        "RLCR (`critic/reward.py` has the formulas).",
    )
    imitation_steps: int = Field(
        default=4,
        ge=0,
        description="The number of optimizer steps per round in which the critic imitates true "
        "critiques, before those in which it is rewarded; 0 leaves them out.",
    )
    warm_up_rounds: int = Field(
        default=0,
        ge=0,
        description="The number of first rounds in which the critic learns and does not point yet.",
    )
    pool_every: int = Field(
        default=4,
        ge=1,
        description="The rounds between two snapshots of the critic for `pointing.meta_checks`.",
    )
    auditor: str = Field(
        default="",
        description="A checkpoint's folder or hub id, of another seed: a critic that neither "
        "learns nor points, whose words on each round's solutions are logged beside the critic's.",
    )
    champion: bool = Field(
        default=True,
        description="Whether a round's training of a critic that points is taken back where the "
        "critic got worse on the round's solutions.",
    )
    balance_classes: bool = Field(
        default=True,
        description="Whether the critic sees as many sound solutions as flawed ones; otherwise it "
        "sees them as the learner writes them, and nothing planted.",
    )
    planted_share: float = Field(
        default=0.25,
        ge=0,
        le=0.5,
        description="The least share of the critic's solutions that are right ones with a planted "
        "flaw; the tagged dialect plants none.",
    )
    judging_temperature: float = Field(
        default=0.3,
        ge=0,
        description="The temperature of the critiques that point, are audited or choose; training "
        "explores at `temperature`, and a judge that explores accuses sound steps.",
    )
    critiques_per_audit: int = Field(
        default=4,
        ge=1,
        description="The number of critiques of each audited solution; each counts on its own.",
    )
