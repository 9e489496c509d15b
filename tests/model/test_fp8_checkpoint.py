"""FP8 checkpoints: DeepSeek's layout read, ours read by stock transformers, and their files."""

import json
from pathlib import Path

import pytest
import torch
from fp8_checkpoints import CONFIG, all_shapes, write_deepseek
from safetensors.torch import load_file
from stock_process import stock_model
from transformers import AutoModelForCausalLM
from weights import ROUNDING, make_weights_matter

from model.checkpoint.fp8 import QUANTIZATION
from model.checkpoint.naming import named_checkpoint_tensors
from model.configuration import tiny_config
from model.convert_fp8 import convert_to_fp8, fp8_parameters, fp8_tensors, snap_to_grid
from model.fp8.quantize import E4M3, Fp8Recipe, Quantized
from model.modeling import SparringMoeForCausalLM


def whole_block_model() -> SparringMoeForCausalLM:
    """Every quantised matrix has whole blocks of 128 x 128."""
    config = tiny_config(
        40, hidden_size=256, moe_intermediate_size=128, kv_lora_rank=128, q_lora_rank=128,
        qk_rope_head_dim=128, qk_nope_head_dim=32, v_head_dim=32,
    )  # fmt: skip
    model = make_weights_matter(SparringMoeForCausalLM(config))
    convert_to_fp8(model, Fp8Recipe())
    snap_to_grid(model)
    return model


@pytest.mark.parametrize("power_of_two", [True, False])
def test_a_deepseek_checkpoint_in_shards_is_read_bit_for_bit(
    tmp_path: Path, power_of_two: bool
) -> None:
    exact = write_deepseek(tmp_path, power_of_two=power_of_two)
    assert exact["model.layers.1.self_attn.kv_a_proj_with_mqa.weight"].shape[0] == 576
    for loader in (SparringMoeForCausalLM, AutoModelForCausalLM):
        model = loader.from_pretrained(tmp_path, dtype=torch.float32)
        assert type(model) is SparringMoeForCausalLM
        ours = dict(named_checkpoint_tensors(model))
        assert ours.keys() == exact.keys()
        for name, numbers in exact.items():
            assert torch.equal(ours[name], torch.from_numpy(numbers)), name
    assert "quantization_config" not in model.config.to_dict()


def test_the_type_is_the_configs_unless_asked_otherwise(tmp_path: Path) -> None:
    exact = write_deepseek(tmp_path)
    model = SparringMoeForCausalLM.from_pretrained(tmp_path)
    ours = dict(named_checkpoint_tensors(model))
    assert ours["lm_head.weight"].dtype == torch.bfloat16
    for name, numbers in exact.items():
        assert torch.equal(ours[name], torch.from_numpy(numbers).to(ours[name].dtype)), name


def test_options_mean_the_same_for_fp8_and_plain_checkpoints(tmp_path: Path) -> None:
    model = whole_block_model()
    for folder, fp8 in (("plain", False), ("fp8", True)):
        model.save_pretrained(tmp_path / folder, fp8=fp8)
        for place in ((tmp_path / folder, {}), (tmp_path, {"subfolder": folder})):
            for loader in (SparringMoeForCausalLM, AutoModelForCausalLM):
                loaded = loader.from_pretrained(
                    place[0], **place[1], aux_loss_alpha=0.5, device_map="cpu", dtype="auto"
                )
                assert loaded.config.aux_loss_alpha == 0.5 and loaded.dtype == torch.float32
                assert loaded.name_or_path == str(tmp_path / folder)  # what PEFT records
                assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("fp8", [True, False])
