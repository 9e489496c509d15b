"""Our model against transformers' own DeepSeek-V3 on the same weights.

The reference is imported from `transformers.models`, or loaded in a process that never imports
us: through the Auto classes we would be compared with ourselves.
"""

import copy
from pathlib import Path

import pytest
import torch
from parity_cases import VOCAB, YARN, padding_mask, pair, tokens
from stock_process import stock_logits
from weights import ROUNDING, cost_of_swapped_experts, cost_of_wrong_rope, largest_change

# Relative: a step of float32 in the log-softmax, the sum and the division, and one to spare.
LOSS_ROUNDING = 4 * torch.finfo(torch.float32).eps
VARIANTS = {
    "groups": {},
    "one group, low-rank query": {"n_group": 1, "topk_group": 1, "q_lora_rank": 48},
    "yarn": {"rope_parameters": YARN},
    "plain yarn": {
        "rope_parameters": {k: v for k, v in YARN.items() if "mscale" not in k and "beta" not in k}
    },
    "four groups, narrow values": {
        "n_routed_experts": 16,
        "n_group": 4,
        "topk_group": 2,
        "num_experts_per_tok": 3,
        "v_head_dim": 16,
        "routed_scaling_factor": 2.5,
    },
    "unnormalised, two shared": {"norm_topk_prob": False, "n_shared_experts": 2},
    "wide values": {"v_head_dim": 48, "qk_nope_head_dim": 24},
    "all experts": {"first_k_dense_replace": 0},
    "all dense": {"first_k_dense_replace": 3},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_gradients_equal_transformers(name: str) -> None:
    ours, reference = pair(VARIANTS[name])
    ids_BT = tokens(3, 40)
    a = ours(input_ids=ids_BT, labels=ids_BT)
    b = reference(input_ids=ids_BT, labels=ids_BT)
    assert largest_change(a.logits, b.logits) <= ROUNDING
    assert abs(a.loss - b.loss).item() <= LOSS_ROUNDING * b.loss.item()

    a.loss.backward()
    b.loss.backward()
    theirs = {name: p.grad for name, p in reference.named_parameters()}
    for parameter_name, parameter in ours.named_parameters():
        error = largest_change(parameter.grad, theirs[parameter_name])
        scale = theirs[parameter_name].abs().max().item()
        assert error <= 1e-5 * max(scale, 1), f"{parameter_name}: {error} of {scale}"


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_float32_lies_within_half_the_tolerance_of_float64(name: str) -> None:
    ours, reference = pair(VARIANTS[name])
    ids_BT = tokens(3, 40)
    exact = copy.deepcopy(ours).double()(input_ids=ids_BT).logits
    assert exact.dtype == torch.float64
    for model in (ours, reference):
        assert largest_change(model(input_ids=ids_BT).logits, exact) <= ROUNDING / 2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["groups", "yarn"])
def test_padding_equals_transformers_on_real_tokens(name: str, side: str) -> None:
    ours, reference = pair(VARIANTS[name])
    ids_BT, mask_BT = tokens(3, 24), padding_mask([24, 17, 5], 24, side)
    a = ours(input_ids=ids_BT, attention_mask=mask_BT).logits
    b = reference(input_ids=ids_BT, attention_mask=mask_BT).logits
    real = mask_BT.bool()
    assert torch.isfinite(a).all()
    assert largest_change(a[real], b[real]) <= ROUNDING
    if side == "left":
        assert largest_change(a[real], ours(input_ids=ids_BT).logits[real]) > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_a_sequence(side: str) -> None:
    ours, _ = pair({})
    ids_BT, mask_BT = tokens(2, 24), padding_mask([24, 9], 24, side)
    padded = ours(input_ids=ids_BT, attention_mask=mask_BT).logits[1][mask_BT[1].bool()]
    alone = ours(input_ids=ids_BT[1:][mask_BT[1:].bool()][None]).logits[0]
    assert largest_change(padded, alone) <= ROUNDING


