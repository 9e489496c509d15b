"""Long context: prefill in chunks, exact rotations at 128k, memory that holds one chunk.

Axes: B sequences, T tokens, P half of the rotated features.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parity_cases import VOCAB, padding_mask, tokens
from sparse_cases import sparse_model
from transformers.models.deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding
from weights import largest_change, make_weights_matter

from model.attention.cache import LatentCache
from model.attention.rope import rotations
from model.configuration import tiny_config
from model.modeling import SparringMoeForCausalLM

YARN_128K = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
LONG = {"rope_parameters": YARN_128K, "max_position_embeddings": 131072}


def long_model(kind: str, **overrides: object) -> SparringMoeForCausalLM:
    overrides = {"num_hidden_layers": 2, "num_attention_heads": 2, **LONG, **overrides}
    overrides["first_k_dense_replace"] = overrides["num_hidden_layers"] - 1
    if kind == "sparse":
        # Few heads would tie: a key that all of them reject scores exactly 0.
        return sparse_model(index_topk=64, index_n_heads=16, **overrides).eval()
    return make_weights_matter(SparringMoeForCausalLM(tiny_config(VOCAB, **overrides))).eval()


@pytest.mark.parametrize("rope", [YARN_128K, {"rope_type": "default", "rope_theta": 10000.0}])
def test_rotations_at_128k_equal_transformers_and_nearly_the_exact_ones(rope: dict) -> None:
    config = tiny_config(VOCAB, qk_rope_head_dim=64, **{**LONG, "rope_parameters": rope})
    positions_BT = torch.cat((torch.arange(64), torch.arange(131008, 131072)))[None]
    ours_BTP = rotations(config, positions_BT)[:, :, 0]
    reference = DeepseekV3RotaryEmbedding(DeepseekV3Config(**config.to_dict()))
    cos, sin = reference(torch.zeros(1), positions_BT)
    theirs_BTP = torch.complex(cos, sin)[..., :32]
    assert largest_change(ours_BTP, theirs_BTP) <= 1e-6
    exact_BTP = torch.polar(
        torch.ones(1, dtype=torch.float64), positions_BT[..., None] * reference.inv_freq.double()
    )
    assert largest_change(ours_BTP, exact_BTP) <= 2**-8 + 1e-6  # half a float32 step at 131,071


@pytest.mark.parametrize(
    ("kind", "side"), [("dense", "none"), ("dense", "left"), ("sparse", "left")]
)
@torch.no_grad()
def test_chunked_prefill_equals_one_pass_at_4k(kind: str, side: str) -> None:
    """Of a sparse token, the keys that tie in float32 may go either way: 1 in 1,000 tokens may.

    It has one layer, so that such a token reaches no other.
    """
    model = long_model(kind, num_hidden_layers=1 if kind == "sparse" else 2)
    ids_BT = tokens(2, 4096)
    mask_BT = None if side == "none" else padding_mask([4096, 2500], 4096, side)
    whole = model(ids_BT, attention_mask=mask_BT, use_cache=False).logits
    cache, parts = LatentCache(model.config.num_hidden_layers, capacity=4096), []
    for start, end in ((0, 1500), (1500, 2896), (2896, 4000), (4000, 4096)):
        seen = None if mask_BT is None else mask_BT[:, :end]
        chunk = model(ids_BT[:, start:end], attention_mask=seen, past_key_values=cache)
        parts.append(chunk.logits)
    changes_BT = (whole - torch.cat(parts, 1)).abs().amax(-1)
    real_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
    changed = (changes_BT[real_BT.bool()] > 1e-5).float().mean().item()
    assert changed <= (0.001 if kind == "sparse" else 0)

    last = model.prefill(ids_BT, attention_mask=mask_BT, chunk_tokens=1024)
    assert last.logits.shape == (2, 1, VOCAB)
    assert largest_change(whole[:, -1], last.logits[:, 0]) <= 1e-5


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_generate_goes_on_from_a_prefilled_cache(kind: str) -> None:
    model, ids_BT = long_model(kind), tokens(2, 300)
    mask_BT = padding_mask([300, 210], 300, "left")
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1}
    wanted = model.generate(ids_BT, attention_mask=mask_BT, **options)
    cache = model.prefill(ids_BT, attention_mask=mask_BT, chunk_tokens=128).past_key_values
    cache.crop(-1)
    for more in ({"past_key_values": cache}, {"past_key_values": LatentCache(2)}):
        chunked = {} if more["past_key_values"] is cache else {"prefill_chunk_size": 100}
        found = model.generate(ids_BT, attention_mask=mask_BT, **more, **chunked, **options)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("heads", [1, 4])
@torch.no_grad()
def test_a_block_of_heads_or_queries_changes_nothing(
    heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids_BT = long_model("dense", num_attention_heads=4), tokens(2, 400)
    whole = model.prefill(ids_BT, chunk_tokens=200).logits
    width = model.config.qk_nope_head_dim + model.config.v_head_dim
    for module in ("attention.layout", "attention.mla"):
        monkeypatch.setattr(f"model.{module}.BLOCK_NUMBERS", heads * 2 * 400 * width)
    assert largest_change(whole, model.prefill(ids_BT, chunk_tokens=200).logits) <= 1e-5


@torch.no_grad()
def test_a_prefilled_cache_holds_its_tokens_and_the_room_asked_for() -> None:
    cache = long_model("dense").prefill(tokens(1, 100), chunk_tokens=30, room_tokens=8)
    cache = cache.past_key_values
    assert cache.get_seq_length() == 100
    assert cache.num_bytes_allocated() == cache.num_bytes() * 108 // 100


def test_a_prefill_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3 tokens in chunks of 0"):
        long_model("dense").prefill(tokens(1, 3), chunk_tokens=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_128k_tokens_fit_in_16_gib(kind: str, checkout: Path) -> None:
    command = [sys.executable, "benchmarks/bench_long.py", "--only-prefill", kind]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["num_tokens"] == 131072 and measured["finite"]
    assert measured["peak_rss_gib"] < 16