@pytest.mark.parametrize("loader", [SparringMoeForCausalLM, AutoModelForCausalLM])
def test_an_fp8_checkpoint_is_not_read_by_its_name_on_a_hub(
    tmp_path: Path, loader: type, fp8: bool
) -> None:
    commit, model = "a" * 40, whole_block_model()
    model.save_pretrained(tmp_path / "models--org--tiny" / "snapshots" / commit, fp8=fp8)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text(commit)
    if fp8:
        with pytest.raises(ValueError, match="org/tiny is an FP8 checkpoint, which is read from a"):
            loader.from_pretrained("org/tiny", cache_dir=tmp_path)
    else:
        loaded = loader.from_pretrained("org/tiny", cache_dir=tmp_path)
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_a_loaded_checkpoint_exports_the_bytes_it_came_from(tmp_path: Path) -> None:
    write_deepseek(tmp_path / "theirs", power_of_two=True)
    model = SparringMoeForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.bfloat16)
    convert_to_fp8(model, Fp8Recipe())
    model.save_pretrained(tmp_path / "ours", fp8=True)
    theirs = {}
    for file in sorted((tmp_path / "theirs").glob("*.safetensors")):
        theirs |= load_file(file)
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    # A block whose largest number was rounded down to 224 scales may be written at half the scale:
    # other bytes, the same numbers. All other blocks keep their bytes.
    kept = 0
    for name, tensor in theirs.items():
        scale = name + "_scale_inv"
        if tensor.dtype == E4M3:
            pairs = [(tensors[name], tensors[scale]) for tensors in (ours, theirs)]
            numbers = [Quantized(*pair, (128, 128)).dequantize() for pair in pairs]
            assert torch.equal(*numbers), name
            if torch.equal(ours[scale], theirs[scale]):
                kept += torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8))
        elif not name.endswith("_scale_inv"):
            assert torch.equal(ours[name], tensor), name
    assert kept > 10


def test_our_files_hold_what_the_forward_pass_used(tmp_path: Path) -> None:
    model = whole_block_model()
    model.save_pretrained(tmp_path, fp8=True)
    stored = load_file(tmp_path / "model.safetensors")
    sent = dict(fp8_tensors(model))
    assert stored.keys() == sent.keys()
    for name, tensor in sent.items():
        assert stored[name].dtype == tensor.dtype and stored[name].shape == tensor.shape, name
        assert torch.equal(stored[name].float(), tensor.float()), name
    scales = {name for name in stored if name.endswith(".weight_scale_inv")}
    weights = {name for name, tensor in stored.items() if tensor.dtype == E4M3}
    assert {name.removesuffix("_scale_inv") for name in scales} == weights
    assert all(stored[name].dtype == torch.float32 for name in scales)
    num_experts = model.config.n_routed_experts
    fused = [name for name, _, _ in fp8_parameters(model) if ".experts." in name]
    assert len(fused) == 4 and sum(".experts." in name for name in weights) == 2 * 3 * num_experts
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["quantization_config"] == QUANTIZATION
    assert written["architectures"] == ["DeepseekV3ForCausalLM"]


def test_stock_transformers_reads_the_same_numbers(tmp_path: Path) -> None:
    model = whole_block_model()
    shapes = [tensor.shape for name, tensor in fp8_tensors(model) if tensor.dtype == E4M3]
    assert all(size % 128 == 0 for shape in shapes for size in shape), shapes
    model.save_pretrained(tmp_path / "fp8", fp8=True, max_shard_size="500KB")
    assert len(list((tmp_path / "fp8").glob("*.safetensors"))) > 2
    ids = torch.arange(20)[None]
    theirs, logits = stock_model(tmp_path / "fp8", ids, tmp_path, dequantize=True)
    loaded = SparringMoeForCausalLM.from_pretrained(tmp_path / "fp8", dtype=torch.float32)
    ours = loaded.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
        assert torch.equal(tensor, model.state_dict()[name]), name  # it was born on the grid
    plain = loaded(input_ids=torch.arange(20)[None]).logits
    assert (plain - logits).abs().max() <= ROUNDING
    in_fp8 = model(input_ids=torch.arange(20)[None]).logits
    assert (in_fp8 - logits).abs().max() > 1e-3  # stock code does not quantise activations


def test_the_fixture_has_deepseeks_names() -> None:
    model = SparringMoeForCausalLM(SparringMoeForCausalLM.config_class(**{
        key: value for key, value in CONFIG.items()
        if key not in ("architectures", "model_type", "quantization_config")
    }))  # fmt: skip
    ours = {name: tuple(tensor.shape) for name, tensor in named_checkpoint_tensors(model)}
    assert ours == all_shapes(CONFIG)
