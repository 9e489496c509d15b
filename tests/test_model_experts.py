"""Experts, routing and load balance."""

import pytest
import torch
from torch import Tensor
from weights import largest_change, make_weights_matter

from model import SparringMoeForCausalLM, tiny_config
from model.experts import reference_experts, sorted_experts
from model.router import Router, select_experts
from model.routing import Routing


def routed(num_tokens: int, num_experts: int, num_selected: int, used: int) -> tuple[Tensor, ...]:
    """Random arguments of an experts function, of which the first `used` experts are chosen."""
    torch.manual_seed(0)
    width, hidden_width = 6, 5
    x_ND = torch.randn(num_tokens, width, dtype=torch.double)
    chosen_NK = torch.rand(num_tokens, used).argsort(-1)[:, :num_selected]
    weights_NK = torch.rand(num_tokens, num_selected, dtype=torch.double)
    gate_up_E2ID = torch.randn(num_experts, 2 * hidden_width, width, dtype=torch.double)
    down_EDI = torch.randn(num_experts, width, hidden_width, dtype=torch.double)
    return x_ND, chosen_NK, weights_NK, gate_up_E2ID, down_EDI


def require_grad(arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.requires_grad_() if a.is_floating_point() else a for a in arguments)


@pytest.mark.parametrize(("num_selected", "used"), [(2, 4), (1, 4), (3, 3), (2, 2)])
def test_gradients_of_the_experts_are_right(num_selected: int, used: int) -> None:
    arguments = require_grad(routed(7, 4, num_selected, used))
    assert torch.autograd.gradcheck(sorted_experts, arguments)


@pytest.mark.parametrize("used", [3, 8])
def test_sorted_experts_equal_the_reference(used: int) -> None:
    arguments = require_grad(routed(64, 8, 2, used))
    fast, reference = sorted_experts(*arguments), reference_experts(*arguments)
    assert largest_change(fast, reference) <= 1e-12
    wanted = [a for a in arguments if a.is_floating_point()]
    direction = torch.randn_like(fast)
    for ours, theirs in zip(
        torch.autograd.grad(fast, wanted, direction),
        torch.autograd.grad(reference, wanted, direction),
        strict=True,
    ):
        assert largest_change(ours, theirs) <= 1e-12


def test_experts_accept_no_tokens() -> None:
    arguments = require_grad(routed(0, 4, 2, 4))
    sorted_experts(*arguments).sum().backward()
    assert arguments[3].grad is not None and not arguments[3].grad.any()


def test_autocast_computes_the_experts_in_its_type() -> None:
    model = make_weights_matter(SparringMoeForCausalLM(tiny_config(40)))
    ids_BT = torch.arange(20)[None]
    exact = model(input_ids=ids_BT, labels=ids_BT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(input_ids=ids_BT, labels=ids_BT)
    mixed.loss.backward()
    assert 0 < largest_change(exact.logits, mixed.logits.float()) < 1
    assert model.model.layers[1].mlp.experts.down_proj.grad.dtype == torch.float32


def test_selection_keeps_to_the_best_groups_by_their_two_best() -> None:
    # Group 0 has the single best expert, group 1 the best pair.
    scores = torch.tensor([[0.9, 0.1, 0.1, 0.1, 0.6, 0.6, 0.2, 0.2]])
    limits = {"num_groups": 2, "num_groups_kept": 1, "num_selected": 2}
    assert set(select_experts(scores, torch.zeros(8), **limits)[0].tolist()) == {4, 5}
    bias = torch.tensor([0.0, 0.5, 0, 0, 0, 0, 0, 0])
    assert set(select_experts(scores, bias, **limits)[0].tolist()) == {0, 1}


def test_the_bias_selects_but_does_not_weigh() -> None:
    router = Router(tiny_config(40, n_group=1, topk_group=1, hidden_size=4))
    with torch.no_grad():
        router.weight.normal_()
        router.e_score_correction_bias[3] = 10
    x_ND = torch.randn(5, 4)
    chosen_NK, weights_NK, _ = router(x_ND)
    assert (chosen_NK == 3).any(-1).all()
    scores_NK = (x_ND @ router.weight.T).sigmoid().gather(1, chosen_NK)
    assert largest_change(weights_NK, scores_NK / scores_NK.sum(-1, keepdim=True)) <= 1e-6


def test_bias_updates_move_the_load_towards_balance() -> None:
    torch.manual_seed(0)
    router = Router(tiny_config(40, n_group=1, topk_group=1)).train()
    x_ND = torch.randn(512, 128) + 0.5
    everything = Routing((1, 512), counted_N=torch.ones(512, dtype=torch.bool))
    with torch.no_grad():
        router.weight.normal_(std=0.02)
        router.weight[0] += 0.05  # expert 0 is far too popular

    def imbalance() -> float:
        router(x_ND, everything)
        load_E = router.load()
        assert load_E.sum() == 512 * 2
        return (load_E.max() / load_E.mean()).item()

    before = imbalance()
    for _ in range(300):
        router.update_bias(0.01)
        router(x_ND, everything)
    router.reset_load()
    after = imbalance()
    assert before > 2 and after < 1.3, (before, after)
    assert router.e_score_correction_bias[0] < 0


def test_one_update_moves_each_bias_by_gamma_against_its_load() -> None:
    router = Router(tiny_config(40))
    router.expert_load_E = torch.tensor([9, 1, 5, 5, 5, 5, 9, 1])
    router.update_bias(0.5)
    assert router.e_score_correction_bias.tolist() == [-0.5, 0.5, 0, 0, 0, 0, -0.5, 0.5]
    router.update_bias(0.5)  # nothing was counted since
    assert router.e_score_correction_bias[0] == -0.5


def test_the_load_counts_real_tokens_once_while_training() -> None:
    model = SparringMoeForCausalLM(tiny_config(40)).train()
    ids_BT = torch.arange(24).view(2, 12)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, :5] = 0
    model.gradient_checkpointing_enable()
    model(input_ids=ids_BT, attention_mask=mask_BT, labels=ids_BT).loss.backward()
    load = model.router_load()
    assert list(load) == [1, 2]
    assert all(load_E.sum() == 19 * 2 for load_E in load.values())
    model.eval()(input_ids=ids_BT)
    assert model.router_load()[1].sum() == 19 * 2
    model.update_router_bias(0.001)
    assert model.router_load()[1].sum() == 0
    assert model.routers()[1].e_score_correction_bias.any()
