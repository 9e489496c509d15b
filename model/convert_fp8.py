"""A whole model in FP8: which layers are converted, weights born on the FP8 grid, and export.

As in DeepSeek-V3 (arXiv:2412.19437, section 3.3.1), the projections of attention, dense
feed-forwards, shared and routed experts are quantised; embedding, head, router, norms and
attention itself stay in higher precision. Parameters and their names do not change, so that
optimizers, saving and weight sync do not either. The indexer's `weights_proj` stays in float32,
as in V3.2's checkpoints. Leaves out adapters, which wrap a converted model.
"""

import logging
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from model.attention.indexer import LightningIndexer
from model.attention.mla import MultiHeadLatentAttention
from model.checkpoint.fp8 import BLOCK, SCALE
from model.checkpoint.naming import named_checkpoint_tensors, split_experts
from model.experts.fp8 import Fp8Experts, split_gate_up
from model.experts.routed import RoutedExperts
from model.fp8.linear import Fp8Linear, quantize_weight
from model.fp8.quantize import Fp8Recipe, Underflow
from model.layers import FeedForward
from model.norm import RMSNorm

logger = logging.getLogger(__name__)

_KEPT = (RMSNorm, nn.LayerNorm, LightningIndexer)


def convert_to_fp8(model: nn.Module, recipe: Fp8Recipe, underflow: Underflow | None = None) -> None:
    """Make the products of a model's layers FP8, in place; converting again changes the recipe.

    Args:
        model: ours, before any adapter wraps it.
        recipe: how to quantise.
        underflow: counts the gradients that quantisation turns into zeros, if given.

    Raises:
        ValueError: a projection is wrapped already (LoRA, for one), or the model has none;
            nothing was converted then.
    """
    found: list[tuple[nn.Module, str, nn.Linear]] = []
    for parent in model.modules():
        if not isinstance(parent, (MultiHeadLatentAttention, LightningIndexer, FeedForward)):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, _KEPT) or name == "weights_proj":
                continue
            if type(child) not in (nn.Linear, Fp8Linear):
                raise ValueError(
                    f"{name} is a {type(child).__name__}, expected a plain linear layer: convert "
                    "to FP8 before wrapping the model"
                )
            found.append((parent, name, child))
    if not found:
        raise ValueError(f"{type(model).__name__} has no attention or feed-forward of ours")
    for parent, name, child in found:
        setattr(parent, name, Fp8Linear(child.weight, recipe, underflow))
    for module in model.modules():
        if isinstance(module, RoutedExperts):
            module.fp8 = Fp8Experts(recipe, underflow)
    logger.info("%d linear layers and the routed experts multiply in FP8: %s", len(found), recipe)


@torch.no_grad()
def snap_to_grid(model: nn.Module) -> None:
    """Replace each FP8 weight by what its forward pass multiplies with, in place.

    Training then starts from weights that FP8 holds exactly. Any later weights are quantised by
    the forward pass and by the export alike, so that an exported model computes what training did.

    Raises:
        ValueError: the model is not in FP8.
    """
    for name, weight, recipe in fp8_parameters(model):
        matrices = split_gate_up(weight) if name.endswith("gate_up_proj") else weight
        matrices.copy_(quantize_weight(matrices, recipe).dequantize())


def fp8_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Fp8Recipe]]:
    """Name, parameter and recipe of every quantised weight.

    Raises:
        ValueError: the model is not in FP8.
    """
    found = False
    for prefix, module in model.named_modules():
        if isinstance(module, Fp8Linear):
            found = True
            yield f"{prefix}.weight", module.weight, module.recipe
        elif isinstance(module, RoutedExperts) and module.fp8 is not None:
            found = True
            yield f"{prefix}.gate_up_proj", module.gate_up_proj, module.fp8.recipe
            yield f"{prefix}.down_proj", module.down_proj, module.fp8.recipe
    if not found:
        raise ValueError("the model is not in FP8: call convert_to_fp8 first")


def fp8_tensors(
    model: nn.Module, tensors: Iterable[tuple[str, Tensor]] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of an FP8 model as its checkpoint holds it: E4M3 weights, each then its scale.

    The weights are quantised by the function that the forward pass uses, from the same masters.
    Tensors that stay in high precision share the model's memory.

    Args:
        model: converted by `convert_to_fp8`.
        tensors: its weights under their names on disk; by default the model's own.

    Raises:
        ValueError: the model is not in FP8, or its blocks are not 128 x 128.
    """
    recipes = {
        name: recipe
        for fused_name, parameter, recipe in fp8_parameters(model)
        for name, _ in split_experts({fused_name: parameter.detach()})
    }
    if other := {recipe.block for recipe in recipes.values()} - {BLOCK}:
        raise ValueError(f"FP8 checkpoints have blocks of {BLOCK}, this model of {sorted(other)}")
    for name, tensor in named_checkpoint_tensors(model) if tensors is None else tensors:
        if name in recipes:
            quantized = quantize_weight(tensor.detach(), recipes[name])
            yield name, quantized.values
            yield name + SCALE, quantized.scale
        else:
            yield name, tensor
