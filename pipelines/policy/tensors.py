"""A policy's tensors under their checkpoint names, as they are saved and sent.

Leaves out the names of our own model's tensors (`model/checkpoint/naming.py`) and who sends them
(`sync/push.py`).
"""

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer, ParamWrapper
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

from model.checkpoint.naming import multi_token_prefixes, named_checkpoint_tensors, split_experts
from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UnprovenSyncError, UserError
from pipelines.policy.fingerprint import (
    Fingerprints,
    NamedTensors,
    fingerprint,
    fingerprints_hash,
)
from pipelines.policy.fp8 import fp8_served
from pipelines.policy.manifest import Manifest
from pipelines.policy.moe import moe_of

CASTABLE = (torch.float32, torch.bfloat16, torch.float16)


def policy_tensors(policy: PreTrainedModel | PeftModel) -> NamedTensors:
    """Yield every tensor of a policy under its checkpoint name, LoRA merged into temporaries.

    Those of multi-token layers are among them, which `served_tensors` leaves out.
    """
    if isinstance(policy, PeftModel):
        base = policy.get_base_model()
        merged = _without_tied(base, _merged_tensors(base, policy.active_adapter))
        if not isinstance(base, SparringMoeForCausalLM):
            yield from _as_saved(base, merged)
            return
        for name, tensor in merged:  # one by one: a merged tensor lives until the next
            yield from split_experts({name: tensor})
    elif isinstance(policy, SparringMoeForCausalLM):
        yield from named_checkpoint_tensors(policy)
    else:
        yield from _as_saved(policy, _without_tied(policy, iter(policy.state_dict().items())))


def served_tensors(
    policy: PreTrainedModel | PeftModel, fp8: bool = False, dtype: torch.dtype | None = None
) -> NamedTensors:
    """`policy_tensors` of what an engine runs: without the multi-token layers of our model.

    Args:
        policy: whose.
        fp8: as a sampler in FP8 gets them.
        dtype: the engine's type; None leaves each tensor its own.
    """
    if dtype is not None:
        kept = _kept_in_float32(policy)
        for name, tensor in served_tensors(policy, fp8):
            stays = tensor.dtype not in CASTABLE or any(part in name for part in kept)
            yield name, tensor if stays else tensor.to(dtype)
        return
    if fp8:
        yield from fp8_served(policy, served_tensors(policy))
        return
    moe = moe_of(policy)
    if moe is None:
        yield from policy_tensors(policy)
        return
    layers = (moe.config.num_hidden_layers, moe.config.num_nextn_predict_layers)
    left_out = multi_token_prefixes(*layers)
    for name, tensor in policy_tensors(policy):
        if not name.startswith(left_out):
            yield name, tensor


def _kept_in_float32(policy: PreTrainedModel | PeftModel) -> list[str]:
    """Parts of the names of tensors that 16 bits would spoil: the model's own list, and scales."""
    base = policy.get_base_model() if isinstance(policy, PeftModel) else policy
    return [*(base._keep_in_fp32_modules_strict or ()), "weight_scale_inv"]


def check_lora(policy: PeftModel) -> None:
    """Refuse adapters that cannot be merged by name, before anything is started.

    Raises:
        UserError: an adapter is not plain LoRA on a linear layer.
    """
    base = policy.get_base_model()
    if policy.peft_config[policy.active_adapter].modules_to_save:
        raise UserError("lora.modules_to_save is not served by the sync: remove it")
    tied = base.all_tied_weights_keys if base.config.tie_word_embeddings else {}
    for name, module in base.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        plain = isinstance(module, LoraLinear | ParamWrapper) and not module.lora_variant
        if not plain or {f"{name}.weight"} & {*tied, *tied.values()}:
            raise UserError(
                f"lora: the adapter on {name} ({type(module).__name__}) is not plain LoRA on an "
                "untied linear layer, so the sync cannot merge it: leave it out of "
                "lora.target_modules and use no variant"
            )


def _without_tied(policy: PreTrainedModel, tensors: NamedTensors) -> NamedTensors:
    tied = policy.all_tied_weights_keys if policy.config.tie_word_embeddings else {}
    for name, tensor in tensors:
        if name not in tied:
            yield name, tensor


def _as_saved(model: PreTrainedModel, tensors: NamedTensors) -> NamedTensors:
    """Tensors of a model of transformers' under the names that it is saved under.

    It holds a layer's experts as one tensor, and some models' parts under other names than on disk.
    """
    conversions = getattr(model, "_weight_conversions", None)
    if conversions is None:  # it was not loaded
        conversions = get_model_conversion_mapping(model, add_legacy=False)
    if not conversions:
        yield from tensors
    elif any(len(each.reverse_transform().source_patterns) > 1 for each in conversions):
        yield from revert_weight_conversion(model, dict(tensors)).items()
    else:  # one by one: a merged tensor lives until the next
        for name, tensor in tensors:
            yield from revert_weight_conversion(model, {name: tensor}).items()


def _merged_tensors(base: PreTrainedModel, adapter: str) -> NamedTensors:
    """W + scale * B A per adapted layer, in float32; the base stays untouched.

    In the type of a bfloat16 base most of a young adapter would round away.
    """
    adapted = {
        unwrapped_name(f"{name}.{_adapted_parameter(module)}"): module
        for name, module in base.named_modules()
        if isinstance(module, LoraLayer)
    }
    for wrapped, tensor in base.state_dict().items():
        name = unwrapped_name(wrapped)
        if name in adapted:
            yield name, _merged(adapted[name], tensor, adapter)
        elif ".lora_" not in name:
            yield name, tensor


def _merged(layer: LoraLayer, weight: torch.Tensor, adapter: str) -> torch.Tensor:
    """W + scale * B A of one layer, float32."""
    whole = weight.float()
    if not isinstance(layer, ParamWrapper):
        return whole + layer.get_delta_weight(adapter).float()
    parameter = layer.get_param()  # in whose type PEFT gives the product
    kept, parameter.data = parameter.data, whole
    try:
        return whole + layer.get_delta_weight(adapter)
    finally:
        parameter.data = kept


def unwrapped_name(name: str) -> str:
    """A tensor's name in the base, without the wrappers that adapters put around it."""
    return name.replace(".base_layer", "")


def _adapted_parameter(layer: LoraLayer) -> str:
    return layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"


def weights_hash(policy: PreTrainedModel | PeftModel, dtype: torch.dtype | None = None) -> str:
    """One hash over names and fingerprints of every tensor that a sync of the policy sends, hex."""
    return fingerprints_hash(policy_fingerprints(policy, dtype=dtype)[0])


def policy_fingerprints(
    policy: PreTrainedModel | PeftModel, fp8: bool = False, dtype: torch.dtype | None = None
) -> tuple[Fingerprints, Manifest]:
    """Fingerprint and shape of every tensor that a sync sends, by name; see `served_tensors`.

    Raises:
        UnprovenSyncError: a name occurs twice, or a tensor is not finite.
    """
    fingerprints: Fingerprints = {}
    shapes: Manifest = {}
    for name, tensor in served_tensors(policy, fp8, dtype):
        if name in shapes:
            raise UnprovenSyncError(f"tensor {name} was sent twice")
        if tensor.is_floating_point() and tensor.itemsize > 1 and not tensor.isfinite().all():
            raise UnprovenSyncError(
                f"the policy's {name} is not finite: its training diverged; lower the learning "
                "rate, or clip gradients, and resume from the last checkpoint"
            )
        fingerprints[name], shapes[name] = fingerprint(tensor), tuple(tensor.shape)
    return fingerprints, shapes
