"""Checkpoints in DeepSeek-V3's FP8 layout, written without our own writer.

Names, shapes, shards, index and config follow the files that DeepSeek published; numbers come from
`fp8_oracle`. Leaves out everything that reads them.
"""

import json
from pathlib import Path

import fp8_oracle as oracle
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

QUANTIZED = ("_proj.weight", "_with_mqa.weight")
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 40,
    "hidden_size": 160, "intermediate_size": 200, "moe_intermediate_size": 72,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
    "topk_group": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
    "first_k_dense_replace": 1, "kv_lora_rank": 512, "q_lora_rank": 136, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64, "v_head_dim": 32, "max_position_embeddings": 128,
    "rope_theta": 10000, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "hidden_act": "silu",
    "torch_dtype": "bfloat16", "ep_size": 1, "moe_layer_freq": 1, "seq_aux": True,
    "quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
}  # fmt: skip


def layer_shapes(layer: int, config: dict) -> dict[str, tuple[int, ...]]:
    """One decoder layer; its kv_a_proj_with_mqa has 512 + 64 = 576 rows, as V3's has."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    rank, q_rank = config["kv_lora_rank"], config["q_lora_rank"]
    nope, rope, value = (config[f"{n}_head_dim"] for n in ("qk_nope", "qk_rope", "v"))
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "self_attn.q_a_proj.weight": (q_rank, width),
        "self_attn.q_a_layernorm.weight": (q_rank,),
        "self_attn.q_b_proj.weight": (heads * (nope + rope), q_rank),
        "self_attn.kv_a_proj_with_mqa.weight": (rank + rope, width),
        "self_attn.kv_a_layernorm.weight": (rank,),
        "self_attn.kv_b_proj.weight": (heads * (nope + value), rank),
        "self_attn.o_proj.weight": (width, heads * value),
    }
    feed_forwards = {"mlp": config["intermediate_size"]}
    if layer >= config["first_k_dense_replace"]:
        inner, experts = config["moe_intermediate_size"], config["n_routed_experts"]
        feed_forwards = {f"mlp.experts.{expert}": inner for expert in range(experts)}
        feed_forwards["mlp.shared_experts"] = inner * config["n_shared_experts"]
        shapes["mlp.gate.weight"] = (experts, width)
        shapes["mlp.gate.e_score_correction_bias"] = (experts,)
    for name, inner in feed_forwards.items():
        shapes |= {f"{name}.{side}_proj.weight": (inner, width) for side in ("gate", "up")}
        shapes[f"{name}.down_proj.weight"] = (width, inner)
    return {f"model.layers.{layer}.{name}": shape for name, shape in shapes.items()}


def all_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    vocabulary, width = config["vocab_size"], config["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(config["num_hidden_layers"]):
        shapes |= layer_shapes(layer, config)
    return {**shapes, "model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def write_deepseek(directory: Path, *, power_of_two: bool = False) -> dict[str, np.ndarray]:
    """Write a checkpoint in three shards; a weight and its scale may be in different ones.

    Returns:
        The float32 numbers that it stands for, by name, with float32 products of block and scale.
    """
    generator = np.random.default_rng(0)
    stored: dict[str, Tensor] = {}
    exact: dict[str, np.ndarray] = {}
    for name, shape in all_shapes(CONFIG).items():
        x = generator.standard_normal(shape).astype(np.float32) * np.float32(shape[-1] ** -0.5)
        if name.endswith(QUANTIZED):
            values, scale = oracle.quantize(x, (128, 128), power_of_two)
            if not power_of_two:
                scale *= np.float32(1 + 2**-22)  # all 24 bits, as in DeepSeek's own files
            stored[name] = torch.from_numpy(values).to(torch.float8_e4m3fn)
            stored[name + "_scale_inv"] = torch.from_numpy(scale)
            spread = np.repeat(np.repeat(scale, 128, 0), 128, 1)[: shape[0], : shape[1]]
            exact[name] = values * spread
        else:
            kept = torch.from_numpy(x)
            stored[name] = kept if name.endswith("bias") else kept.bfloat16()
            exact[name] = stored[name].float().numpy()
    write_shards(directory, stored, num_shards=3)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return exact


def write_shards(directory: Path, tensors: dict[str, Tensor], num_shards: int) -> None:
    """Deal the tensors out to shards in turn, and write the index."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [f"model-{i:05d}-of-{num_shards:06d}.safetensors" for i in range(1, num_shards + 1)]
    places = {name: names[i % num_shards] for i, name in enumerate(tensors)}
    for shard in names:
        part = {name: tensors[name].contiguous() for name in tensors if places[name] == shard}
        save_file(part, directory / shard, {"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
