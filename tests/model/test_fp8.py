"""FP8 quantisers, layers and experts against a tile-by-tile oracle."""

import logging

import fp8_oracle as oracle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from weights import largest_change

from model.experts.fp8 import Fp8Experts
from model.fp8.kernel import scaled_mm
from model.fp8.linear import Fp8Linear, quantize_columns, quantize_rows, quantize_weight
from model.fp8.quantize import E4M3, Fp8Recipe, Underflow, quantize

RECIPES = [Fp8Recipe(), Fp8Recipe(power_of_two=False)]
TILES = [(1, 128), (128, 1), (128, 128)]


def noise(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Normal numbers whose magnitude varies from row to row and column to column."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    for axis in (-1, -2):
        shape_1 = [n if a - len(shape) == axis else 1 for a, n in enumerate(shape)]
        x *= torch.exp2(spread * torch.randn(shape_1, generator=generator))
    return x


def relative(left: Tensor, right: Tensor) -> float:
    return ((left - right).norm() / right.norm()).item()


@given(
    num_rows=st.integers(1, 150),
    num_columns=st.integers(1, 300),
    tile=st.sampled_from(TILES),
    power_of_two=st.booleans(),
    exponent=st.integers(-60, 60),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, derandomize=True, max_examples=20)
def test_quantisers_equal_the_oracle_bit_for_bit(
    num_rows: int,
    num_columns: int,
    tile: tuple[int, int],
    power_of_two: bool,
    exponent: int,
    seed: int,
) -> None:
    x = noise(num_rows, num_columns, seed=seed, spread=4) * 2.0**exponent
    x[seed % num_rows] = 0
    ours = quantize(x, tile, Fp8Recipe(power_of_two=power_of_two))
    values, scale = oracle.quantize(x.numpy(), tile, power_of_two)
    assert np.array_equal(ours.values.float().numpy(), values)
    assert np.array_equal(ours.scale.numpy(), scale)
    assert ours.values.dtype == E4M3 and ours.scale.dtype == torch.float32


def test_every_e4m3_number_is_its_own_rounding_and_ties_go_to_even() -> None:
    grid = oracle.MAGNITUDES
    between = (grid[1:] + grid[:-1]) / 2
    x = torch.tensor(np.concatenate([grid, -grid, between, -between]), dtype=torch.float32)
    ours = quantize(x[:, None], (1, 1), Fp8Recipe(block=1, scaled=False))
    assert np.array_equal(ours.values[:, 0].float().numpy(), oracle.round_to_e4m3(x.numpy()))
    assert torch.equal(ours.dequantize()[: 2 * len(grid), 0], x[: 2 * len(grid)])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("tile", TILES)
def test_numbers_on_the_grid_stay_where_they_are(tile: tuple[int, int], recipe: Fp8Recipe) -> None:
    x = noise(260, 300, spread=3)
    once = quantize(x, tile, recipe).dequantize()
    assert 0.01 < relative(once, x) < 0.04
    assert torch.equal(quantize(once, tile, recipe).dequantize(), once)


def test_powers_of_two_make_the_numbers_exact_in_bfloat16() -> None:
    for exponent in (-100, 0, 100):
        numbers = quantize(noise(256, 256) * 2.0**exponent, (128, 128), RECIPES[0])
        exact = numbers.dequantize()
        assert torch.equal(exact.bfloat16().float(), exact)
        assert torch.equal(numbers.scale.log2().round().exp2(), numbers.scale)


def test_zeros_get_scale_1_and_tiny_numbers_no_less_than_the_least_scale() -> None:
    x = torch.zeros(2, 256)
    x[1, 128:] = 1e-40
    quantized = quantize(x, (1, 128), RECIPES[0])
    assert quantized.scale.tolist() == [[1, 1], [1, 2.0**-117]]
    assert not quantized.dequantize().any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_spoils_its_whole_tile_and_no_other(bad: float) -> None:
    x = noise(256, 256)
    x[3, 200] = bad
    seen = quantize(x, (128, 128), RECIPES[0]).dequantize().isnan()
    assert seen[:128, 128:].all() and not seen[128:].any() and not seen[:, :128].any()


@pytest.mark.parametrize("scaled", [True, False])
def test_the_unscaled_control_saturates_and_underflows(scaled: bool) -> None:
    recipe, underflow = Fp8Recipe(scaled=scaled), Underflow()
    quantize_rows(torch.full((4, 128), 2.0**-11), recipe, underflow)
    quantize_rows(torch.tensor([[2.0, 0.0]]), recipe, underflow)
    assert underflow.nonzero == 513
    assert underflow.share == (0 if scaled else 512 / 513)
    largest = quantize(torch.tensor([[7168.0, -7168.0]]), (1, 128), recipe).dequantize()
    assert largest.tolist() == ([[7168, -7168]] if scaled else [[448, -448]])


def layer(num_in: int, num_out: int, recipe: Fp8Recipe, seed: int = 1) -> Fp8Linear:
    return Fp8Linear(nn.Parameter(noise(num_out, num_in, seed=seed) * num_in**-0.5), recipe)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("num_tokens", "num_in", "num_out"), [(256, 384, 256), (130, 200, 72)])
