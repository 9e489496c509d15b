"""The routed experts: every path equals the reference, forward and backward."""

import logging

import pytest
import torch
from torch import Tensor
from weights import largest_change, make_weights_matter

from model.configuration import tiny_config
from model.experts.grouped import grouped_experts
from model.experts.routed import (
    PATHS,
    RoutedExperts,
    choose_path,
    reference_experts,
    set_experts_path,
)
from model.experts.rows import sort_rows
from model.experts.sorted import sorted_experts
from model.modeling import SparringMoeForCausalLM


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


def empty(chosen_NK: Tensor, which: str) -> Tensor:
    """The ids with some slots emptied."""
    chosen_NK = chosen_NK.clone()
    if which == "some slots":
        chosen_NK[::3, 0] = -1
        chosen_NK[1::3, 1] = -1
    elif which == "whole tokens":
        chosen_NK[2:5] = -1
    elif which == "everything":
        chosen_NK[:] = -1
    return chosen_NK


def outputs_and_gradients(function, arguments: tuple[Tensor, ...]) -> list[Tensor]:  # type: ignore[no-untyped-def]
    out = function(*arguments)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    wanted = [a for a in arguments if a.is_floating_point()]
    return [out, *torch.autograd.grad(out, wanted, direction)]


EMPTY = ["no slots", "some slots", "whole tokens", "everything"]


@pytest.mark.parametrize("which", EMPTY)
@pytest.mark.parametrize(("num_selected", "used"), [(2, 4), (3, 3), (2, 2)])
def test_gradients_of_the_experts_are_right(num_selected: int, used: int, which: str) -> None:
    x_ND, chosen_NK, *rest = routed(7, 4, num_selected, used)
    arguments = require_grad((x_ND, empty(chosen_NK, which), *rest))
    assert torch.autograd.gradcheck(sorted_experts, arguments)


@pytest.mark.parametrize("which", EMPTY)
@pytest.mark.parametrize("used", [3, 8])
def test_sorted_experts_equal_the_reference(used: int, which: str) -> None:
    x_ND, chosen_NK, *rest = routed(64, 8, 2, used)
    arguments = require_grad((x_ND, empty(chosen_NK, which), *rest))
    fast = outputs_and_gradients(sorted_experts, arguments)
    for ours, theirs in zip(fast, outputs_and_gradients(reference_experts, arguments), strict=True):
        assert largest_change(ours, theirs) <= 1e-12


@pytest.mark.parametrize("tile", [1, 16])
def test_no_product_touches_an_empty_slot(tile: int) -> None:
    chosen_NK = torch.tensor([[0, -1], [-1, -1], [2, 0], *[[3, -1]] * 20])
    rows = sort_rows(chosen_NK, 4, tile)
    assert rows.bounds == [(0, 0, 2), (2, 2, 3), (3, 3, 23 if tile == 1 else 35)]
    assert (rows.place_NK[chosen_NK < 0] == rows.bounds[-1][2]).all()


def share_of_error(ours: Tensor, exact: Tensor) -> float:
    return ((ours.double() - exact).norm() / exact.norm().clamp(min=1e-9)).item()


@pytest.mark.parametrize("which", EMPTY)
@pytest.mark.parametrize(
    ("function", "dtype", "limit"),
    [
        (grouped_experts, torch.float32, 1e-6),
        (grouped_experts, torch.bfloat16, 0.01),
        (sorted_experts, torch.float32, 1e-6),
        (sorted_experts, torch.bfloat16, 0.01),  # rows of an expert come in whole tiles
        (reference_experts, torch.bfloat16, 0.01),
    ],
)
@pytest.mark.parametrize("num_tokens", [3, 150])
def test_paths_agree_in_lower_precision(  # type: ignore[no-untyped-def]
    function, dtype: torch.dtype, limit: float, which: str, num_tokens: int
) -> None:
    torch.manual_seed(0)
    num_experts, width, hidden_width = 5, 16, 8
    scores = torch.rand(num_tokens, num_experts)
    chosen_NK = empty(scores.argsort(-1)[:, :2], which)
    exact = require_grad(
        (
            torch.randn(num_tokens, width).to(dtype).double(),
            chosen_NK,
            torch.rand(num_tokens, 2).to(dtype).double(),
            torch.randn(num_experts, 2 * hidden_width, width).to(dtype).double() / 4,
            torch.randn(num_experts, width, hidden_width).to(dtype).double() / 3,
        )
    )
    given = tuple(a.detach().to(dtype) if a.is_floating_point() else a for a in exact)
    given = (*given[:2], given[2].float(), *given[3:])
    wanted = outputs_and_gradients(reference_experts, exact)
    for ours, theirs in zip(
        outputs_and_gradients(function, require_grad(given)), wanted, strict=True
    ):
        assert ours.isfinite().all()
        assert share_of_error(ours, theirs) <= limit


