"""Configs: DeepSeek's own are read; what cannot work is refused by key, value and rule."""

import json
from pathlib import Path

import pytest

from model.configuration import (
    SparringMoeConfig,
    SparringSparseConfig,
    tiny_config,
    tiny_sparse_config,
)

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def yarn(**changes: object) -> dict[str, object]:
    return {"rope_parameters": {**YARN, **changes}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tie_word_embeddings": True}, "tie_word_embeddings must be False.*vLLM"),
        ({"n_group": 3}, "n_group must divide n_routed_experts, got 3 groups of 8"),
        ({"n_group": 8, "topk_group": 2}, "at least 2 experts"),
        ({"topk_group": 3}, "topk_group must be at most n_group=2, got 3"),
        ({"num_experts_per_tok": 5}, "at most 4, the experts in the topk_group=1"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok must be an integer of at least 1, got 0"),
        ({"num_experts_per_tok": True}, "num_experts_per_tok must be an integer.*got True"),
        ({"n_shared_experts": 0}, "n_shared_experts must be an integer of at least 1, got 0"),
        ({"n_shared_experts": None}, "n_shared_experts must be an integer of at least 1, got None"),
        ({"scoring_func": "softmax"}, "scoring_func must be 'sigmoid'"),
        ({"topk_method": "greedy"}, "topk_method must be 'noaux_tc'"),
        ({"qk_rope_head_dim": 15}, "must be even, got 15"),
        ({"num_key_value_heads": 2}, "num_key_value_heads must equal"),
        ({"first_k_dense_replace": 4}, "at most num_hidden_layers=3, got 4"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace must be an integer of at least 0"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ({"hidden_size": 128.0}, "hidden_size must be an integer of at least 1, got 128.0"),
        ({"hidden_size": "128"}, "hidden_size must be an integer of at least 1, got '128'"),
        ({"max_position_embeddings": 0}, "max_position_embeddings must be an integer"),
        ({"num_nextn_predict_layers": -1}, "num_nextn_predict_layers must be an integer of at l"),
        ({"num_nextn_predict_layers": 0.5}, "num_nextn_predict_layers must be an integer.*got 0.5"),
        ({"mtp_loss_weight": -0.1}, "mtp_loss_weight must be a number of at least 0, got -0.1"),
        ({"aux_loss_alpha": float("nan")}, "aux_loss_alpha must be a number of at least 0, got na"),
        ({"routed_scaling_factor": "2.5"}, "routed_scaling_factor must be a number"),
        ({"norm_topk_prob": "yes"}, "norm_topk_prob must be true or false, got 'yes'"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps must be 1e-06"),
        ({"kv_lora_rank": 0}, "kv_lora_rank must be an integer of at least 1, got 0"),
        ({"q_lora_rank": 0}, "q_lora_rank must be an integer of at least 1, got 0"),
        ({"v_head_dim": None}, "v_head_dim must be an integer of at least 1, got None"),
        ({"pad_token_id": 40}, "pad_token_id must be below vocab_size=40, got 40"),
        ({"pad_token_id": -1}, "pad_token_id must be an integer of at least 0, got -1"),
        ({"rope_parameters": "yarn"}, "rope_parameters must be a table of values, got 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "'default' or 'yarn'"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta must be a number above 1, got 0"),
        ({"rope_parameters": {"factor": 2.0}}, "a default rope has no key 'factor'"),
        (yarn(factor=0.5), "factor of a yarn rope must be a number of at least 1, got 0.5"),
        (yarn(factor="4"), "factor of a yarn rope must be a number of at least 1, got '4'"),
        (yarn(original_max_position_embeddings=None), "original_max_position_embeddings of a yarn"),
        (yarn(mscale=-1), "mscale of a yarn rope must be a number of at least 0, got -1"),
        (yarn(beta_fast=1, beta_slow=2), "beta_fast of a yarn rope must be at least beta_slow=2"),
        (yarn(truncate="no"), "truncate of a yarn rope must be true or false, got 'no'"),
        (yarn(mscale_all_dims=1.0), "no key 'mscale_all_dims': did you mean 'mscale_all_dim'"),
        ({"hidden_sise": 64}, "no field 'hidden_sise': did you mean 'hidden_size'"),
    ],
)
def test_a_config_that_cannot_work_is_refused(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(40, **overrides)


def test_a_width_that_follows_from_others_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="head_dim must be 16: leave it out"):
        SparringMoeConfig(**tiny_config(40).to_dict() | {"head_dim": 32})


def test_a_yarn_rope_must_say_what_length_it_stretches() -> None:
    # transformers would take the stretched length for it.
    with pytest.raises(ValueError, match="original_max_position_embeddings of a yarn rope"):
        tiny_config(40, rope_parameters={"rope_type": "yarn", "factor": 4.0})
    with pytest.raises(ValueError, match="original_max_position_embeddings of a yarn rope"):
        SparringMoeConfig(rope_scaling={"type": "yarn", "factor": 40}, rope_theta=10000)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"index_topk": 0}, "index_topk must be an integer of at least 1, got 0"),
        ({"index_head_dim": 8}, "index_head_dim must be at least qk_rope_head_dim=16"),
        ({"index_n_heads": 1.0}, "index_n_heads must be an integer of at least 1, got 1.0"),
        ({"q_lora_rank": None}, "q_lora_rank must be set for sparse attention"),
    ],
)
def test_a_sparse_config_that_cannot_work_is_refused(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_sparse_config(40, **overrides)


def test_the_config_of_the_released_model_is_read(tmp_path: Path) -> None:
    released = {
        "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1,
        "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
        "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512,
        "max_position_embeddings": 163840, "model_type": "deepseek_v3",
        "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
        "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128,
        "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000,
        "rope_scaling": {
            "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096, "type": "yarn",
        },
        "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": True,
        "tie_word_embeddings": False, "topk_group": 4, "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16", "use_cache": True, "v_head_dim": 128, "vocab_size": 129280,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(released))
    config = SparringMoeConfig.from_pretrained(tmp_path)
    assert config.rope_parameters["rope_type"] == "yarn"
    assert config.rope_parameters["rope_theta"] == 10000
    assert config.num_nextn_predict_layers == 1 and config.aux_loss_alpha == 0.001
    config.save_pretrained(tmp_path / "again")
    assert SparringMoeConfig.from_pretrained(tmp_path / "again").to_dict() == config.to_dict()


def test_a_config_of_another_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="model_type 'deepseek_v32', expected 'deepseek_v3'"):
        SparringMoeConfig.from_dict(SparringSparseConfig().to_dict())
