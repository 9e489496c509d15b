"""Norm, activation and loss: fused kernels equal the plain formulas, forward and gradients."""

import importlib.util
import shutil
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.loss.loss_utils import ForCausalLMLoss
from weights import largest_change, make_weights_matter

from model import loss
from model.configuration import tiny_config
from model.fused import _liger_cross_entropy, fuse, plain_cross_entropy
from model.loss import NO_TARGET, cross_entropy, next_token_loss
from model.modeling import SparringMoeForCausalLM
from model.norm import RMSNorm, rms_norm

COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on CPU",
)


def with_gradients(function: Callable[..., Tensor], *arguments: Tensor) -> list[Tensor]:
    """The output, and the gradients of a fixed direction by every floating argument."""
    wanted = [a.detach().requires_grad_() if a.is_floating_point() else a for a in arguments]
    out = function(*wanted)
    direction = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)
    leaves = [a for a in wanted if a.is_floating_point()]
    return [out, *torch.autograd.grad(out, leaves, direction if out.ndim else None)]


def largest_share(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest relative error of any of the tensors, by norm."""
    return max(
        ((a.double() - b.double()).norm() / b.double().norm()).item()
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize(
    ("x_dtype", "gain_dtype", "limit"),
    [
        (torch.float32, torch.float32, 1e-6),
        (torch.bfloat16, torch.bfloat16, 0.01),
        (torch.bfloat16, torch.float32, 0.01),
    ],
)
def test_the_norm_on_cpu_is_the_plain_formula(
    x_dtype: torch.dtype, gain_dtype: torch.dtype, limit: float
) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(24, 1e-6).to(gain_dtype)
    x_BTD = (3 * torch.randn(2, 5, 24) + 1).to(x_dtype)
    gain_D = (1 + torch.randn(24)).to(gain_dtype)
    norm.weight.data = gain_D
    plain = with_gradients(lambda x, g: rms_norm(x, g, 1e-6), x_BTD, gain_D)
    assert norm(x_BTD).dtype == plain[0].dtype
    fast = with_gradients(lambda x, g: type_of_forward(norm).apply(x, g, 1e-6), x_BTD, gain_D)
    assert [t.dtype for t in fast] == [t.dtype for t in plain]
    assert largest_share(fast, plain) <= limit


def type_of_forward(norm: RMSNorm) -> type[torch.autograd.Function]:
    """The autograd function that the module runs on this input: the test must not miss it."""
    node = norm(torch.ones(1, 24, dtype=torch.float32, requires_grad=True)).grad_fn
    assert type(node).__name__ == "_CpuRMSNormBackward"
    return type(node)._forward_cls


def labelled(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    labels_BT = torch.randint(0, 50, (3, 17))
    labels_BT[0, :6] = -100
    return (4 * torch.randn(3, 17, 50)).to(dtype), labels_BT


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 0.005)])
@pytest.mark.parametrize("num_items", [None, 20, torch.tensor(31)])
@pytest.mark.parametrize("chunk", [1, 350, 10**6])
def test_the_loss_is_transformers_loss(
    dtype: torch.dtype, limit: float, num_items: int | Tensor | None, chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(loss, "CPU_CHUNK", chunk)
    logits_BTV, labels_BT = labelled(dtype)
    given = {"vocab_size": 50, "num_items_in_batch": num_items}
    ours = with_gradients(lambda x: next_token_loss(x, labels_BT, **given), logits_BTV)
    theirs = with_gradients(lambda x: ForCausalLMLoss(x, labels_BT, **given), logits_BTV)
    assert ours[0].dtype == torch.float32 and ours[1].dtype == dtype
    assert largest_share(ours, theirs) <= limit


def test_the_loss_takes_shifted_labels_and_another_mark() -> None:
    logits_BTV, labels_BT = labelled()
    labels_BT[labels_BT == -100] = -1
    given = {"labels": None, "vocab_size": 50, "shift_labels": labels_BT, "ignore_index": -1}
    theirs = ForCausalLMLoss(logits_BTV, **given)
    assert largest_change(next_token_loss(logits_BTV, **given), theirs) <= 1e-6


@pytest.mark.parametrize("chunk", [200, 10**6])
def test_labels_without_logits_are_refused(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CPU_CHUNK", chunk)  # rows are taken in fours, or all at once
    logits_BTV, labels_BT = labelled()
    with pytest.raises(ValueError, match=r"51 labels for the logits of 24 tokens.*logits_to"):
        next_token_loss(logits_BTV[:, -8:], labels_BT, vocab_size=50)


def test_the_gradient_of_the_loss_is_right() -> None:
    logits_BTV, labels_BT = labelled()
    targets_N = labels_BT.flatten()
    exact = torch.nn.functional.cross_entropy
    ours = with_gradients(lambda x: 3 * cross_entropy(x, targets_N), logits_BTV.flatten(0, 1))
    theirs = with_gradients(
        lambda x: 3 * exact(x, targets_N, reduction="sum"), logits_BTV.flatten(0, 1)
    )
    assert largest_share(ours, theirs) <= 1e-6


@COMPILER
def test_compiled_kernels_equal_the_plain_ones() -> None:
    model = make_weights_matter(SparringMoeForCausalLM(tiny_config(40, num_hidden_layers=2)))
    ids_BT = torch.arange(24).view(2, 12)

    def loss_and_gradients() -> list[Tensor]:
        model.zero_grad()
        value = model(input_ids=ids_BT, labels=ids_BT).loss
        value.backward()
        return [value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    plain = loss_and_gradients()
    fuse(model, "compile")
    assert model.model.norm.kernel is not None and model.model.layers[0].mlp.kernel is not None
    assert largest_share(loss_and_gradients(), plain) <= 1e-5
    fuse(model, None)
    assert model.model.norm.kernel is None
    assert largest_share(loss_and_gradients(), plain) == 0


def test_kernels_that_cannot_run_are_refused() -> None:
    model = SparringMoeForCausalLM(tiny_config(40))
    with pytest.raises(ValueError, match="'compile', 'liger' or None, got 'triton'"):
        fuse(model, "triton")
    with pytest.raises(ValueError, match="got a Sequential: fuse it before wrapping it"):
        fuse(torch.nn.Sequential(model), "compile")
    installed = importlib.util.find_spec("liger_kernel") is not None
    with pytest.raises(ValueError, match="cannot run on cpu" if installed else "install it"):
        fuse(model, "liger")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_that_writes_over_its_input_leaves_the_models_logits(dtype: torch.dtype) -> None:
    def writes_over(logits_NV: Tensor, targets_N: Tensor, **options: object) -> Tensor:
        total = F.cross_entropy(logits_NV, targets_N, **options)
        logits_NV.detach().zero_()
        return total

    logits_NV = torch.randn(5, 7).to(dtype)
    before_NV = logits_NV.clone()
    targets_N = torch.tensor([3, 0, NO_TARGET, 6, 1])
    total = _liger_cross_entropy(logits_NV, targets_N, function=writes_over)
    assert total.dtype == torch.float32
    assert torch.equal(total, plain_cross_entropy(before_NV, targets_N))
    assert torch.equal(logits_NV, before_NV)


@pytest.mark.gpu
def test_liger_kernels_equal_the_plain_ones() -> None:
    pytest.importorskip("liger_kernel")
    device = torch.accelerator.current_accelerator()
    model = make_weights_matter(SparringMoeForCausalLM(tiny_config(40))).to(device)
    ids_BT = torch.arange(24, device=device).view(2, 12)
    plain = model(input_ids=ids_BT, labels=ids_BT)
    fuse(model, "liger")
    fused = model(input_ids=ids_BT, labels=ids_BT)
    assert largest_change(fused.logits, plain.logits) <= 1e-4
    assert largest_change(fused.loss, plain.loss) <= 1e-5
