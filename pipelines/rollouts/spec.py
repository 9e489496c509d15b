"""What a vLLM engine is started as, wherever it runs: derived once from a checkpoint and settings.

Leaves out the options themselves (`rollouts/vllm_options.py`) and what differs between an engine in
this process (`rollouts/vllm_engine.py`) and servers (`rollouts/servers/start.py`).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from pipelines.rollouts.routes import RouteSource, returned_option, route_source
from pipelines.rollouts.vllm_options import (
    Attention,
    choose_attention,
    engine_options,
    routing_options,
)
from pipelines.settings.tables import RolloutTable


@dataclass(frozen=True)
class EngineSpec:
    """What a vLLM engine is started as.

    Attributes:
        directory: a checkpoint with its config; its tensor names are the sync's manifest.
        settings: the `[rollout]` table.
        dtype: the policy's, passed on: vLLM would turn fp32 into bf16.
        end_ids: the token ids that end a completion, any of them.
    """

    directory: Path
    settings: RolloutTable
    dtype: str
    end_ids: tuple[int, ...]

    @cached_property
    def config(self) -> PretrainedConfig:
        """The checkpoint's."""
        return AutoConfig.from_pretrained(self.directory)

    @cached_property
    def attention(self) -> Attention:
        """vLLM's attention for this model, with what its process must find in the environment."""
        return choose_attention(self.config)

    @cached_property
    def options(self) -> dict[str, object]:
        """vLLM's options by their names in `LLM`."""
        return {
            "dtype": self.dtype,
            **engine_options(self.settings),
            **self.attention.options,
            **routing_options(self.config),
            **returned_option(self.config, self.settings.routing_replay),
        }

    @cached_property
    def route_source(self) -> RouteSource | None:
        """Where the engine's routes come from; None if it has none."""
        eager = bool(self.options["enforce_eager"])
        return route_source(self.config, self.settings.routing_replay, eager)
