"""Sparse attention: equal to transformers' V3.2 and to dense, and reading as little as said.

Axes: B sequences, T tokens, Q queries, S keys, K selected keys.
"""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_cases import VOCAB, YARN, padding_mask, tokens
from safetensors.torch import load_file
from sparse_cases import chunked_logits, cost_of_wrong_index_rope, sparse_model, sparse_pair
from stock_process import stock_logits
from transformers import AutoModelForCausalLM
from weights import (
    ROUNDING,
    cost_of_wrong_rope,
    largest_change,
    make_weights_matter,
    prompt_logprobs,
)

from model.attention.cache import LatentCache
from model.attention.indexer import index_scores, select_keys
from model.configuration import SparringSparseConfig, tiny_config, tiny_sparse_config
from model.modeling import SparringMoeForCausalLM, SparringSparseForCausalLM

VARIANTS = {
    "16 keys": {},
    "3 keys": {"index_topk": 3},
    "yarn": {"rope_parameters": YARN, "index_topk": 9},
    "wide index, narrow values": {"index_head_dim": 48, "index_n_heads": 5, "v_head_dim": 16},
    "rotated whole": {"index_head_dim": 16, "index_n_heads": 16},
    "one group, all experts": {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 0},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_gradients_equal_transformers(name: str) -> None:
    ours, reference = sparse_pair(VARIANTS[name])
    ids_BT = tokens(3, 40)
    a = ours(input_ids=ids_BT, labels=ids_BT)
    b = reference(input_ids=ids_BT, labels=ids_BT)
    assert largest_change(a.logits, b.logits) <= ROUNDING
    assert abs(a.loss - a.indexer_loss - b.loss).item() <= 1e-5

    a.loss.backward()
    b.loss.backward()
    theirs = {name: p.grad for name, p in reference.named_parameters()}
    for parameter_name, parameter in ours.named_parameters():
        if ".indexer." in parameter_name:
            assert parameter.grad.abs().max() > 0 and theirs[parameter_name] is None
            continue
        error = largest_change(parameter.grad, theirs[parameter_name])
        scale = theirs[parameter_name].abs().max().item()
        assert error <= 1e-5 * max(scale, 1), f"{parameter_name}: {error} of {scale}"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["16 keys", "yarn"])
@torch.no_grad()
def test_padding_equals_transformers_on_real_tokens(name: str, side: str) -> None:
    ours, reference = sparse_pair(VARIANTS[name])
    ids_BT, mask_BT = tokens(3, 32), padding_mask([32, 25, 7], 32, side)
    real = mask_BT.bool()
    b = reference(input_ids=ids_BT, attention_mask=mask_BT).logits
    whole = ours(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    assert torch.isfinite(whole).all()
    assert largest_change(whole[real], b[real]) <= ROUNDING
    for chunks in ([32], [20, 12], [31, 1]):
        cached, _ = chunked_logits(ours, ids_BT, mask_BT, chunks)
        assert largest_change(cached[real], b[real]) <= ROUNDING


@torch.no_grad()
def test_decoding_equals_transformers_with_its_own_cache() -> None:
    ours, reference = sparse_pair({"index_topk": 6})
    ids_BT = tokens(2, 30)
    theirs = reference(input_ids=ids_BT[:, :20], use_cache=True)
    parts = [theirs.logits]
    for position in range(20, 30):
        one = ids_BT[:, position : position + 1]
        parts.append(reference(one, past_key_values=theirs.past_key_values).logits)
    cached, _ = chunked_logits(ours, ids_BT, None, [20] + [1] * 10)
    assert largest_change(cached, torch.cat(parts, 1)) <= ROUNDING


def test_the_weights_make_errors_cost_more_than_a_nat() -> None:
    for name, overrides in VARIANTS.items():
        ours, ids_BT = sparse_model(**overrides), tokens(4, 40)
        assert cost_of_wrong_index_rope(ours, ids_BT) > 1, name
        assert cost_of_wrong_rope(ours, ids_BT) > 1, name
        sparse = prompt_logprobs(ours, ids_BT)
        ours.set_attention("dense")
        assert largest_change(sparse, prompt_logprobs(ours, ids_BT)) > 1, name


@pytest.mark.parametrize("side", ["none", "left"])
def test_with_every_key_selected_it_is_the_dense_model_to_the_bit(side: str) -> None:
    dense = make_weights_matter(SparringMoeForCausalLM(tiny_config(VOCAB, q_lora_rank=48)))
    sparse = SparringSparseForCausalLM.from_dense(dense, index_topk=24)
    ids_BT = tokens(2, 24)
    mask_BT = None if side == "none" else padding_mask([24, 9], 24, side)
    a = dense(input_ids=ids_BT, attention_mask=mask_BT, labels=ids_BT)
    b = sparse(input_ids=ids_BT, attention_mask=mask_BT, labels=ids_BT)
    assert largest_change(a.logits, b.logits) <= (0 if side == "none" else 1e-6)
    a.loss.backward()
    b.loss.backward()
    theirs = dict(sparse.named_parameters())
    for name, parameter in dense.named_parameters():
        assert largest_change(parameter.grad, theirs[name].grad) <= 1e-6, name
    with torch.no_grad():
        cached, _ = chunked_logits(sparse.eval(), ids_BT, mask_BT, [20, 1, 1, 1, 1])
        plain, _ = chunked_logits(dense.eval(), ids_BT, mask_BT, [20, 1, 1, 1, 1])
    assert torch.equal(cached, plain)


@settings(max_examples=30)
@given(data=st.data())
def test_selection_keeps_the_best_visible_keys(data: st.DataObject) -> None:
    num_keys = data.draw(st.integers(1, 12))
    num_selected = data.draw(st.integers(1, num_keys))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    scores = torch.randn(2, 3, num_keys, generator=generator)
    visible = torch.rand(2, 3, num_keys, generator=generator) < 0.6
    indices, valid = select_keys(scores, visible, num_selected)
    for b, q in ((b, q) for b in range(2) for q in range(3)):
        seen = visible[b, q].nonzero().flatten().tolist()
        best = sorted(seen, key=lambda s: -scores[b, q, s].item())[:num_selected]
        assert set(indices[b, q][valid[b, q]].tolist()) == set(best)


def test_scores_follow_the_formula_whatever_the_tiles() -> None:
    torch.manual_seed(0)
    queries, weights = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4)
    keys = torch.randn(2, 1000, 8)  # more than a tile
    wanted = (queries.double() @ keys.double()[:, None].transpose(2, 3)).relu()
    wanted = (weights.double()[..., None] * wanted).sum(2)
    assert largest_change(index_scores(queries, weights, keys).double(), wanted) <= ROUNDING


