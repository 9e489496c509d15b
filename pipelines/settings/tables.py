"""The run's configuration: typed TOML tables, overrides, errors that name the nearest key.

Holds no defaults of the libraries: a table that configures one (`[learner.grpo]`, `[sft.trainer]`,
`[learner.lora]`) is passed to that library's own config class, its keys checked against it by
`check_library_table`. Importing this module imports no torch.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from critic.monitor.settings import MonitorSettings
from pipelines.settings.library import LibraryTable


class Table(BaseModel):
    """A frozen TOML table that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunTable(Table):
    """Where the run lives and how long it is."""

    directory: Path = Field(description="run directory; made if absent")
    seed: int = Field(default=0, ge=0)
    rounds: int = Field(default=4, ge=1, description="self-play rounds")
    num_processes: int = Field(default=1, ge=1, description="what accelerate launch must start")
    max_seconds: float = Field(default=0, ge=0, description="stop cleanly after; 0 = no limit")


class Example(Table):
    """A worked reply, shown to an instruction-tuned model as an earlier turn."""

    question: str
    reply: str


class TaskTable(Table):
    """Where tasks come from and how a solution to one is written."""

    dialect: Literal["chain", "tagged"] = "tagged"
    source: Literal["reasoning_gym", "jsonl", "dataset"] = "reasoning_gym"
    family: str = ""
    path: str = ""
    question_field: str = "question"
    answer_field: str = "answer"
    dataset_split: str = "train"
    examples: tuple[Example, ...] = Field(default=(), description="tagged dialect only")
    params: dict[str, object] = Field(default_factory=dict)


class SftTable(Table):
    """The cold start (`pipelines/sft.py`): procedural demonstrations, then TRL's SFTTrainer."""

    directory: Path = Field(description="where the cold-started checkpoint is written")
    model: LibraryTable = Field(default_factory=dict, description="SparringMoeConfig overrides")
    num_solutions: int = Field(default=8000, ge=1)
    num_critiques: int = Field(default=8000, ge=0)
    slip_rate: float = Field(default=0.0, ge=0, lt=1, description="share of forgotten carries")
    flawed_share: float = Field(default=0.5, ge=0, le=1, description="of the criticised solutions")
    threads: int = Field(
        default=0, ge=0, description="PyTorch's CPU threads while it trains; 0 = PyTorch's choice"
    )
    trainer: LibraryTable = Field(default_factory=dict, description="SFTConfig, verbatim")


class RoleTable(Table):
    """One policy: what it starts from, how long its blocks are, and TRL's own options."""

    model: str = Field(default="", description="directory or hub id; empty = the cold start")
    dtype: Literal["float32", "bfloat16"] = "float32"
    steps_per_round: int = Field(default=4, ge=0, description="optimizer steps in a block")
    max_completion_length: int = Field(default=64, ge=1, description="tokens")
    temperature: float = Field(default=1.0, gt=0)
    router_bias_rate: float = Field(
        default=0.0, ge=0, description="aux-loss-free balancing; 0 = frozen"
    )
    lora: LibraryTable = Field(default_factory=dict, description="peft LoraConfig; empty = full")
    grpo: LibraryTable = Field(default_factory=dict, description="GRPOConfig, verbatim")


class RewardTable(Table):
    """How verdicts and critiques become one reward."""

    critic_weight: float = Field(default=0.2, ge=0, le=0.45)
    step_weight: float = Field(default=0.1, ge=0, le=1, description="alpha of A_step at round 0")
    step_weight_final: float = Field(default=0.001, ge=0, le=1)
    timeout_seconds: float = Field(default=5.0, gt=0)
    shuffled: bool = Field(default=False, description="control: rewards permuted over the batch")


class CriticTable(RoleTable):
    """The critic's role, and what it is asked to judge."""

    reward: Literal["default", "dsm2", "tango", "rlcr"] = "default"
    planted_share: float = Field(default=0.25, ge=0, le=1)
    critiques_per_audit: int = Field(default=4, ge=1)


