"""Names, round trips and refusals of checkpoints and configs."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import load_sharded_checkpoint
from weights import make_weights_matter

from model.checkpoint.naming import load_checkpoint_tensors, named_checkpoint_tensors
from model.configuration import SparringMoeConfig, tiny_config
from model.modeling import SparringMoeForCausalLM

EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
BIAS = "model.layers.2.mlp.gate.e_score_correction_bias"


@pytest.fixture
def model() -> SparringMoeForCausalLM:
    return make_weights_matter(SparringMoeForCausalLM(tiny_config(40)))


@pytest.fixture
def saved(model: SparringMoeForCausalLM, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(directory: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of a checkpoint, or drop those given as None."""
    file = directory / "model.safetensors"
    tensors = {**load_file(file), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, file, {"format": "pt"})


def test_a_round_trip_is_bit_equal(model: SparringMoeForCausalLM, saved: Path) -> None:
    for loaded in (
        SparringMoeForCausalLM.from_pretrained(saved),
        AutoModelForCausalLM.from_pretrained(saved),
    ):
        assert type(loaded) is SparringMoeForCausalLM
        theirs = loaded.state_dict()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, theirs[name]), name
    assert model.routers()[2].e_score_correction_bias.any()


def test_a_sharded_round_trip_is_bit_equal(model: SparringMoeForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    theirs = SparringMoeForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in model.state_dict().items())


def test_bfloat16_keeps_the_router_bias_exact(
    model: SparringMoeForCausalLM, tmp_path: Path
) -> None:
    bias_E = model.routers()[2].e_score_correction_bias.clone()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = SparringMoeForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.routers()[2].e_score_correction_bias, bias_E)


def test_the_disk_has_deepseek_names_only(model: SparringMoeForCausalLM, saved: Path) -> None:
    on_disk = load_file(saved / "model.safetensors")
    named = dict(named_checkpoint_tensors(model))
    assert set(on_disk) == set(named) and {EXPERT, BIAS} <= set(on_disk)
    assert all(torch.equal(tensor, on_disk[name]) for name, tensor in named.items())
    fused = model.model.layers[1].mlp.experts.gate_up_proj
    assert torch.equal(on_disk[EXPERT], fused[3, 64:])
    assert sum(t.numel() for t in named.values()) == sum(
        t.numel() for t in model.state_dict().values()
    )


def test_the_saved_config_says_deepseek(saved: Path) -> None:
    written = json.loads((saved / "config.json").read_text())
    assert written["architectures"] == ["DeepseekV3ForCausalLM"]
    assert written["model_type"] == "deepseek_v3"
    assert written["topk_method"] == "noaux_tc" and written["scoring_func"] == "sigmoid"
    assert written["moe_router_dtype"] == "float32" and written["tie_word_embeddings"] is False
    assert type(AutoConfig.from_pretrained(saved)) is SparringMoeConfig


@pytest.mark.parametrize("loader", [SparringMoeForCausalLM, AutoModelForCausalLM])
def test_what_a_load_overrides_is_checked(saved: Path, loader: type) -> None:
    assert loader.from_pretrained(saved, aux_loss_alpha=0.5).config.aux_loss_alpha == 0.5
    with pytest.raises(ValueError, match="n_group must divide n_routed_experts, got 3 groups of 8"):
        loader.from_pretrained(saved, n_group=3)


def test_loading_in_place_copies_everything(model: SparringMoeForCausalLM) -> None:
    other = SparringMoeForCausalLM(tiny_config(40))
    load_checkpoint_tensors(other, named_checkpoint_tensors(model))
    theirs = other.state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in model.state_dict().items())


def test_loading_in_place_is_all_or_nothing(model: SparringMoeForCausalLM) -> None:
    other = SparringMoeForCausalLM(tiny_config(40))
    before = copy.deepcopy(other.state_dict())
    partial = {n: t for n, t in named_checkpoint_tensors(model) if n != BIAS}
    with pytest.raises(ValueError, match="e_score_correction_bias is missing"):
        load_checkpoint_tensors(other, partial.items())
    assert all(torch.equal(t, before[name]) for name, t in other.state_dict().items())


def test_a_trainer_resumes_with_the_experts_it_saved(tmp_path: Path) -> None:
    rows = [{"input_ids": [*range(i, i + 8)], "labels": [*range(i, i + 8)]} for i in range(8)]

    def trainer(seed: int) -> Trainer:
        model = make_weights_matter(SparringMoeForCausalLM(tiny_config(40)), seed)
        options = TrainingArguments(
            tmp_path, max_steps=1, save_steps=1, report_to="none", use_cpu=True, disable_tqdm=True
        )
        return Trainer(model, options, train_dataset=rows)

    (saved := trainer(0)).train()
    (resumed := trainer(1)).train(resume_from_checkpoint=True)
    theirs = resumed.model.state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in saved.model.state_dict().items())


def test_shards_load_one_by_one(model: SparringMoeForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    places = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len({places[name] for name in places if ".layers.1.mlp.experts." in name}) > 1
    other = SparringMoeForCausalLM(tiny_config(40))
    load_sharded_checkpoint(other, tmp_path, strict=False)
    theirs = other.state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in model.state_dict().items())


def test_a_state_with_names_on_disk_must_be_whole(model: SparringMoeForCausalLM) -> None:
    whole = dict(named_checkpoint_tensors(model))
    other = SparringMoeForCausalLM(tiny_config(40))
    other.load_state_dict(whole)
    theirs = other.state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in model.state_dict().items())
    with pytest.raises(RuntimeError, match=f'Missing key.*"{EXPERT}"'):
        other.load_state_dict({name: t for name, t in whole.items() if name != EXPERT})
    for bad in (torch.zeros(1, 128), whole[EXPERT].to(torch.float8_e4m3fn)):
        with pytest.raises(ValueError, match=rf"{EXPERT} has shape .* and type .* from_pretrained"):
            other.load_state_dict({**whole, EXPERT: bad})


@pytest.mark.parametrize("name", [EXPERT, BIAS, "model.norm.weight"])
def test_a_missing_tensor_is_named(saved: Path, name: str) -> None:
    rewrite(saved, **{name: None})
    with pytest.raises(ValueError, match=f"{name} is missing"):
        SparringMoeForCausalLM.from_pretrained(saved)


def test_a_wrong_shape_is_named(saved: Path) -> None:
    rewrite(saved, **{EXPERT: torch.zeros(3, 128)})
    with pytest.raises(ValueError, match=rf"{EXPERT} has shape \[3, 128\], expected \[64, 128\]"):
        AutoModelForCausalLM.from_pretrained(saved)


def test_an_unknown_tensor_is_named(saved: Path) -> None:
    rewrite(saved, extra=torch.zeros(2))
    with pytest.raises(ValueError, match="tensor extra belongs to no part"):
        SparringMoeForCausalLM.from_pretrained(saved)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type 'llama'"):
        SparringMoeForCausalLM.from_pretrained(tmp_path)


def test_a_directory_without_weights_is_refused(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        SparringMoeForCausalLM.from_pretrained(saved)


def test_the_tiny_config_has_about_700_thousand_parameters() -> None:
    num_parameters = SparringMoeForCausalLM(tiny_config(40)).num_parameters()
    assert 0.6e6 < num_parameters < 0.8e6
