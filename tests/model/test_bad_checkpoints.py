"""Broken checkpoints end in one error that names the tensor, or the file, and the rule."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fp8_checkpoints import write_shards
from safetensors.torch import load_file, save_file
from torch import Tensor
from weights import make_weights_matter

from model.configuration import tiny_config
from model.convert_fp8 import convert_to_fp8
from model.fp8.quantize import Fp8Recipe
from model.modeling import SparringMoeForCausalLM

EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"  # [128, 256]: two blocks
SCALE = f"{DOWN}_scale_inv"
NORM = "model.norm.weight"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"

Tensors = dict[str, Tensor]


def build() -> SparringMoeForCausalLM:
    model = make_weights_matter(SparringMoeForCausalLM(tiny_config(40)))
    convert_to_fp8(model, Fp8Recipe())
    return model


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pristine")
    build().save_pretrained(directory, fp8=True)
    return directory


def copied(pristine: Path, directory: Path, change: Callable[[Tensors], object]) -> Path:
    """A single-file copy with some tensors changed."""
    tensors = load_file(pristine / WHOLE)
    change(tensors)
    save_file(tensors, directory / WHOLE, {"format": "pt"})
    (directory / "config.json").write_text((pristine / "config.json").read_text())
    return directory


def sharded(pristine: Path, directory: Path) -> tuple[Path, dict]:
    """A copy in three shards, and its index."""
    write_shards(directory, load_file(pristine / WHOLE), num_shards=3)
    (directory / "config.json").write_text((pristine / "config.json").read_text())
    return directory, json.loads((directory / INDEX).read_text())


def refused(directory: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparringMoeForCausalLM.from_pretrained(directory)


def put(name: str, tensor: Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensor})


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def test_the_copies_load_when_nothing_is_changed(pristine: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    copied(pristine, tmp_path / "whole", lambda _: None)
    sharded(pristine, tmp_path / "sharded")
    models = [SparringMoeForCausalLM.from_pretrained(tmp_path / n) for n in ("whole", "sharded")]
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(EXPERT), f"{EXPERT}_scale_inv scales {EXPERT}, which is missing"),
        (drop(NORM), f"{NORM} is missing"),
        (drop(SCALE), f"{SCALE} is missing: {DOWN} has type F8_E4M3"),
        (
            put("x.weight_scale_inv", torch.ones(1, 1)),
            "x.weight_scale_inv scales x.weight, which is missing",
        ),
        (put(SCALE, torch.ones(2, 1)), rf"{SCALE} has shape \[2, 1\], expected \[1, 2\]"),
        (put(SCALE, torch.ones(1, 4)), rf"{SCALE} has shape .*one number per 128 x 128 block"),
        (put(SCALE, torch.tensor([[1.0, torch.nan]])), f"{SCALE} holds nan, a scale must be pos"),
        (put(SCALE, torch.tensor([[torch.inf, 1.0]])), f"{SCALE} holds inf"),
        (put(SCALE, torch.tensor([[0.0, 1.0]])), f"{SCALE} holds 0.0"),
        (put(SCALE, torch.tensor([[-1.0, 1.0]])), f"{SCALE} holds -1.0"),
        (put(SCALE, torch.ones(1, 2).bfloat16()), f"{SCALE} has type BF16, expected F32"),
        (put(DOWN, torch.ones(128, 256)), f"{DOWN}, which is F32: it must have type F8_E4M3"),
        (put(DOWN, torch.ones(128, 256, dtype=torch.int8)), f"{DOWN}.*(is|type) I8.* F8_E4M3"),
        (put(NORM, torch.ones(128, dtype=torch.int8)), f"{NORM} has type I8, expected F32, BF16"),
        (put(NORM, torch.ones(128).to(torch.float8_e4m3fn)), f"{NORM} .* cannot be F8_E4M3"),
        (put(NORM, torch.ones(128).to(torch.float8_e5m2)), f"{NORM} has type F8_E5M2"),
        (put(NORM, torch.ones(64)), rf"{NORM} has shape \[64\], expected \[128\]"),
    ],
)
def test_a_broken_tensor_is_named(
    pristine: Path, tmp_path: Path, change: Callable[[Tensors], object], message: str
) -> None:
    refused(copied(pristine, tmp_path, change), message)


def test_a_missing_expert_is_named(pristine: Path, tmp_path: Path) -> None:
    def both(tensors: Tensors) -> None:
        del tensors[EXPERT], tensors[f"{EXPERT}_scale_inv"]

    refused(copied(pristine, tmp_path, both), f"{EXPERT} is missing")


def without_scales(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.endswith("_scale_inv")]:
        del tensors[name]
        weight = name.removesuffix("_scale_inv")
        tensors[weight] = tensors[weight].float()


@pytest.mark.parametrize(
    ("quantization", "change", "message"),
    [
        (None, lambda _: None, "has type F8_E4M3, but the config has no quantization_config"),
        ({"quant_method": "gptq"}, lambda _: None, "quant_method = 'gptq', this model reads 'fp8'"),
        ({"fmt": "e5m2"}, lambda _: None, "fmt = 'e5m2', this model reads 'e4m3'"),
        ({"weight_block_size": [64, 64]}, lambda _: None, r"= \[64, 64\], .* reads \[128, 128\]"),
        ({"weight_block_size": None}, lambda _: None, r"weight_block_size = None"),
        ({"activation_scheme": "static"}, lambda _: None, "activation_scheme = 'static'"),
        ("fp8", lambda _: None, "quantization_config must be .* or left out, got 'fp8'"),
        ({}, without_scales, "the config says FP8, but no tensor has type F8_E4M3"),
    ],
)
def test_a_config_of_another_format_is_refused(
    pristine: Path,
    tmp_path: Path,
    quantization: dict | str | None,
    change: Callable[[Tensors], object],
    message: str,
) -> None:
    directory = copied(pristine, tmp_path, change)
    config = json.loads((directory / "config.json").read_text())
    if quantization is None:
        del config["quantization_config"]
    elif quantization == "fp8":
        config["quantization_config"] = quantization
    else:
        config["quantization_config"] |= quantization
    (directory / "config.json").write_text(json.dumps(config))
    refused(directory, message)


def test_tied_embeddings_are_refused(pristine: Path, tmp_path: Path) -> None:
    directory = copied(pristine, tmp_path, lambda _: None)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    refused(directory, "tie_word_embeddings must be False, got True")


@pytest.mark.parametrize("broken", ["{", "[1]", '{"weight_map": {"a": '])
def test_a_broken_config_is_named(pristine: Path, tmp_path: Path, broken: str) -> None:
    directory = copied(pristine, tmp_path, lambda _: None)
    (directory / "config.json").write_text(broken)
    refused(directory, r"config\.json (is not valid JSON|must hold a JSON object)")


def set_map(index: dict, **entries: str | None) -> str:
    index["weight_map"] |= entries
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v is not None}
    return json.dumps(index)


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (lambda index: json.dumps(index)[:-20], r"index\.json is not valid JSON"),
        (lambda index: "{}", r"index\.json has no weight_map"),
        (lambda index: set_map(index, extra="absent.safetensors"), "extra is in absent.safetensor"),
        (lambda index: set_map(index, extra="../x.safetensors"), "extra is in .*outside the direc"),
        (
            lambda index: set_map(index, extra=index["weight_map"][NORM]),
            "tensor extra is in model-0000.*, which lacks it",
        ),
        (lambda index: set_map(index, **{NORM: None}), f"tensor {NORM} is nowhere, it is in model"),
        (
            lambda index: set_map(index, **{NORM: index["weight_map"][EXPERT]}),
            f"tensor {NORM} is in model-0000.*, it is in model-0000",
        ),
    ],
)
def test_a_broken_index_is_named(
    pristine: Path, tmp_path: Path, rewrite: Callable[[dict], str], message: str
) -> None:
    directory, index = sharded(pristine, tmp_path)
    assert index["weight_map"][NORM] != index["weight_map"][EXPERT]
    (directory / INDEX).write_text(rewrite(index))
    refused(directory, message)


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.3, 0.999])
def test_a_truncated_shard_is_named(pristine: Path, tmp_path: Path, share: float) -> None:
    directory, index = sharded(pristine, tmp_path)
    shard = directory / index["weight_map"][EXPERT]
    content = shard.read_bytes()
    shard.write_bytes(content[: int(share * len(content))])
    wanted = "within its header" if share < 0.01 else r"tensor \S+ ends at byte \d+ of its data"
    refused(directory, rf"{shard.name} is truncated.*{wanted}")


def header(entry: dict) -> bytes:
    text = json.dumps({"a": entry}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x02\0\0\0\0\0\0\0[]", "broken safetensors header"),
        (b"\x05\0\0\0\0\0\0\0{bad}", "broken safetensors header"),
        (b'\x0c\0\0\0\0\0\0\0{"a": {}}   ', "broken safetensors header"),
        (header({"dtype": "F32", "shape": [1], "data_offsets": ["a", "b"]}), "broken safetensors"),
        (header({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}) + bytes(8), "broken safet"),
    ],
)
def test_a_broken_header_is_named(
    pristine: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    directory = copied(pristine, tmp_path, lambda _: None)
    (directory / WHOLE).write_bytes(content)
    refused(directory, f"{WHOLE} has a {message}")


@pytest.mark.parametrize(("key", "value"), [("dtype", "BF16"), ("shape", [64])])
def test_a_header_that_belies_its_bytes_is_named(
    pristine: Path, tmp_path: Path, key: str, value: object
) -> None:
    directory = copied(pristine, tmp_path, lambda _: None)
    content = (directory / WHOLE).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:end])
    entries[NORM][key] = value
    text = json.dumps(entries).encode()
    (directory / WHOLE).write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    refused(directory, f"tensor {NORM} has 512 bytes, its type .* and shape .* make 256")


def test_two_checkpoints_in_one_directory_are_refused(pristine: Path, tmp_path: Path) -> None:
    sharded(pristine, tmp_path)
    copied(pristine, tmp_path, lambda _: None)
    refused(tmp_path, f"holds both {WHOLE} and {INDEX}")


def test_an_absent_shard_is_named(pristine: Path, tmp_path: Path) -> None:
    directory, index = sharded(pristine, tmp_path)
    (directory / index["weight_map"][EXPERT]).unlink()
    refused(directory, "says that tensor .* which is absent")