@pytest.mark.parametrize("chunks", [[40], [17, 23], [30] + [1] * 10])
@torch.no_grad()
def test_blocks_of_queries_change_nothing(
    chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids_BT = sparse_model(), tokens(2, 40)
    mask_BT = padding_mask([40, 29], 40, "left")
    whole = [model(ids_BT, attention_mask=mask_BT, use_cache=False).logits]
    whole.append(chunked_logits(model, ids_BT, mask_BT, chunks)[0])
    monkeypatch.setattr("model.attention.layout.BLOCK_NUMBERS", 9000)
    blocks = [model(ids_BT, attention_mask=mask_BT, use_cache=False).logits]
    blocks.append(chunked_logits(model, ids_BT, mask_BT, chunks)[0])
    for a, b in zip(whole, blocks, strict=True):
        assert largest_change(a[mask_BT.bool()], b[mask_BT.bool()]) <= ROUNDING


def decode_bytes(model: SparringSparseForCausalLM, num_tokens: int) -> int:
    """Bytes that one decoded token reads from the cache of two sequences, itself included."""
    cache = LatentCache(model.config.num_hidden_layers)
    ids_BT = tokens(2, num_tokens)
    model(ids_BT[:, :-1], past_key_values=cache)
    before = cache.bytes_read
    model(ids_BT[:, -1:], past_key_values=cache)
    return cache.bytes_read - before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [8, 16, 17, 40])
@torch.no_grad()
def test_a_decoded_token_reads_what_the_law_says(num_tokens: int, dtype: torch.dtype) -> None:
    model = sparse_model().to(dtype).eval()
    config = model.config
    record_bytes = (config.kv_lora_rank + config.qk_rope_head_dim) * dtype.itemsize
    index_bytes = config.index_head_dim * dtype.itemsize
    by_law = min(config.index_topk, num_tokens) * record_bytes
    if num_tokens > config.index_topk:  # else there is nothing to select, and no score is taken
        by_law += num_tokens * index_bytes
    per_row = 2 * config.num_hidden_layers
    assert decode_bytes(model, num_tokens) == per_row * by_law
    model.set_attention("dense")
    assert decode_bytes(model, num_tokens) == per_row * num_tokens * record_bytes


@torch.no_grad()
def test_the_cache_holds_v3s_record_and_v32s_index_key() -> None:
    """At the published widths of attention, in bfloat16: 1,152 bytes, and 256 for the indexer."""
    widths = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128}
    dense = SparringMoeForCausalLM(tiny_config(VOCAB, num_attention_heads=2, **widths))
    sparse = SparringSparseForCausalLM(
        tiny_sparse_config(VOCAB, num_attention_heads=2, index_head_dim=128, **widths)
    )
    for model, wanted in ((dense, 1152), (sparse, 1152 + 256)):
        model.to(torch.bfloat16).eval()
        cache = model(tokens(2, 20)).past_key_values
        assert cache.num_bytes() == wanted * 2 * 20 * model.config.num_hidden_layers