def test_a_packed_row_equals_its_documents() -> None:
    ours, _ = pair({})
    ids_BT = tokens(1, 20)
    positions = torch.cat((torch.arange(12), torch.arange(8)))[None]
    packed = ours(input_ids=ids_BT, position_ids=positions).logits[0]
    alone = [ours(input_ids=part).logits[0] for part in ids_BT.split([12, 8], dim=1)]
    assert largest_change(packed, torch.cat(alone)) <= ROUNDING


def test_logits_to_keep_gives_the_last_logits() -> None:
    ours, _ = pair({})
    ids_BT = tokens(2, 10)
    mask_BT = torch.ones_like(ids_BT)
    kept = ours(input_ids=ids_BT, attention_mask=mask_BT, logits_to_keep=4, use_cache=False).logits
    assert kept.shape == (2, 4, VOCAB)
    assert largest_change(kept, ours(input_ids=ids_BT).logits[:, -4:]) <= 1e-6


def test_logits_to_keep_takes_indices_and_outputs_may_be_a_tuple() -> None:
    ours, _ = pair({})
    ids_BT, kept = tokens(2, 10), torch.tensor([0, 7])
    whole = ours(input_ids=ids_BT, labels=ids_BT)
    loss, logits, *_ = ours(input_ids=ids_BT, labels=ids_BT, return_dict=False)
    assert torch.equal(loss, whole.loss) and torch.equal(logits, whole.logits)
    some = ours(input_ids=ids_BT, logits_to_keep=kept).logits
    assert largest_change(some, whole.logits[:, kept]) <= 1e-6


def test_embeddings_may_be_given_in_place_of_tokens() -> None:
    ours, _ = pair({})
    ids_BT = tokens(2, 10)
    embedded_BTD = ours.model.embed_tokens(ids_BT)
    given = ours(inputs_embeds=embedded_BTD, labels=ids_BT)
    assert torch.equal(given.logits, ours(input_ids=ids_BT).logits)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        ours(input_ids=ids_BT, inputs_embeds=embedded_BTD)


def test_the_loss_is_divided_by_the_items_of_the_whole_batch() -> None:
    ours, reference = pair({})
    ids_BT = tokens(2, 10)
    arguments = {"input_ids": ids_BT, "labels": ids_BT, "num_items_in_batch": torch.tensor(50)}
    a, b = ours(**arguments).loss, reference(**arguments).loss
    assert abs(a - b).item() <= 1e-6
    assert a.item() == pytest.approx(ours(input_ids=ids_BT, labels=ids_BT).loss.item() * 18 / 50)


def test_bfloat16_is_as_near_to_float32_as_transformers_is() -> None:
    exact = pair({})[0](input_ids=tokens(2, 24)).logits
    ours, reference = pair({}, dtype=torch.bfloat16)
    assert ours.routers()[1].e_score_correction_bias.dtype == torch.float32
    errors = [
        (model(input_ids=tokens(2, 24)).logits.float() - exact).pow(2).mean().sqrt().item()
        for model in (ours, reference)
    ]
    assert errors[0] <= 1.5 * errors[1]


def test_the_weights_make_errors_cost_more_than_a_nat() -> None:
    for name, overrides in VARIANTS.items():
        ours, _ = pair(overrides, seed=1)
        assert cost_of_wrong_rope(ours, tokens(4, 32)) > 1, name
        if name != "all dense":
            assert cost_of_swapped_experts(ours, tokens(4, 32)) > 1, name


def test_stock_transformers_loads_our_checkpoint(tmp_path: Path) -> None:
    ours, _ = pair({"rope_parameters": YARN, "q_lora_rank": 48})
    ids_BT = tokens(2, 24)
    ours.save_pretrained(tmp_path / "model")
    theirs = stock_logits(tmp_path / "model", ids_BT, tmp_path)
    assert largest_change(ours(input_ids=ids_BT).logits, theirs) <= ROUNDING
