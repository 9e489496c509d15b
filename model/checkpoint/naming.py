"""DeepSeek-V3's names: the one naming that saving, loading and weight sync share.

In memory a layer's experts are two fused parameters; under DeepSeek-V3's names they are three
matrices per expert. Every other name is the same in both; a checkpoint also holds a copy of the
embedding and of the head per multi-token layer, as DeepSeek's do. Leaves out FP8 scales.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

from model.checkpoint.files import stored_tensors
from model.checkpoint.fp8 import SCALE, check_types, stored_quantization
from model.configuration import SparringMoeConfig
from model.fp8.quantize import E4M3

_GATE_UP, _DOWN = ".experts.gate_up_proj", ".experts.down_proj"


def named_checkpoint_tensors(
    model: nn.Module, *, multi_token: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and router bias of a model under its name on disk.

    The tensors share the model's memory: whoever keeps one past the next update must copy it.

    Args:
        model: ours.
        multi_token: whether to name those of the multi-token layers, which no engine that only
            serves the model holds.
    """
    layers = (model.config.num_hidden_layers, model.config.num_nextn_predict_layers)
    left_out = () if multi_token else multi_token_prefixes(*layers)
    for name, tensor in split_experts(model.state_dict()):
        if not name.startswith(left_out):
            yield name, tensor.detach()


def multi_token_prefixes(num_hidden_layers: int, num_nextn_predict_layers: int) -> tuple[str, ...]:
    """What the names of the multi-token layers' tensors begin with."""
    end = num_hidden_layers + num_nextn_predict_layers
    return tuple(f"model.layers.{layer}." for layer in range(num_hidden_layers, end))


def multi_token_copies(config: SparringMoeConfig) -> dict[str, str]:
    """Names under which a checkpoint repeats the embedding and the head, and those they repeat."""
    layers = (config.num_hidden_layers, config.num_nextn_predict_layers)
    return {
        f"{prefix}{copy}.weight": original
        for prefix in multi_token_prefixes(*layers)
        for copy, original in (
            ("embed_tokens", "model.embed_tokens.weight"),
            ("shared_head.head", "lm_head.weight"),
        )
    }


def split_experts(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Rename in-memory names to those on disk; names already split pass unchanged."""
    for name, tensor in tensors.items():
        if name.endswith(_GATE_UP):
            stem = name.removesuffix("gate_up_proj")
            for expert, gate_up in enumerate(tensor):
                gate, up = gate_up.chunk(2, dim=0)
                yield f"{stem}{expert}.gate_proj.weight", gate
                yield f"{stem}{expert}.up_proj.weight", up
        elif name.endswith(_DOWN):
            stem = name.removesuffix("down_proj")
            for expert, down in enumerate(tensor):
                yield f"{stem}{expert}.down_proj.weight", down
        else:
            yield name, tensor


@torch.no_grad()
def join_experts(tensors: dict[str, Tensor], stem: str, fused: Mapping[str, Tensor]) -> list[str]:
    """Rename one layer's experts from names on disk back to those in memory, in place.

    Args:
        tensors: some of a checkpoint's; without any of this layer's experts, nothing changes.
        stem: what the names of the layer's experts begin with, up to their number.
        fused: the parameters by name after the stem; experts that a shard lacks stay theirs.

    Returns:
        The names that are lacking.

    Raises:
        ValueError: a tensor has another shape, or is in FP8.
    """
    names = {name for name, _ in split_experts({stem + key: t for key, t in fused.items()})}
    if not (found := names & tensors.keys()):
        return []
    device = tensors[min(found)].device
    whole = {stem + key: t.detach().to(device, copy=True) for key, t in fused.items()}
    for name, part in split_experts(whole):
        if name in found:
            given = tensors.pop(name)
            if given.shape != part.shape or given.dtype == E4M3:
                raise ValueError(
                    f"tensor {name} has shape {list(given.shape)} and type {given.dtype}, expected "
                    f"{list(part.shape)} and no FP8: load the checkpoint with from_pretrained"
                )
            part.copy_(given)
    tensors.update(whole)
    return sorted(names - found)


@torch.no_grad()
def load_checkpoint_tensors(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors named as on disk into a model, all or nothing.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape; nothing was copied then.
    """
    wanted = dict(named_checkpoint_tensors(model))
    given = dict(tensors)
    copies = multi_token_copies(model.config)
    own = {name: tensor for name, tensor in given.items() if name not in copies}
    _check_shapes(_shapes(wanted), _shapes(own), "the given tensors")
    present = {name: copies[name] for name in copies if name in given}
    _check_copies(present, given.__getitem__, "the given tensors")
    for name, tensor in wanted.items():
        tensor.copy_(given[name])


def check_tensors(tensors: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    """Check that tensors named as on disk are exactly those of `model` (which may be on meta).

    Raises:
        ValueError: a tensor is missing, unknown or of another shape.
    """
    _check_shapes(_shapes(dict(named_checkpoint_tensors(model))), _shapes(tensors), source)


def check_directory(directory: str | os.PathLike[str], model: nn.Module) -> None:
    """Check that a saved checkpoint holds exactly the tensors of `model` (which may be on meta).

    Copies for multi-token layers may be there, and must equal what they repeat.

    Raises:
        ValueError: a tensor is missing, unknown, or of another shape or type; a scale is wrong; a
            file is broken or absent. The message names the tensor or the file, and the rule.
    """
    source, stored = str(directory), stored_tensors(directory)
    check_types(stored, stored_quantization(directory), source)
    shapes = {name: entry.shape for name, entry in stored.items() if not name.endswith(SCALE)}
    copies = multi_token_copies(model.config)
    present = {name: copies[name] for name in copies if shapes.pop(name, None)}
    _check_shapes(_shapes(dict(named_checkpoint_tensors(model))), shapes, source)
    _check_copies(present, lambda name: stored[name].read(name), source)


def register_conversion(class_name: str) -> None:
    """Register with transformers' loader how the experts of our class are split on disk.

    transformers 5 skips its own DeepSeek-V3 mapping for a class it does not ship.
    """
    gate_up = WeightConverter(
        source_patterns=["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
        target_patterns="mlp.experts.gate_up_proj",
        operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
    )
    down = WeightConverter(
        source_patterns="mlp.experts.*.down_proj.weight",
        target_patterns="mlp.experts.down_proj",
        operations=[MergeModulelist(dim=0)],
    )
    register_checkpoint_conversion_mapping(class_name, [gate_up, down], overwrite=True)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check_copies(copies: dict[str, str], tensor: Callable[[str], Tensor], source: str) -> None:
    for copy, original in copies.items():
        if not torch.equal(tensor(copy), tensor(original)):
            raise ValueError(
                f"{source}: tensor {copy} differs from {original}, which the multi-token layers "
                "share with the model: leave it out, or save the checkpoint again"
            )


def _check_shapes(
    wanted: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]], source: str
) -> None:
    for name, shape in wanted.items():
        if name not in given:
            raise ValueError(f"{source}: tensor {name} is missing (expected shape {list(shape)})")
        if given[name] != shape:
            raise ValueError(
                f"{source}: tensor {name} has shape {list(given[name])}, expected {list(shape)}"
            )
    for name in given:
        if name not in wanted:
            raise ValueError(
                f"{source}: tensor {name} belongs to no part of this model: is it a checkpoint of "
                "another architecture, or does its config count other layers (num_hidden_layers, "
                "num_nextn_predict_layers)?"
            )
