"""Mixtures of experts of other architectures: transformers fuses their experts, checkpoints do not.

What a policy sends must bear the names on disk, adapted or not, and arrive in a real engine.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pipeline_cases import redraw, redraw_adapter, save
from safetensors.torch import load_file
from sync_pairs import TOKENIZER, prove_five_syncs, start_pair
from transformers import (
    AutoModelForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from pipelines.policy.checkpoint import export_policy, load_policy
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.tensors import policy_tensors
from pipelines.settings.role_table import RoleTable

SIZES = {
    "vocab_size": len(TOKENIZER), "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "num_experts_per_tok": 2, "max_position_embeddings": 128, "bos_token_id": None,
    "eos_token_id": TOKENIZER.eos_token_id, "pad_token_id": TOKENIZER.pad_token_id,
}  # fmt: skip
MAKE: dict[str, Callable[[], PreTrainedModel]] = {
    "GLM": lambda: Glm4MoeForCausalLM(
        Glm4MoeConfig(
            **SIZES, moe_intermediate_size=32, n_routed_experts=4, n_shared_experts=1,
            first_k_dense_replace=1,
        )
    ),
    "Qwen3": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, moe_intermediate_size=32, num_experts=4)
    ),
    "Mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)),
}  # fmt: skip
LORA = RoleTable(
    lora={
        "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj"],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
    }
)  # fmt: skip


@pytest.fixture(scope="module", params=list(MAKE))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign") / request.param
    return save(redraw(MAKE[request.param]().eval(), 0), folder)


def test_a_policy_sends_what_stands_in_the_file(checkpoint: Path) -> None:
    kept = load_file(checkpoint / "model.safetensors")
    assert any(".experts.3." in name for name in kept), "the file names its experts one by one"
    for table in (RoleTable(), LORA):  # a fresh adapter changes nothing
        sent = dict(policy_tensors(load_policy(str(checkpoint), table)))
        assert sent.keys() == checkpoint_manifest(checkpoint).keys() == kept.keys()
        assert all(torch.equal(tensor, kept[name]) for name, tensor in sent.items())


def test_a_merged_adapter_is_exported_as_it_is_sent(checkpoint: Path, tmp_path: Path) -> None:
    policy = load_policy(str(checkpoint), LORA)
    redraw_adapter(policy, 1)
    sent, kept = dict(policy_tensors(policy)), load_file(checkpoint / "model.safetensors")
    moved = {name for name in kept if not torch.equal(sent[name], kept[name])}
    adapted = (".experts.", "q_proj", "o_proj")
    assert moved == {name for name in kept if any(part in name for part in adapted)}
    export_policy(policy, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == kept.keys()
    assert all(torch.equal(tensor, sent[name]) for name, tensor in saved.items())
    reread = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, sent[name]) for name, tensor in policy_tensors(reread))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("kind", [*MAKE])
def test_every_perturbed_weight_arrives_five_times_in_a_row(kind: str, tmp_path: Path) -> None:
    prove_five_syncs(start_pair(MAKE[kind](), tmp_path / kind), redraw_all)


def redraw_all(policy: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Parameters, and a router's bias, which is none."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in policy.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    return redraw(policy, seed)
