"""The `[rollout]` table, and which of its values exclude each other."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipelines.settings.table import Table


class RolloutTable(Table):
    """The sampler, and the proof that it runs the policy's weights."""

    engine: Literal["vllm", "transformers"] = Field(
        default="vllm", description="The library that samples; transformers needs no vLLM."
    )
    placement: Literal["colocated", "server"] = Field(
        default="colocated",
        description="vLLM runs in the trainer's process, or in servers that are processes of their "
        "own.",
    )
    precision: Literal["policy", "fp8"] = Field(
        default="policy",
        description="The engine's weights have the policy's type; with \"fp8\" both policy and "
        "engine multiply in FP8.",
    )
    servers: int = Field(
        default=1,
        ge=1,
        description="The number of servers that the run starts per role and process.",
    )
    urls: dict[Literal["learner", "critic"], tuple[str, ...]] = Field(
        default_factory=dict,
        description="Servers that run already, by role, which are then used instead of starting "
        "any.",
    )
    weights_directory: Path | None = Field(
        default=None,
        description="The folder in which weights are handed to servers; by default it is in shared "
        "memory.",
    )
    transfer: Literal["file", "broadcast"] | None = Field(
        default=None,
        description="How weights reach servers; by default they are broadcast to other machines "
        "and go through a file on this one.",
    )
    start_timeout_seconds: float = Field(
        default=300,
        gt=0,
        description="A server that does not answer so many seconds after its start is given up.",
    )
    request_timeout_seconds: float = Field(
        default=600,
        gt=0,
        description="A server that needs more seconds for one batch or one sync is restarted.",
    )
    liveness_seconds: float = Field(
        default=60,
        gt=0,
        description="A server that has work and reports no progress for so many seconds is "
        "restarted.",
    )
    max_restarts: int = Field(
        default=3,
        ge=0,
        description="After so many restarts in a row without one completion, the run stops.",
    )
    max_model_len: int = Field(
        default=256,
        ge=8,
        description="The most tokens of a prompt together with its completion.",
    )
    kv_cache_gib: float = Field(
        default=0.25, gt=0, description="The memory of each engine's KV cache, in GiB."
    )
    gpu_memory_utilization: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="The share of a GPU that must be free when an engine starts on it, and that it "
        "may use; by default vLLM's own, which leaves no room for a second engine.",
    )
    tensor_parallel_size: int = Field(
        default=1,
        ge=1,
        description="The number of GPUs over which each server splits its model.",
    )
    compile: bool | None = Field(
        default=None,
        description="vLLM compiles the model when it starts; by default only on accelerators.",
    )
    max_num_seqs: int = Field(
        default=128, ge=1, description="The most sequences that an engine samples at once."
    )
    adaptive_concurrency: bool = Field(
        default=True,
        description="Engines get fewer sequences at once while memory, KV cache, heat or power run "
        "short.",
    )
    probe_every: int = Field(
        default=20,
        ge=1,
        description="After the second sync, every so many syncs compare the log-probabilities of "
        "engine and policy.",
    )
    probe_threshold: float | None = Field(
        default=None,
        gt=0,
        description="The largest difference that they may show, in nats; a larger one stops the "
        "run. By default it follows the engine's precision: 0.001 of a single log-probability in "
        "float32, and in bfloat16 2.5 times what that costs the policy itself, of their mean.",
    )
    max_staleness: int = Field(
        default=0,
        ge=0,
        le=1,
        description="The number of batches that servers draw ahead, while the last one is scored "
        "and learned from.",
    )
    routing_replay: bool = Field(
        default=False,
        description="A mixture of experts is updated on the experts that the sampler chose.",
    )

    @model_validator(mode="after")
    def _servers_are_vllms(self) -> "RolloutTable":
        if self.placement == "server" and self.engine != "vllm":
            raise ValueError(
                f'rollout.placement = "server" needs rollout.engine = "vllm", which is '
                f"{self.engine!r}: change one of them"
            )
        return self

    @model_validator(mode="after")
    def _fp8_is_vllms(self) -> "RolloutTable":
        if self.precision == "fp8" and self.engine != "vllm":
            raise ValueError(
                f'rollout.precision = "fp8" needs rollout.engine = "vllm", which is '
                f"{self.engine!r}: change one of them"
            )
        return self

    @model_validator(mode="after")
    def _only_servers_are_split(self) -> "RolloutTable":
        if self.tensor_parallel_size > 1 and self.placement != "server":
            raise ValueError(
                f"rollout.tensor_parallel_size = {self.tensor_parallel_size} needs "
                f'rollout.placement = "server", which is {self.placement!r}: an engine in the '
                "trainer's process has that process's GPU only"
            )
        return self

    @model_validator(mode="after")
    def _only_servers_draw_ahead(self) -> "RolloutTable":
        if self.max_staleness and self.placement != "server":
            raise ValueError(
                f"rollout.max_staleness = {self.max_staleness} needs rollout.placement = "
                f'"server", which is {self.placement!r}: an engine in the trainer\'s process '
                "cannot sample beside the update"
            )
        return self

    @model_validator(mode="after")
    def _urls_serve_both_roles(self) -> "RolloutTable":
        if self.urls and (self.placement != "server" or set(self.urls) != {"learner", "critic"}):
            raise ValueError(
                'rollout.urls needs rollout.placement = "server" and a list for each of learner '
                f"and critic, got placement {self.placement!r} and {sorted(self.urls)}"
            )
        return self

    @model_validator(mode="after")
    def _urls_are_distinct_addresses(self) -> "RolloutTable":
        every = [url for urls in self.urls.values() for url in urls]
        for url in every:
            if not re.fullmatch(r"http://[^/:\s]+:\d+", url):
                raise ValueError(f"rollout.urls: {url!r} is not of the form http://host:port")
        if len(set(every)) < len(every):
            raise ValueError(
                f"rollout.urls names a server twice in {every}: each holds one role's weights"
            )
        return self
