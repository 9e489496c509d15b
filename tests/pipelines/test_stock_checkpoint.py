"""A policy that starts from a checkpoint of stock transformers: loaded, served by vLLM, synced.

Its config names a multi-token layer that it lacks, and not how DeepSeek-V3 routes.
"""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from pipeline_cases import save
from transformers.models.deepseek_v3 import DeepseekV3Config, DeepseekV3ForCausalLM
from weights import make_weights_matter

from pipelines.policy.checkpoint import check_checkpoint, export_policy, load_policy
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import served_tensors
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.settings.role_table import RoleTable
from pipelines.settings.rollout_table import RolloutTable
from pipelines.sync.agreement import largest_difference
from pipelines.sync.push import WeightSync

EXACT = 1e-5  # nats, float32
TABLE = RolloutTable(max_model_len=64, kv_cache_gib=0.05, max_num_seqs=8)
TOKENIZER = character_tokenizer()
PROBES = torch.randint(
    3, len(TOKENIZER), (4, 32), generator=torch.Generator().manual_seed(3)
).tolist()


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = DeepseekV3Config(
        vocab_size=len(TOKENIZER), hidden_size=64, intermediate_size=128, moe_intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, n_routed_experts=8,
        num_experts_per_tok=2, n_group=2, topk_group=1, first_k_dense_replace=1, q_lora_rank=48,
        kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32,
        max_position_embeddings=512, eos_token_id=TOKENIZER.eos_token_id,
        pad_token_id=TOKENIZER.pad_token_id,
    )  # fmt: skip
    model = make_weights_matter(DeepseekV3ForCausalLM(config).eval(), 1)
    directory = save(model, tmp_path_factory.mktemp("stock") / "policy")
    written = json.loads((directory / "config.json").read_text())
    assert written["num_nextn_predict_layers"] == 1
    assert not {"topk_method", "scoring_func"} & written.keys()
    return directory


def test_its_policy_sends_what_the_manifest_names(stock: Path, tmp_path: Path) -> None:
    check_checkpoint("learner.model", str(stock))
    policy = load_policy(str(stock), RoleTable())
    sent = {name: tuple(tensor.shape) for name, tensor in served_tensors(policy)}
    assert sent == checkpoint_manifest(stock)
    export_policy(policy, tmp_path)
    assert sent == checkpoint_manifest(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_nextn_predict_layers"] == 0


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_serves_it_and_agrees_before_and_after_a_sync(stock: Path) -> None:
    policy = load_policy(str(stock), RoleTable()).eval()
    engine = VllmEngine(EngineSpec(stock, TABLE, "float32", (TOKENIZER.eos_token_id,)))
    before = policy_logprobs(policy, PROBES)
    assert largest_difference(before, engine.score(PROBES))[0] <= EXACT
    sync = WeightSync(engine, checkpoint_manifest(stock), PROBES, 1, agreement_threshold=EXACT)
    make_weights_matter(policy, 2)
    assert largest_difference(policy_logprobs(policy, PROBES), before)[0] > 1
    sync.push(policy, 1)
    assert largest_difference(policy_logprobs(policy, PROBES), engine.score(PROBES))[0] <= EXACT
