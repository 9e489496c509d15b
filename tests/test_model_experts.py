"""The routed experts: every path equals the reference, forward and backward."""

import pytest
import torch
from torch import Tensor
from weights import largest_change, make_weights_matter

from model import SparringMoeForCausalLM, tiny_config
from model.experts import reference_experts, sorted_experts


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
