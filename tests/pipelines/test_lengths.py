"""Passes in chunks of like length compute what one padded pass computes, for fewer tokens."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_cases import random_llama, random_moe
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from pipelines.policy.tokenizer import character_tokenizer
from pipelines.training.lengths import CHUNK_COUNTS, LengthSorted, chunks
from pipelines.training.mismatch import own_choices

TOKENIZER = character_tokenizer()
EXACT = 1e-5  # nats, float32
Lengths = list[tuple[int, int]]
lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 200)), min_size=1, max_size=32)


def alone(values: Tensor) -> Tensor:
    return values


def _batch(sizes: Lengths) -> dict[str, Tensor]:
    """Prompts padded on the left and completions on the right, as TRL does."""
    prompt, completion = max(p for p, _ in sizes), max(1, *(c for _, c in sizes))
    mask_BT = torch.zeros(len(sizes), prompt + completion, dtype=torch.long)
    for row, (p, c) in enumerate(sizes):
        mask_BT[row, prompt - p : prompt + c] = 1
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(3, len(TOKENIZER), mask_BT.shape, generator=generator) * mask_BT
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    labels_BT[:, :prompt] = -100
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(lengths)
def test_every_real_token_is_in_exactly_one_pass(sizes: Lengths) -> None:
    batch = _batch(sizes)
    mask_BT = batch["attention_mask"]
    seen_BT = torch.zeros_like(mask_BT)
    places = chunks(batch, alone)
    for chunk in places:
        seen_BT[chunk.rows, chunk.columns] += 1
    assert seen_BT.max() == 1 and (seen_BT >= mask_BT).all()
    assert len({len(chunk.rows) for chunk in places}) == 1
    assert len(places) in CHUNK_COUNTS


def test_uneven_completions_are_cut_and_even_ones_are_not() -> None:
    uneven = _batch([(5, 80 + 48 * row) for row in range(32)])
    places = chunks(uneven, alone)
    run = sum(chunk.of(uneven)["input_ids"].numel() for chunk in places)
    assert len(places) > 1 and run < 0.65 * uneven["input_ids"].numel()
    assert len(chunks(_batch([(5, 100)] * 32), alone)) == 1


def test_processes_choose_as_many_passes() -> None:
    """Costs are summed over processes: another's even batch outweighs this one's uneven one."""
    uneven = _batch([(5, 80 + 48 * row) for row in range(32)])
    assert len(chunks(uneven, lambda costs: costs + 10**6 * torch.arange(len(costs)))) == 1


@pytest.mark.parametrize("num", [8, 32])
def test_long_completions_run_alone_and_without_a_mask(num: int) -> None:
    """One padded pass would hold a mask of tokens by tokens for each: memory is their square."""
    long = _batch([(5 + row % 4, 4096) for row in range(num)])
    places = chunks(long, alone)
    assert len(places) == num
    assert all(chunk.of(long)["attention_mask"].all() for chunk in places)
    assert len(chunks(_batch([(5 + row % 4, 100) for row in range(num)]), alone)) < num / 2
    assert len(chunks(_batch([(5, 4096)] * num), alone)) == 1


@pytest.mark.parametrize("make", [random_moe, random_llama], ids=["moe", "dense"])
def test_values_and_gradients_are_those_of_one_padded_pass(
    make: Callable[..., PreTrainedModel],
) -> None:
    policy = make(TOKENIZER)
    add_fused_lm_head(policy, temperature=0.7, outputs=("log_probs", "entropy"))
    batch = _batch([(3 + row % 5, 3 + (29 * row) % 200) for row in range(32)])
    sorted_ = LengthSorted(policy, alone)
    found = []
    for model in (policy, sorted_):
        policy.zero_grad()
        output = model(**batch, fused_lm_head=True)
        (output.log_probs.sum() + output.entropy.square().sum()).backward()
        gradients = [p.grad for p in policy.parameters() if p.grad is not None]
        found.append((output.log_probs, output.entropy, gradients))
    assert len(sorted_.places) > 1
    (log_probs, entropy, gradients), (own_log_probs, own_entropy, own_gradients) = found
    kept_BT = batch["labels"][:, 1:] != -100
    assert (log_probs - own_log_probs)[kept_BT].abs().max() <= EXACT
    assert (entropy - own_entropy)[kept_BT].abs().max() <= EXACT
    assert own_log_probs[~kept_BT].abs().max() == 0
    for one, other in zip(gradients, own_gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * one.abs().max().item() + 1e-7)


@torch.no_grad()
def test_what_is_seen_in_the_passes_finds_its_tokens() -> None:
    policy = random_moe(TOKENIZER, num_hidden_layers=3)
    add_fused_lm_head(policy)
    batch = _batch([(3 + row % 5, 3 + (29 * row) % 200) for row in range(32)])
    sorted_ = LengthSorted(policy, alone)
    with own_choices(policy) as padded:
        policy(**batch, fused_lm_head=True)
    with own_choices(policy) as passes:  # twice, as TRL's own chunks would call it
        for rows in (slice(0, 16), slice(16, 32)):
            sorted_(**{name: x[rows] for name, x in batch.items()}, fused_lm_head=True)
    laid_BTLK = sorted_.laid_out(passes.experts, batch["input_ids"])
    real_BT = batch["attention_mask"].bool()
    one_BTLK = padded.experts[0].unflatten(0, real_BT.shape)
    same = (laid_BTLK.sort(-1).values == one_BTLK.sort(-1).values).all(-1).all(-1)[real_BT]
    assert same.float().mean() >= 0.999
    margins_BTL = sorted_.laid_out(passes.margins, batch["input_ids"])
    expected_BTL = padded.margins[0].unflatten(0, real_BT.shape)
    assert torch.allclose(margins_BTL[real_BT], expected_BTL[real_BT], atol=1e-4)
