"""AdamW with bf16 moments against torch's AdamW: near it, half its memory, resumable."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.adamw import BFloat16AdamW

SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 4))


def task(num_rows: int = 256) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_rows, 16, generator=generator)
    return x, torch.stack([x[:, i].sin() * x[:, i + 1] for i in range(4)], 1)


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> list[float]:
    x, y = task()
    losses = []
    for step in range(num_steps):
        rows = slice(32 * (step % 8), 32 * (step % 8) + 32)
        loss = (model(x[rows]) - y[rows]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_the_first_steps_follow_torch_to_the_rounding_of_moments() -> None:
    ours, theirs = network(), network()
    start = copy.deepcopy(list(ours.parameters()))
    fit(ours, BFloat16AdamW(ours.parameters(), **SETTINGS), 10)
    fit(theirs, torch.optim.AdamW(theirs.parameters(), **SETTINGS), 10)
    for a, b, begun in zip(ours.parameters(), theirs.parameters(), start, strict=True):
        assert (a - b).norm() < 0.01 * (b - begun).norm()
        assert not torch.equal(a, b)


def test_the_first_step_is_torchs_step() -> None:
    ours, theirs = network(), network()
    fit(ours, BFloat16AdamW(ours.parameters(), **SETTINGS), 1)
    fit(theirs, torch.optim.AdamW(theirs.parameters(), **SETTINGS), 1)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)


def test_it_reaches_the_loss_that_torch_reaches() -> None:
    ours, theirs = network(), network()
    a = fit(ours, BFloat16AdamW(ours.parameters(), **SETTINGS), 600)[-8:]
    b = fit(theirs, torch.optim.AdamW(theirs.parameters(), **SETTINGS), 600)[-8:]
    assert 0.9 < sum(a) / sum(b) < 1.1, (sum(a), sum(b))


def test_moments_take_four_bytes_a_parameter() -> None:
    model = network()
    optimizer = BFloat16AdamW(model.parameters(), **SETTINGS)
    fit(model, optimizer, 1)
    held = sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
    assert held == 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("through_file", [True, False])
def test_a_resumed_run_is_the_same_run(through_file: bool, tmp_path: Path) -> None:
    whole = network()
    fit(whole, optimizer := BFloat16AdamW(whole.parameters(), **SETTINGS), 8)
    resumed = copy.deepcopy(whole)
    state = optimizer.state_dict()
    if through_file:
        torch.save(state, tmp_path / "optimizer.pt")
        state = torch.load(tmp_path / "optimizer.pt")
    other = BFloat16AdamW(resumed.parameters(), lr=1.0)
    other.load_state_dict(copy.deepcopy(state))
    assert other.param_groups[0]["lr"] == SETTINGS["lr"]
    kinds = {s["exp_avg"].dtype for s in other.state.values()}
    assert kinds == {torch.bfloat16}
    fit(whole, optimizer, 8)
    fit(resumed, other, 8)
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_the_second_moment_decays_with_the_largest_beta2_allowed() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = BFloat16AdamW([weight], lr=0.0, betas=(0.9, 0.99))
    weight.grad = torch.full((1,), 100.0)
    optimizer.step()
    peak = optimizer.state[weight]["exp_avg_sq"].item()
    weight.grad = torch.zeros(1)
    for _ in range(500):
        optimizer.step()
    assert optimizer.state[weight]["exp_avg_sq"].item() < 0.02 * peak


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"betas": (0.9, 0.999)}, r"beta2 must lie in \[0, 0.99\], got 0.999: bfloat16 rounds"),
        ({"lr": -1.0}, "lr and weight_decay must be at least 0.*got lr=-1.0"),
        ({"betas": (1.0, 0.95)}, r"beta1 in \[0, 1\)"),
        ({"eps": 0.0}, "eps positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BFloat16AdamW(network().parameters(), **settings)


def test_no_group_and_no_loaded_state_brings_another_beta2() -> None:
    model = network()
    groups = [{"params": model.parameters(), "betas": (0.9, 0.999)}]
    with pytest.raises(ValueError, match="beta2 must lie in"):
        BFloat16AdamW(groups, **SETTINGS)
    theirs = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match="beta2 must lie in"):
        BFloat16AdamW(model.parameters()).load_state_dict(theirs.state_dict())
    momentum = torch.optim.SGD(model.parameters(), momentum=0.9)
    with pytest.raises(ValueError, match="no betas: it was saved by another optimizer"):
        BFloat16AdamW(model.parameters()).load_state_dict(momentum.state_dict())
