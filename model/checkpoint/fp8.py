"""FP8 checkpoints in DeepSeek-V3's layout: what one holds, checked and dequantised.

A quantised matrix is two tensors: `X.weight` in E4M3, and `X.weight_scale_inv` in float32, the
number that each 128 x 128 block is multiplied with (blocks at the edges may be cut short).
`convert_fp8.py` writes them. Leaves out every other FP8 format.
"""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

from model.checkpoint.files import StoredTensor, read_json, remote_file, stored_tensors
from model.fp8.quantize import Quantized

BLOCK = 128
SCALE = "_scale_inv"  # appended to the weight's name
QUANTIZATION: dict[str, object] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [BLOCK, BLOCK],
}


def stored_quantization(directory: str | os.PathLike[str]) -> dict[str, object] | None:
    """`quantization_config` of a checkpoint's config, if there is one.

    Raises:
        ValueError: the config, or that part of it, is not a JSON object.
    """
    file = Path(directory) / "config.json"
    quantization = read_json(file).get("quantization_config") if file.exists() else None
    if not isinstance(quantization, dict | None):
        raise ValueError(
            f"{file}: quantization_config must be {QUANTIZATION} or left out, got {quantization!r}"
        )
    return quantization


def refuse_remote_fp8(name: str | os.PathLike[str], arguments: Mapping[str, object]) -> None:
    """Refuse an FP8 checkpoint by its name on a hub, which transformers would dequantise itself.

    Its dequantiser does not know how our experts are fused: the numbers come out wrong, without an
    error.

    Args:
        name: of a repository.
        arguments: as of `remote_file`.

    Raises:
        ValueError: the repository's config says FP8.
    """
    file = remote_file(name, "config.json", arguments)
    if file is not None and stored_quantization(file.parent) is not None:
        raise ValueError(
            f"{name} is an FP8 checkpoint, which is read from a directory only: download it with "
            f"`hf download {name} --local-dir DIRECTORY` and load that"
        )


def store_quantization(directory: str | os.PathLike[str]) -> None:
    """Say in a saved config that its weights are FP8."""
    file = Path(directory) / "config.json"
    config = {**read_json(file), "quantization_config": QUANTIZATION}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def dequantized_tensors(directory: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of an FP8 checkpoint, each quantised pair as one float32 tensor.

    The checkpoint must have passed `check_types`.
    """
    stored = stored_tensors(directory)
    tensors: dict[str, Tensor] = {}
    for name, entry in stored.items():
        if name + SCALE in stored:
            scale = stored[name + SCALE].read(name + SCALE)
            tensors[name] = Quantized(entry.read(name), scale, (BLOCK, BLOCK)).dequantize()
        elif not name.endswith(SCALE):
            tensors[name] = entry.read(name)
    return tensors


def dequantized_arguments(
    directory: str | os.PathLike[str], config: PreTrainedConfig
) -> dict[str, object]:
    """What transformers' loader needs, in place of the directory, to build the plain model."""
    plain = copy.deepcopy(config)
    plain.__dict__.pop("quantization_config", None)
    arguments: dict[str, object] = {"config": plain, "state_dict": dequantized_tensors(directory)}
    if (Path(directory) / "generation_config.json").exists():
        arguments["generation_config"] = GenerationConfig.from_pretrained(directory)
    return arguments


def check_types(
    stored: Mapping[str, StoredTensor], quantization: Mapping[str, object] | None, source: str
) -> None:
    """Check every tensor's type, and that E4M3 weights and scales are whole pairs.

    Args:
        stored: the checkpoint's tensors.
        quantization: `quantization_config` of its config, if it has one.
        source: where they come from, for messages.

    Raises:
        ValueError: a type that cannot be read, a scale that is missing, left over, of a wrong
            type or shape, or not a positive number; or the config says another format.
    """
    quantized = [name for name, entry in stored.items() if entry.dtype == "F8_E4M3"]
    _check_quantization(quantization, quantized, source)
    for name, entry in stored.items():
        if name.endswith(SCALE):
            weight = name.removesuffix(SCALE)
            kind = stored[weight].dtype if weight in stored else "missing"
            if kind != "F8_E4M3":
                raise ValueError(
                    f"{source}: tensor {name} scales {weight}, which is {kind}: it "
                    "must have type F8_E4M3"
                )
        elif entry.dtype == "F8_E4M3":
            _check_pair(name, stored, source)
        elif entry.dtype not in ("F32", "BF16", "F16", "F64"):
            raise ValueError(
                f"{source}: tensor {name} has type {entry.dtype}, expected F32, BF16, F16, F64, "
                f"or F8_E4M3 with scales"
            )


def _check_quantization(
    quantization: Mapping[str, object] | None, quantized: list[str], source: str
) -> None:
    for key, wanted in QUANTIZATION.items() if quantization is not None else ():
        value = quantization.get(key, wanted if key == "fmt" else None)
        if value != wanted:
            raise ValueError(
                f"{source}: quantization_config has {key} = {value!r}, this model reads {wanted!r}"
            )
    if quantized and quantization is None:
        raise ValueError(
            f"{source}: tensor {quantized[0]} has type F8_E4M3, but the config has no "
            f"quantization_config: other loaders would drop the scales; add {QUANTIZATION}"
        )
    if quantization is not None and not quantized:
        raise ValueError(f"{source}: the config says FP8, but no tensor has type F8_E4M3")


def _check_pair(name: str, stored: Mapping[str, StoredTensor], source: str) -> None:
    scale, shape = name + SCALE, stored[name].shape
    if not name.endswith(".weight") or len(shape) != 2:
        raise ValueError(f"{source}: tensor {name} of shape {list(shape)} cannot be F8_E4M3")
    if scale not in stored:
        raise ValueError(f"{source}: tensor {scale} is missing: {name} has type F8_E4M3")
    entry, wanted = stored[scale], tuple(-(-size // BLOCK) for size in shape)
    if entry.dtype != "F32":
        raise ValueError(f"{source}: tensor {scale} has type {entry.dtype}, expected F32")
    if entry.shape != wanted:
        raise ValueError(
            f"{source}: tensor {scale} has shape {list(entry.shape)}, expected {list(wanted)}: "
            f"one number per {BLOCK} x {BLOCK} block of {list(shape)}"
        )
    values = entry.read(scale)
    if not bool((values.isfinite() & (values > 0)).all()):
        bad = values[~(values.isfinite() & (values > 0))][0].item()
        raise ValueError(f"{source}: tensor {scale} holds {bad}, a scale must be positive")