@pytest.mark.parametrize("path", PATHS)
def test_experts_accept_no_tokens(path: str) -> None:
    arguments = require_grad(
        tuple(a.float() if a.is_floating_point() else a for a in routed(0, 4, 2, 4))
    )
    if path == "grouped":  # rows of whole 16 bytes
        arguments = (
            torch.zeros(0, 8, requires_grad=True), *arguments[1:3],
            torch.randn(4, 16, 8, requires_grad=True), torch.randn(4, 8, 8, requires_grad=True),
        )  # fmt: skip
    out, *_, grad_gate_up, _ = outputs_and_gradients(PATHS[path], arguments)
    assert out.shape == arguments[0].shape and not grad_gate_up.any()


@pytest.mark.parametrize("path", [None, "sorted", "grouped"])
def test_the_model_computes_the_same_on_every_path(path: str | None) -> None:
    model = make_weights_matter(SparringMoeForCausalLM(tiny_config(40)))
    ids_BT = torch.arange(24).view(2, 12)
    set_experts_path(model, "reference")
    wanted = model(input_ids=ids_BT).logits
    set_experts_path(model, path)
    assert largest_change(model(input_ids=ids_BT).logits, wanted) <= 1e-5


def test_the_path_follows_from_device_and_type() -> None:
    fits, odd = (128, 64), (128, 60)
    assert choose_path(None, "cpu", torch.bfloat16, fits) == "sorted"
    assert choose_path(None, "xpu", torch.bfloat16, fits) == "grouped"
    assert choose_path(None, "xpu", torch.bfloat16, odd) == "sorted"
    assert choose_path(None, "xpu", torch.float32, fits) == "sorted"
    assert choose_path("grouped", "cpu", torch.float32, fits) == "grouped"


@pytest.mark.parametrize(
    ("path", "device", "dtype", "widths", "message"),
    [
        ("eager", "cpu", torch.float32, (128, 64), "no path 'eager'"),
        ("grouped", "cpu", torch.float64, (128, 64), "float64 of widths"),
        ("grouped", "xpu", torch.float32, (128, 64), "float32 of widths"),
        ("grouped", "cpu", torch.bfloat16, (128, 60), "whole 16 bytes"),
    ],
)
def test_a_path_that_cannot_run_is_refused(  # type: ignore[no-untyped-def]
    path, device, dtype, widths, message
) -> None:
    with pytest.raises(ValueError, match=message):
        choose_path(path, device, dtype, widths)


def test_an_unknown_path_is_refused_when_it_is_set() -> None:
    with pytest.raises(ValueError, match="no path 'fast'"):
        set_experts_path(SparringMoeForCausalLM(tiny_config(40)), "fast")


def test_the_chosen_path_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    experts = RoutedExperts(tiny_config(40)).to(torch.float64)
    x_ND, chosen_NK = torch.randn(3, 128, dtype=torch.float64), torch.tensor([[0], [1], [-1]])
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_()
    experts.path = "reference"  # with this type, chosen nowhere else
    with caplog.at_level(logging.INFO, logger="model.experts.routed"):
        for _ in range(3):
            experts(x_ND, chosen_NK, torch.ones(3, 1, dtype=torch.float64))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["routed experts: the reference path, for torch.float64 on cpu"]


def test_autocast_computes_the_experts_in_its_type() -> None:
    model = make_weights_matter(SparringMoeForCausalLM(tiny_config(40)))
    ids_BT = torch.arange(20)[None]
    exact = model(input_ids=ids_BT, labels=ids_BT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(input_ids=ids_BT, labels=ids_BT)
    mixed.loss.backward()
    assert 0 < largest_change(exact.logits, mixed.logits.float()) < 1
    assert model.model.layers[1].mlp.experts.down_proj.grad.dtype == torch.float32