def test_all_three_products_equal_the_oracle(
    num_tokens: int, num_in: int, num_out: int, recipe: Fp8Recipe
) -> None:
    x_NK = noise(num_tokens, num_in, seed=2).requires_grad_()
    grad_NM = noise(num_tokens, num_out, seed=3) * 1e-4
    linear = layer(num_in, num_out, recipe)
    y_NM = linear(x_NK)
    y_NM.backward(grad_NM)

    def quantized(matrix: np.ndarray, tile: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return oracle.quantize(np.ascontiguousarray(matrix), tile, recipe.power_of_two)

    x, weight = x_NK.detach().numpy(), linear.weight.detach().numpy()
    grad = grad_NM.numpy()
    x8, weight8 = quantized(x, (1, 128)), quantized(weight, (128, 128))
    on_grid = x8[0] * np.repeat(x8[1], 128, 1)[:, :num_in]
    wanted = {
        "y": oracle.product(x8, weight8, 128),
        "dx": oracle.product(quantized(grad, (1, 128)), (weight8[0].T, weight8[1].T), 128),
        "dw": oracle.product(quantized(grad.T, (1, 128)), quantized(on_grid.T, (1, 128)), 1),
    }
    ours = {"y": y_NM.detach(), "dx": x_NK.grad, "dw": linear.weight.grad}
    exact = {"y": x @ weight.T, "dx": grad @ weight, "dw": grad.T @ x}
    for name, theirs in wanted.items():
        assert relative(ours[name], torch.from_numpy(theirs)) < 1e-6, name
        assert 0.01 < relative(ours[name], torch.from_numpy(exact[name])) < 0.06, name


def test_frozen_weights_get_no_gradient_and_bfloat16_stays_bfloat16() -> None:
    linear = layer(256, 128, Fp8Recipe()).requires_grad_(False)
    x_NK = noise(4, 8, 256).bfloat16().requires_grad_()
    y = linear(x_NK)
    y.sum().backward()
    assert y.dtype == x_NK.grad.dtype == torch.bfloat16 and y.shape == (4, 8, 128)
    assert linear.weight.grad is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear(x_NK.float()), y)


