"""FP8 rollouts: a sampler in FP8 holds what the trainer's own quantiser makes of its weights.

With one quantiser for both, trainer and sampler multiply with the same numbers, however far the
masters are from FP8's grid. On accelerators vLLM gets E4M3 weights and their scales, and quantises
activations as the trainer does. vLLM on CPU has no blockwise FP8 and gets the dequantised numbers,
which power-of-two scales make exact, and leaves activations as they are. Leaves out the quantiser
(`model/convert_fp8.py`) and all checks of the sync.
"""

from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from model.checkpoint.fp8 import BLOCK
from model.configuration import SparringMoeConfig
from model.convert_fp8 import convert_to_fp8, fp8_tensors, snap_to_grid
from model.fp8.linear import Fp8Linear
from model.fp8.quantize import E4M3, Fp8Recipe, Quantized
from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UserError, as_user_error
from pipelines.policy.fingerprint import NamedTensors
from pipelines.policy.moe import moe_of
from pipelines.settings.role_table import RoleTable


def fp8_served(policy: PreTrainedModel, tensors: NamedTensors) -> NamedTensors:
    """A policy's tensors as a sampler in FP8 gets them.

    Args:
        policy: ours; its own recipe if it multiplies in FP8, else that of `Fp8Recipe()`.
        tensors: its weights under their names on disk.

    Yields:
        On accelerators each quantised weight in E4M3, then its scale; on CPU their product in the
        policy's own type.
    """
    moe = moe_of(policy)
    assert moe is not None, "check_fp8 refuses other models"
    quantized = fp8_tensors(_layout(moe), tensors)
    yield from quantized if torch.accelerator.is_available() else _dequantized(quantized, moe.dtype)


def _layout(moe: SparringMoeForCausalLM) -> SparringMoeForCausalLM:
    """A model that says which weights are quantised, and how."""
    if any(isinstance(module, Fp8Linear) for module in moe.modules()):
        return moe
    with torch.device("meta"):
        twin = type(moe)(moe.config)
    convert_to_fp8(twin, Fp8Recipe())
    return twin


def _dequantized(tensors: NamedTensors, dtype: torch.dtype) -> NamedTensors:
    for name, tensor in tensors:
        if tensor.dtype == E4M3:
            _, scale = next(tensors)  # it comes right after its weight
            tensor = Quantized(tensor, scale, (BLOCK, BLOCK)).dequantize().to(dtype)
        yield name, tensor


def train_in_fp8(policy: PreTrainedModel) -> None:
    """Make a policy multiply in FP8 as its sampler does, from weights that FP8 holds exactly."""
    convert_to_fp8(policy, Fp8Recipe())
    snap_to_grid(policy)


def check_fp8(name: str, path: str, role: RoleTable) -> None:
    """Refuse a role whose rollouts cannot be in FP8, before anything is loaded.

    Raises:
        UserError: another architecture, an adapter, or a type or shape that vLLM's kernels refuse.
    """
    with as_user_error(f"{name}.model: the config of {path}", OSError, ValueError, KeyError):
        config = AutoConfig.from_pretrained(path)
    if not isinstance(config, SparringMoeConfig):
        raise UserError(
            f'rollout.precision = "fp8": {name}.model ({path}) is a {config.model_type}, whose '
            'weights our quantiser does not know: set rollout.precision = "policy"'
        )
    if role.adapts:
        raise UserError(
            f'rollout.precision = "fp8": {name}.lora trains beside weights that stay in higher '
            'precision, which FP8 cannot follow: remove it, or set rollout.precision = "policy"'
        )
    if torch.accelerator.is_available():
        check_kernels(name, config, role.dtype)


def check_kernels(name: str, config: PreTrainedConfig, dtype: str) -> None:
    """Refuse what vLLM's blockwise kernels cannot serve (CPU has none and takes anything).

    They want whole blocks along every input, and of all but the last part of a merged output.

    Raises:
        UserError: names each size that is not a multiple of 128, or the type.
    """
    sizes = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "moe_intermediate_size": config.moe_intermediate_size,
        "kv_lora_rank": config.kv_lora_rank,
        "q_lora_rank": config.q_lora_rank or BLOCK,
        "num_attention_heads x v_head_dim": config.num_attention_heads * config.v_head_dim,
    }
    wrong = [f"{key} = {size}" for key, size in sizes.items() if size % BLOCK]
    if wrong:
        raise UserError(
            f'rollout.precision = "fp8": {name}.model has {", ".join(wrong)}, which vLLM serves in '
            f'FP8 as multiples of {BLOCK} only: set rollout.precision = "policy"'
        )
    if dtype != "bfloat16":
        raise UserError(
            f'rollout.precision = "fp8": vLLM keeps the rest in 16 bits, {name}.dtype is {dtype}: '
            "set it to bfloat16"
        )


def fp8_checkpoint(path: str, folder: Path) -> str:
    """Where a role starts that samples in FP8: on accelerators an FP8 copy of its checkpoint.

    vLLM learns from a checkpoint that it is to build FP8 layers; on CPU it cannot, and serves the
    checkpoint as it is.

    Args:
        path: the checkpoint.
        folder: where the copy goes, seen by every process; the first of them writes it.
    """
    if not torch.accelerator.is_available():
        return path
    with PartialState().main_process_first():
        if PartialState().is_main_process:
            with as_user_error(f"cannot load {path}", OSError, RuntimeError, ValueError):
                policy = SparringMoeForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
            convert_to_fp8(policy, Fp8Recipe())
            policy.save_pretrained(folder, fp8=True)
    return str(folder)
