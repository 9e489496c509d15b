"""Checkpoints that loaders read though they hold more than they must, or are cut into shards."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from chat_cases import FAMILIES
from pipeline_cases import random_llama, save
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, Qwen3Config

from pipelines.errors import UserError
from pipelines.policy.chat import declare_ends, text_ids
from pipelines.policy.checkpoint import check_checkpoint, load_policy, load_tokenizer
from pipelines.policy.manifest import checkpoint_manifest, manifest_difference
from pipelines.policy.tensors import policy_fingerprints
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Sampling
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.transformers_engine import TransformersEngine
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.rollouts.vllm_options import check_head_size
from pipelines.settings.role_table import RoleTable
from pipelines.settings.rollout_table import RolloutTable

EMBEDDINGS = "model.embed_tokens.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """A checkpoint whose embeddings are its head."""
    return save(random_llama(character_tokenizer()), tmp_path / "tied")


def rewrite(folder: Path, **more: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    save_file(load_file(file) | more, file, {"format": "pt"})


def difference(folder: Path) -> str:
    """What the first sync of a run would find, once the start has let the checkpoint pass."""
    check_checkpoint("learner.model", str(folder))
    policy = load_policy(str(folder), RoleTable())
    return manifest_difference(policy_fingerprints(policy)[1], checkpoint_manifest(folder))


def test_a_tied_checkpoint_may_hold_its_head_too(tied: Path) -> None:
    head = load_file(tied / "model.safetensors")[EMBEDDINGS]
    rewrite(tied, **{"lm_head.weight": head.clone()})
    assert difference(tied) == ""
    rewrite(tied, **{"lm_head.weight": head + 1})
    with pytest.raises(UserError, match="set tie_word_embeddings to false there"):
        difference(tied)
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    assert difference(tied) == ""


def test_buffers_that_follow_from_the_config_are_passed_over(tied: Path) -> None:
    rewrite(tied, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)})
    assert difference(tied) == ""


def test_only_the_shards_of_the_index_count(tmp_path: Path, tied: Path) -> None:
    model = random_llama(character_tokenizer())
    model.save_pretrained(tmp_path / "cut", max_shard_size="40KB")
    character_tokenizer().save_pretrained(tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("model-*.safetensors"))) > 1
    assert checkpoint_manifest(tmp_path / "cut") == checkpoint_manifest(tied)
    save_file(
        {"tok_embeddings.weight": torch.ones(2, 2)}, tmp_path / "cut/consolidated.safetensors"
    )
    assert difference(tmp_path / "cut") == ""
    first = min((tmp_path / "cut").glob("model-*.safetensors"))
    first.unlink()
    with pytest.raises(UserError, match=f"names {first.name}, which is missing"):
        checkpoint_manifest(tmp_path / "cut")
    (tmp_path / "cut" / INDEX).write_text("{}")
    with pytest.raises(UserError, match="has no weight_map"):
        checkpoint_manifest(tmp_path / "cut")


def test_a_tokenizer_without_a_pad_token_gets_its_end_token(tied: Path) -> None:
    tokenizer = character_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tied)
    assert load_tokenizer(str(tied)).pad_token_id == tokenizer.eos_token_id


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_both_engines_end_a_reply_at_every_declared_token(tmp_path: Path) -> None:
    """And vLLM serves a tied checkpoint that holds its head, of a tokenizer without a pad token."""
    tokenizer, greedy = FAMILIES["Gemma 3"].tokenizer(), Sampling(12, 0)
    model = random_llama(tokenizer)
    prompts = [text_ids(tokenizer, text) for text in ("1+1", "What", "7", "is")]
    plain = TransformersEngine(model, (tokenizer.eos_token_id,), tokenizer.eos_token_id, 64)
    said = plain.generate(prompts, greedy, range(4))[0].token_ids
    model.generation_config.eos_token_id = [said[4]]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rewrite(tmp_path, **{"lm_head.weight": model.lm_head.weight.detach().clone()})
    assert difference(tmp_path) == ""
    policy, tokenizer = load_policy(str(tmp_path), RoleTable()), load_tokenizer(str(tmp_path))
    ends = declare_ends(policy, tokenizer)
    assert {tokenizer.convert_tokens_to_ids("<end_of_turn>"), said[4]} < set(ends)
    ours = TransformersEngine(policy, ends, tokenizer.pad_token_id, 64)
    table = RolloutTable(max_model_len=64, kv_cache_gib=0.05, max_num_seqs=8)
    vllm = VllmEngine(EngineSpec(tmp_path, table, "float32", ends))
    found = [engine.generate(prompts, greedy, range(4)) for engine in (ours, vllm)]
    ids = [[done.token_ids for done in replies] for replies in found]
    assert ids[0] == ids[1] and ids[0][0] == said[: said.index(said[4]) + 1]
    for replies in found:
        for done in replies:
            assert done.truncated == (done.token_ids[-1] not in ends)


def test_heads_that_vllm_on_cpu_cannot_serve_are_refused_with_a_way_out() -> None:
    """It would fail in its own kernels, a hundred lines long, before a run has a folder."""
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    check_head_size(Qwen3Config(**sizes, head_dim=32))
    check_head_size(LlamaConfig(**sizes))  # 64 / 2
    with pytest.raises(UserError, match=r'have 16: set rollout.engine = "transformers"'):
        check_head_size(Qwen3Config(**sizes, head_dim=16))