def test_a_backward_pass_under_autocast_sums_in_float32() -> None:
    linear, x_NK, grad_NM = layer(256, 128, Fp8Recipe()), noise(8, 256), noise(8, 128, seed=3)
    x_NK.requires_grad_()
    wanted = torch.autograd.grad(linear(x_NK), (x_NK, linear.weight), grad_NM)
    y_NM = linear(x_NK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = torch.autograd.grad(y_NM, (x_NK, linear.weight), grad_NM)
    assert all(map(torch.equal, given, wanted))


def composed_experts(
    recipe: Fp8Recipe, x_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor, *fused: Tensor
) -> Tensor:
    """The definition: three `Fp8Linear` products per expert."""
    gate_up_E2ID, down_EDI = fused
    out_ND = torch.zeros_like(x_ND)
    for expert in range(len(down_EDI)):
        token, slot = torch.where(chosen_NK == expert)
        gate, up = gate_up_E2ID[expert].chunk(2)
        product = [_call(x_ND[token], weight, recipe) for weight in (gate, up)]
        hidden = nn.functional.silu(product[0]) * product[1]
        y = _call(hidden, down_EDI[expert], recipe) * weights_NK[token, slot, None]
        out_ND = out_ND.index_add(0, token, y)
    return out_ND


def _call(x: Tensor, weight: Tensor, recipe: Fp8Recipe) -> Tensor:
    """An `Fp8Linear` on a weight that is not a parameter, so that its gradient flows on."""
    linear = Fp8Linear(nn.Parameter(torch.empty(weight.shape)), recipe)
    del linear.weight
    linear.weight = weight
    return linear(x)


@pytest.mark.parametrize("recipe", RECIPES)
def test_experts_equal_three_linear_layers_an_expert(recipe: Fp8Recipe) -> None:
    num_tokens, width, hidden_width, num_experts = 150, 200, 72, 5
    x_ND = noise(num_tokens, width)
    chosen_NK = torch.rand(num_tokens, num_experts - 1).argsort(-1)[:, :2]  # the last gets none
    chosen_NK[:20, 1] = -1
    chosen_NK[20:25] = -1
    weights_NK = torch.rand(num_tokens, 2).masked_fill(chosen_NK < 0, 0)
    gate_up = noise(num_experts, 2 * hidden_width, width, seed=4) * width**-0.5
    down = noise(num_experts, width, hidden_width, seed=5) * hidden_width**-0.5
    given = [t.requires_grad_() for t in (x_ND, weights_NK, gate_up, down)]
    arguments = (x_ND, chosen_NK, weights_NK, gate_up, down)
    ours, theirs = Fp8Experts(recipe)(*arguments), composed_experts(recipe, *arguments)
    assert relative(ours, theirs) < 1e-6
    direction = noise(num_tokens, width, seed=6)
    pairs = zip(
        torch.autograd.grad(ours, given, direction),
        torch.autograd.grad(theirs, given, direction),
        strict=True,
    )
    for a, b in pairs:
        assert relative(a, b) < 1e-5
    # Rows whose sums differ in the last bit may round to another E4M3 number: few do.
    assert not torch.autograd.grad(Fp8Experts(recipe)(*arguments).sum(), given)[2][-1].any()


def test_experts_accept_no_tokens() -> None:
    arguments = [torch.randn(0, 8), torch.zeros(0, 2, dtype=torch.long), torch.rand(0, 2),
                 torch.randn(3, 8, 8), torch.randn(3, 8, 4)]  # fmt: skip
    given = [t.requires_grad_() for t in arguments if t.is_floating_point()]
    Fp8Experts(Fp8Recipe())(*arguments).sum().backward()
    assert all(t.grad is not None and not t.grad.any() for t in given)


def test_recipes_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel must be 'emulated' or 'scaled_mm', got 'cutlass'"):
        Fp8Recipe(kernel="cutlass")
    with pytest.raises(ValueError, match="128 for scaled_mm, got 64"):
        Fp8Recipe(block=64, kernel="scaled_mm")
    with pytest.raises(ValueError, match=r"compute capability 9\.0.*cpu.*emulated"):
        layer(128, 128, Fp8Recipe(kernel="scaled_mm"))(noise(4, 128))


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_kernel_multiplies_as_the_emulation_does(
    recipe: Fp8Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("torch's blockwise kernel exists for compute capability 9.0 only")
    device = torch.accelerator.current_accelerator()
    shapes = [(200, 520), (200, 300), (300, 520)]
    x, grad, weight = (noise(*shape, seed=i).to(device) for i, shape in enumerate(shapes))
    products = [
        (quantize_rows(x, recipe), quantize_weight(weight, recipe).T),
        (quantize_rows(grad, recipe), quantize_weight(weight, recipe)),
        (quantize_columns(grad, recipe).T, quantize_columns(x, recipe)),
    ]
    with caplog.at_level(logging.INFO):
        for left, right in products:
            exact = left.dequantize().double() @ right.dequantize().double()
            assert relative(scaled_mm(left, right).double(), exact) < 1e-3
    assert sum("scaled_mm" in record.message for record in caplog.records) <= 1
    assert largest_change(scaled_mm(*products[0]), scaled_mm(*products[0])) == 0