class RolloutTable(Table):
    """The sampler, and the proof that it runs the policy's weights."""

    engine: Literal["vllm", "transformers"] = "vllm"
    placement: Literal["colocated", "server"] = Field(
        default="colocated", description="vLLM in the trainer's process, or in servers of its own"
    )
    precision: Literal["policy", "fp8"] = Field(
        default="policy", description="of the sampler's weights; fp8: the policy trains in it too"
    )
    servers: int = Field(default=1, ge=1, description="servers a role and process, started here")
    urls: dict[Literal["learner", "critic"], tuple[str, ...]] = Field(
        default_factory=dict, description="servers that run already, by role, instead of `servers`"
    )
    weights_directory: Path | None = Field(
        default=None, description="where weights are handed over; default: shared memory"
    )
    transfer: Literal["file", "broadcast"] | None = Field(
        default=None, description="how weights reach servers; default: broadcast to other machines"
    )
    start_timeout_seconds: float = Field(default=300, gt=0, description="until a server answers")
    request_timeout_seconds: float = Field(default=600, gt=0, description="for one batch or sync")
    liveness_seconds: float = Field(
        default=60, gt=0, description="an engine silent for so long while it should work is dead"
    )
    max_restarts: int = Field(
        default=3, ge=0, description="in a row without a completion, before the run is halted"
    )
    max_model_len: int = Field(default=256, ge=8, description="prompt + completion, tokens")
    kv_cache_gib: float = Field(default=0.25, gt=0)
    compile: bool | None = Field(
        default=None, description="vLLM compiles the model at its start; default: accelerators only"
    )
    max_num_seqs: int = Field(default=128, ge=1, description="requests at once, an engine")
    adaptive_concurrency: bool = Field(
        default=True, description="fewer at once while memory, KV cache, heat or power run short"
    )
    probe_every: int = Field(default=20, ge=1, description="syncs between probes after the second")
    probe_threshold: float = Field(default=1e-3, gt=0, description="nats")
    max_staleness: int = Field(
        default=0, ge=0, le=1,
        description="generation batches drawn ahead, while the last is scored and learned from",
    )  # fmt: skip
    routing_replay: bool = Field(
        default=False, description="train on the experts that the sampler chose"
    )

    @model_validator(mode="after")
    def _check_placement(self) -> "RolloutTable":
        if self.placement == "server" and self.engine != "vllm":
            raise ValueError(
                f'rollout.placement = "server" needs rollout.engine = "vllm", which is '
                f"{self.engine!r}: change one of them"
            )
        if self.precision == "fp8" and self.engine != "vllm":
            raise ValueError(
                f'rollout.precision = "fp8" needs rollout.engine = "vllm", which is '
                f"{self.engine!r}: change one of them"
            )
        if self.max_staleness and self.placement != "server":
            raise ValueError(
                f"rollout.max_staleness = {self.max_staleness} needs rollout.placement = "
                f'"server", which is {self.placement!r}: an engine in the trainer\'s process '
                "cannot sample beside the update"
            )
        if self.urls and (self.placement != "server" or set(self.urls) != {"learner", "critic"}):
            raise ValueError(
                'rollout.urls needs rollout.placement = "server" and a list for each of learner '
                f"and critic, got placement {self.placement!r} and {sorted(self.urls)}"
            )
        every = [url for urls in self.urls.values() for url in urls]
        for url in every:
            if not re.fullmatch(r"http://[^/:\s]+:\d+", url):
                raise ValueError(f"rollout.urls: {url!r} is not of the form http://host:port")
        if len(set(every)) < len(every):
            raise ValueError(
                f"rollout.urls names a server twice in {every}: each holds one role's weights"
            )
        return self


class EvaluateTable(Table):
    """Held-out measurements."""

    num_tasks: int = Field(default=256, ge=1, description="test tasks, mean@k")
    num_samples: int = Field(default=8, ge=1, description="k")
    num_probe_tasks: int = Field(default=32, ge=1)
    num_audit_tasks: int = Field(default=128, ge=1)
    audit_share: float = Field(default=0.5, gt=0, le=1, description="of the audit set, each round")


class Settings(Table):
    """All of a run's settings; `load_settings` reads them."""

    run: RunTable
    tasks: TaskTable
    sft: SftTable | None = None
    learner: RoleTable
    critic: CriticTable
    rewards: RewardTable = RewardTable()
    rollout: RolloutTable = RolloutTable()
    evaluate: EvaluateTable = EvaluateTable()
    monitor: Annotated[MonitorSettings, Field(default_factory=MonitorSettings)]

    @model_validator(mode="after")
    def _check_examples(self) -> "Settings":
        if self.tasks.examples and self.tasks.dialect != "tagged":
            raise ValueError(
                f"tasks.examples are turns of a conversation, which the {self.tasks.dialect} "
                "dialect "
                "has none of: remove them"
            )
        return self

    @model_validator(mode="after")
    def _check_roles(self) -> "Settings":
        if self.learner.steps_per_round == 0:
            raise ValueError(
                "learner.steps_per_round = 0, but a round trains the learner: give it at least 1 "
                "(critic.steps_per_round may be 0)"
            )
        for name, role in (("learner", self.learner), ("critic", self.critic)):
            if role.max_completion_length >= self.rollout.max_model_len:
                raise ValueError(
                    f"rollout.max_model_len = {self.rollout.max_model_len} leaves no room for a "
                    "prompt "
                    f"beside {name}.max_completion_length = {role.max_completion_length}: raise "
                    "the first "
                    "or lower the second"
                )
            if not role.model and self.sft is None:
                raise ValueError(
                    f"{name}.model is empty and there is no [sft] table: set one of them"
                )
        return self
