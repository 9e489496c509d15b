"""Decoding from the latent cache equals decoding without it, and the cache is as small as said."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache
from weights import ROUNDING, largest_change, make_weights_matter

from model.attention.cache import LatentCache
from model.attention.mla import absorb, expand
from model.configuration import SparringMoeConfig, tiny_config
from model.modeling import SparringMoeForCausalLM

VOCAB = 40


def tiny_model(**overrides: object) -> SparringMoeForCausalLM:
    return make_weights_matter(SparringMoeForCausalLM(tiny_config(VOCAB, **overrides))).eval()


def tokens(num_sequences: int, num_tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, VOCAB, (num_sequences, num_tokens), generator=generator)


def left_padded(lengths: list[int], num_tokens: int) -> tuple[Tensor, Tensor]:
    ids_BT = tokens(len(lengths), num_tokens)
    mask_BT = torch.stack([torch.arange(num_tokens) >= num_tokens - n for n in lengths]).long()
    return ids_BT * mask_BT, mask_BT


@pytest.mark.parametrize("masked", [False, True])
def test_absorbed_attention_equals_expanded(masked: bool) -> None:
    B, T, H, N, P, V, R = 2, 7, 3, 4, 6, 5, 8
    torch.manual_seed(0)
    q_nope, q_rope = torch.randn(B, T, H, N).double(), torch.randn(B, T, H, P).double()
    latent, k_rope = torch.randn(B, T, R).double(), torch.randn(B, T, P).double()
    key_HNR, value_HVR = torch.randn(H, N, R).double(), torch.randn(H, V, R).double()
    causal_BTS = torch.ones(T, T, dtype=torch.bool).tril().expand(B, T, T)
    if masked:
        causal_BTS = causal_BTS.clone()
        causal_BTS[0, 1:, 0] = False
    k_nope = torch.einsum("bsr,hnr->bshn", latent, key_HNR)
    value = torch.einsum("bsr,hvr->bshv", latent, value_HVR)
    expanded = expand(
        q_nope, q_rope, k_nope, k_rope, value, causal_BTS if masked else None, scale=0.3
    )
    rows = torch.cat((latent, k_rope), -1)
    absorbed = absorb(q_nope, q_rope, rows, latent, key_HNR, value_HVR, causal_BTS, scale=0.3)
    assert expanded.shape == (B, T, H * V)
    assert largest_change(expanded, absorbed) <= 1e-6  # the softmax is taken in float32


@pytest.mark.parametrize("chunks", [[1] * 12, [5, 4, 3], [11, 1]])
@pytest.mark.parametrize("mask", ["none", "full", "padded"])
@torch.no_grad()
def test_cached_logits_equal_uncached(chunks: list[int], mask: str) -> None:
    model = tiny_model(q_lora_rank=48)
    ids_BT, mask_BT = left_padded([12, 7 if mask == "padded" else 12], 12)
    whole = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    cache, parts, end = LatentCache(model.config.num_hidden_layers, capacity=4), [], 0
    for size in chunks:
        start, end = end, end + size
        parts.append(
            model(
                input_ids=ids_BT[:, start:end],
                attention_mask=None if mask == "none" else mask_BT[:, :end],
                past_key_values=cache,
            ).logits
        )
    real = mask_BT.bool()
    assert largest_change(whole[real], torch.cat(parts, 1)[real]) <= ROUNDING


@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("lengths", [[12, 12], [12, 7]])
@torch.no_grad()
def test_blocks_of_queries_change_nothing_in_the_latent_space(
    lengths: list[int], queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (ids_BT, mask_BT) = tiny_model(), left_padded(lengths, 12)
    whole = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    heads, blocks = model.config.num_attention_heads, []
    absorbed = "model.attention.mla.absorb"
    monkeypatch.setattr(absorbed, lambda *given: blocks.append(given[0]) or absorb(*given))
    monkeypatch.setattr("model.attention.layout.BLOCK_NUMBERS", queries * 2 * 12 * heads)
    cache = LatentCache(model.config.num_hidden_layers)
    model(input_ids=ids_BT[:, :8], attention_mask=mask_BT[:, :8], past_key_values=cache)
    rest = model(input_ids=ids_BT[:, 8:], attention_mask=mask_BT, past_key_values=cache).logits
    assert [q_BTHN.shape[1] for q_BTHN in blocks] == [queries] * (4 // queries) * 3
    assert largest_change(rest, whole[:, 8:]) <= ROUNDING


@pytest.mark.parametrize("lengths", [[9, 9, 9], [9, 5, 1]])
def test_generate_with_the_cache_equals_without(lengths: list[int]) -> None:
    model = tiny_model()
    ids_BT, mask_BT = left_padded(lengths, 9)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1}
    cached = model.generate(ids_BT, attention_mask=mask_BT, use_cache=True, **options)
    plain = model.generate(ids_BT, attention_mask=mask_BT, use_cache=False, **options)
    assert torch.equal(cached, plain)
    alone = model.generate(ids_BT[-1:, -lengths[-1] :], use_cache=True, **options)
    width = min(alone.shape[1], cached.shape[1] - 9 + lengths[-1])
    assert torch.equal(cached[-1, 9 - lengths[-1] :][:width], alone[0, :width])


def test_generate_uses_the_latent_cache_and_samples_by_seed() -> None:
    model = tiny_model()
    options = {"max_new_tokens": 8, "do_sample": True, "num_return_sequences": 3}
    torch.manual_seed(0)
    first = model.generate(tokens(2, 5), return_dict_in_generate=True, **options)
    torch.manual_seed(0)
    again = model.generate(tokens(2, 5), **options)
    assert isinstance(first.past_key_values, LatentCache)
    assert first.sequences.shape == (6, 13)
    assert torch.equal(first.sequences, again)


@torch.no_grad()
def test_the_cache_holds_one_latent_row_a_token_and_layer() -> None:
    model = tiny_model()
    cache = model(input_ids=tokens(2, 10)).past_key_values
    width = model.config.kv_lora_rank + model.config.qk_rope_head_dim
    assert cache.num_bytes() == 2 * 10 * model.config.num_hidden_layers * width * 4
    assert cache.num_bytes_allocated() >= cache.num_bytes()

    published = SparringMoeConfig()  # DeepSeek-V3: 1,152 bytes per token and layer in bfloat16
    assert (published.kv_lora_rank + published.qk_rope_head_dim) * 2 == 1152


@torch.no_grad()
def test_a_cropped_or_reordered_cache_continues_as_if_computed_so() -> None:
    model = tiny_model()
    ids_BT = tokens(2, 10)
    cache = model(input_ids=torch.cat((ids_BT[:, :6], ids_BT.flip(1)), 1)).past_key_values
    cache.crop(-10)
    cache.reorder_cache(torch.tensor([1, 0]))
    continued = model(input_ids=ids_BT.flip(0)[:, 6:], past_key_values=cache).logits
    assert largest_change(continued, model(input_ids=ids_BT).logits.flip(0)[:, 6:]) <= ROUNDING


def test_generating_in_training_mode_is_right_or_refused() -> None:
    model = tiny_model()
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    wanted = model.generate(tokens(2, 5), **options)
    assert torch.equal(model.train().generate(tokens(2, 5), **options), wanted)
    assert model.router_load()[1].sum() == 0
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient_checkpointing_disable"):
        model.generate(tokens(2, 5), **options)


@pytest.mark.parametrize("v_width", [3, 8, 11])
def test_expanded_attention_is_fused_whatever_the_width_of_values(v_width: int) -> None:
    q_nope, q_rope = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    value = torch.ones(2, 5, 3, v_width)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # refuses inputs it would leave to the slow path
        context = expand(q_nope, q_rope, q_nope, q_rope[:, :, 0], value, None, scale=1.0)
    assert largest_change(context, torch.ones(2, 5, 3 * v_width)) <= 1e-6


def test_a_foreign_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="LatentCache, got DynamicCache"):
        tiny_model()(input_ids=tokens(1, 3), past_key_values=DynamicCache())


def test_a_cache_that_does_not_fit_is_refused() -> None:
    model, ids_BT = tiny_model(), tokens(2, 6)
    with pytest.raises(ValueError, match="has 2 layers, the model 3"):
        model(input_ids=ids_BT, past_key_values=LatentCache(2))
    cache = model(input_ids=ids_BT).past_key_values
    with pytest.raises(ValueError, match="holds 2 sequences, got 1"):
        model(input_ids=ids_BT[:1], past_key_values=cache)
    with pytest.raises(ValueError, match="minus the number of tokens to remove, got 4"):
        cache.crop(4)
    cache.reset()
    again = model(input_ids=ids_BT[:1], past_key_values=cache).logits
    assert torch.equal(again, model(input_ids=ids_BT[:1]).logits)
    assert cache.layers[0].read().shape[:2] == (1, 6)


def test_inputs_that_do_not_fit_are_refused() -> None:
    model, ids_BT = tiny_model(), tokens(2, 3)
    with pytest.raises(ValueError, match=r"\[2, 3\], got \[2, 4\]"):
        model(input_ids=ids_BT, attention_mask=torch.ones(2, 4))
    for shape in ((2, 1), (1, 4), (3,), (3, 3)):
        with pytest.raises(ValueError, match=r"\[2 or 1, 3\], got"):
            model(input_ids=ids_BT, position_ids=torch.zeros(shape, dtype=torch.long))
    for empty in (ids_BT[:0], ids_BT[:, :0]):
        with pytest.raises(ValueError, match="at least one token"):
            model(input_ids=empty)


@pytest.mark.parametrize(
    "options",
    [{"prompt_lookup_num_tokens": 3}, {"assistant_model": None}, {"prefill_chunk_size": 7}],
    ids=lambda options: next(iter(options)),
)
def test_ways_to_generate_that_need_a_cache_say_the_same(options: dict[str, object]) -> None:
    model, ids_BT = tiny_model(), tokens(1, 5).repeat(1, 4)
    if "assistant_model" in options:
        options = {"assistant_model": tiny_model(num_hidden_layers=2)}
    plain = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids_BT, **plain, **options), model.generate(ids_BT, **plain))


def test_another_kind_of_cache_is_refused_and_a_config_may_ask_for_hidden_states() -> None:
    model, ids_BT = tiny_model(), tokens(1, 3)
    with pytest.raises(ValueError, match="cache_implementation='quantized'"):
        model.generate(ids_BT, cache_implementation="quantized", max_new_tokens=2)
    model.config.output_hidden_states = True
    assert len(model(input_ids=ids_BT).hidden_states) == 4