@torch.no_grad()
def test_a_cropped_or_reordered_cache_continues_as_if_computed_so() -> None:
    model, ids_BT = sparse_model().eval(), tokens(2, 30)
    wrong_BT = torch.cat((ids_BT[:, :26], tokens(2, 9, seed=1)), 1)
    cache = model(input_ids=wrong_BT).past_key_values
    cache.crop(-9)
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.batch_repeat_interleave(2)
    continued = model(ids_BT.flip(0).repeat_interleave(2, 0)[:, 26:], past_key_values=cache).logits
    whole = model(input_ids=ids_BT).logits.flip(0).repeat_interleave(2, 0)
    assert largest_change(continued, whole[:, 26:]) <= ROUNDING


@pytest.mark.parametrize("lengths", [[30, 30, 30], [30, 21, 3]])
def test_generate_with_the_cache_equals_without(lengths: list[int]) -> None:
    model = sparse_model(index_topk=8).eval()
    mask_BT = padding_mask(lengths, 30, "left")
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1}
    cached, plain = (
        model.generate(tokens(3, 30), attention_mask=mask_BT, use_cache=use_cache, **options)
        for use_cache in (True, False)
    )
    assert torch.equal(cached, plain)


@torch.no_grad()
def test_a_packed_row_equals_its_documents() -> None:
    model, ids_BT = sparse_model(), tokens(1, 50)
    positions = torch.cat((torch.arange(28), torch.arange(22)))[None]
    packed = model(input_ids=ids_BT, position_ids=positions, use_cache=False).logits[0]
    alone = [model(input_ids=part).logits[0] for part in ids_BT.split([28, 22], dim=1)]
    assert largest_change(packed, torch.cat(alone)) <= ROUNDING


def test_a_checkpoint_round_trips_and_stock_transformers_reads_it(tmp_path: Path) -> None:
    ours, ids_BT = sparse_model(rope_parameters=YARN), tokens(2, 30)
    ours.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert written["architectures"] == ["DeepseekV32ForCausalLM"]
    assert written["model_type"] == "deepseek_v32"
    names = set(load_file(tmp_path / "saved" / "model.safetensors"))
    for part in ("wq_b.weight", "wk.weight", "k_norm.weight", "k_norm.bias", "weights_proj.weight"):
        assert f"model.layers.2.self_attn.indexer.{part}" in names
    for loaded in (
        SparringSparseForCausalLM.from_pretrained(tmp_path / "saved"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "saved"),
    ):
        assert type(loaded) is SparringSparseForCausalLM
        theirs = loaded.state_dict()
        assert all(torch.equal(t, theirs[name]) for name, t in ours.state_dict().items())
    theirs = stock_logits(tmp_path / "saved", ids_BT, tmp_path)
    assert largest_change(ours(input_ids=ids_BT).logits, theirs) <= ROUNDING


def test_bfloat16_keeps_the_head_weights_of_the_indexer_exact(tmp_path: Path) -> None:
    ours = sparse_model()
    exact = ours.model.layers[1].self_attn.indexer.weights_proj.weight.clone()
    ours.save_pretrained(tmp_path)
    loaded = SparringSparseForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    indexer = loaded.model.layers[1].self_attn.indexer
    assert indexer.wk.weight.dtype == torch.bfloat16
    assert torch.equal(indexer.weights_proj.weight, exact)


def test_bad_requests_are_refused() -> None:
    model = sparse_model()
    with pytest.raises(ValueError, match="'dense' or 'sparse', got 'window'"):
        model.set_attention("window")
    with pytest.raises(ValueError, match="no field 'index_top_k': did you mean 'index_topk'"):
        tiny_sparse_config(VOCAB, index_top_k=4)
    with pytest.raises(ValueError, match="q_lora_rank must be set for sparse attention"):
        SparringSparseForCausalLM.from_dense(SparringMoeForCausalLM(tiny_config(VOCAB)))
    with pytest.raises(ValueError, match="index_head_dim must be at least qk_rope_head_dim=64"):
        SparringSparseConfig(index_head_dim=32)
    dense = SparringMoeForCausalLM(tiny_config(VOCAB, q_lora_rank=48)).eval()
    with pytest.raises(ValueError, match="index_n_heads, got index_top_k"):
        SparringSparseForCausalLM.from_dense(dense, index_top_k=4)
    for writer, reader in ((dense, model.eval()), (model.eval(), dense)):
        cache = writer(tokens(2, 6)).past_key_values
        with pytest.raises(ValueError, match="filled by a model with sparse attention"):
            reader(tokens(2, 1), past_key_values=cache)


def test_a_batch_of_padding_has_a_loss_of_nothing() -> None:
    ids_BT = tokens(2, 20)
    outputs = sparse_model()(input_ids=ids_BT, attention_mask=torch.zeros_like(ids_BT))
    assert outputs.indexer_loss == 0
