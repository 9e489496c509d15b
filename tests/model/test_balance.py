"""Load balance: counting, the selection bias over ranks, the sequence-wise loss, the metrics."""

import math
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from weights import largest_change, make_weights_matter

from model.configuration import tiny_config
from model.experts.balance import balance_metrics, sequence_balance_loss
from model.experts.router import Router
from model.experts.routing import Routing
from model.modeling import SparringMoeForCausalLM

VOCAB = 40
IDS_BT = torch.randint(0, VOCAB, (4, 16), generator=torch.Generator().manual_seed(0))
GAMMA = 0.01


def tiny_model(**overrides: object) -> SparringMoeForCausalLM:
    return make_weights_matter(SparringMoeForCausalLM(tiny_config(VOCAB, **overrides))).train()


# -- the selection bias ---------------------------------------------------------------------------


def test_bias_updates_move_the_load_towards_balance() -> None:
    torch.manual_seed(0)
    router = Router(tiny_config(VOCAB, n_group=1, topk_group=1)).train()
    x_ND = torch.randn(512, 128) + 0.5
    with torch.no_grad():
        router.weight.normal_(std=0.02)
        router.weight[0] += 0.05  # expert 0 is far too popular

    def imbalance() -> float:
        router(x_ND, Routing((1, 512), counts=True))
        load_E = router.load()
        assert load_E.sum() == 512 * 2
        return (load_E.max() / load_E.mean()).item()

    before = imbalance()
    for _ in range(300):
        router.update_bias(0.01)
        router(x_ND, Routing((1, 512), counts=True))
    router.reset_load()
    after = imbalance()
    assert before > 2 and after < 1.3, (before, after)
    assert router.e_score_correction_bias[0] < 0


def test_one_update_moves_each_bias_by_gamma_against_its_load() -> None:
    router = Router(tiny_config(VOCAB))
    router.counts_E1 = torch.tensor([9, 1, 5, 5, 5, 5, 9, 1, 20])
    router.update_bias(0.5)
    assert router.e_score_correction_bias.tolist() == [-0.5, 0.5, 0, 0, 0, 0, -0.5, 0.5]
    router.update_bias(0.5)  # nothing was counted since
    assert router.e_score_correction_bias[0] == -0.5


def test_the_load_counts_real_tokens_once_while_training() -> None:
    model = SparringMoeForCausalLM(tiny_config(VOCAB)).train()
    ids_BT = torch.arange(24).view(2, 12)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, :5] = 0
    model.gradient_checkpointing_enable()
    model(input_ids=ids_BT, attention_mask=mask_BT, labels=ids_BT).loss.backward()
    load = model.router_load()
    assert list(load) == [1, 2]
    assert all(load_E.sum() == 19 * 2 for load_E in load.values())
    assert all(m["utilisation_token"] == 2 / 8 for m in model.balance_metrics().values())
    with torch.no_grad():  # the log-probabilities of a reference train nothing
        model(input_ids=ids_BT)
    model.eval()(input_ids=ids_BT)
    assert model.router_load()[1].sum() == 19 * 2
    model.update_router_bias(0.001)
    assert model.router_load()[1].sum() == 0 and model.balance_metrics() == {}
    assert model.routers()[1].e_score_correction_bias.any()


def _biases(model: SparringMoeForCausalLM) -> list[Tensor]:
    return [router.e_score_correction_bias for router in model.routers().values()]


def _rank(rank: int, directory: str) -> None:
    """One of two processes: a step on its half of the batch, then the update."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    waits = timedelta(seconds=90)  # for a rank that died, whose error the test then shows
    dist.init_process_group("gloo", f"file://{directory}/meeting", waits, rank=rank, world_size=2)
    model = tiny_model()
    wrapped = DistributedDataParallel(model)
    for start in (0, 2):  # two steps: the second forward would spread rank 0's buffers
        half_BT = IDS_BT[start + rank : start + rank + 1]
        wrapped(input_ids=half_BT, labels=half_BT).loss.backward()
        metrics, load = model.balance_metrics(), model.router_load()
        model.update_router_bias(GAMMA)
    torch.save((_biases(model), metrics, load), f"{directory}/rank{rank}")
    dist.barrier()
    # Without destructors: the group's joins threads that may wait for the interpreter's lock, which
    # it holds (https://github.com/pytorch/pytorch/issues/56297).
    os._exit(0)


@pytest.mark.timeout(240)
def test_two_processes_balance_as_one_on_both_batches(tmp_path: Path) -> None:
    # In a process that has none of what engines of other tests leave in this one's environment.
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        errors = [rank.communicate(timeout=220)[1][-2000:] for rank in ranks]
        assert not any(rank.returncode for rank in ranks), "\n\n".join(errors)
    finally:
        for left in ranks:
            left.kill()
    alone = tiny_model()
    for start in (0, 2):
        both_BT = IDS_BT[start : start + 2]
        alone(input_ids=both_BT, labels=both_BT).loss.backward()
        metrics, load = alone.balance_metrics(), alone.router_load()
        alone.update_router_bias(GAMMA)
    for rank in (0, 1):
        biases, rank_metrics, rank_load = torch.load(tmp_path / f"rank{rank}")
        assert all(torch.equal(*pair) for pair in zip(biases, _biases(alone), strict=True))
        assert rank_metrics == metrics
        assert all(torch.equal(rank_load[layer], load[layer]) for layer in load)


# -- the sequence-wise loss -----------------------------------------------------------------------


def slow_loss(scores_BTE: Tensor, real_BT: Tensor, num_selected: int) -> Tensor:
    """Eqs. 17-20 as written, one sum after the other."""
    num_experts, losses = scores_BTE.shape[2], []
    for scores_TE, real_T in zip(scores_BTE, real_BT, strict=True):
        tokens = [scores_E for scores_E, real in zip(scores_TE, real_T, strict=True) if real]
        loss = scores_TE.new_zeros(())
        for expert in range(num_experts):
            chosen = [
                bool((s_E > s_E[expert]).sum() < num_selected) for s_E in tokens
            ]  # no ties in random scores
            f = num_experts / (num_selected * len(tokens)) * sum(chosen)
            p = sum((s_E[expert] / s_E.sum() for s_E in tokens), scores_TE.new_zeros(()))
            loss = loss + f * p / len(tokens)
        losses.append(loss)
    return torch.stack(losses).mean()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(2, 7)),
    num_selected=st.integers(1, 2),
    padded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_balance_loss_equals_its_equations(
    shape: tuple[int, int, int], num_selected: int, padded: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    scores_BTE = torch.rand(shape, dtype=torch.double, requires_grad=True)
    real_BT = torch.ones(shape[:2], dtype=torch.bool)
    if padded:
        real_BT[:, 1:] = torch.rand(shape[0], shape[1] - 1) > 0.5
    ours = sequence_balance_loss(
        scores_BTE.flatten(0, 1), num_selected, shape[:2], real_BT.flatten() if padded else None
    )
    theirs = slow_loss(scores_BTE, real_BT, num_selected)
    assert largest_change(ours, theirs) <= 1e-12
    gradients = (torch.autograd.grad(loss, scores_BTE)[0] for loss in (ours, theirs))
    assert largest_change(*gradients) <= 1e-12


def test_the_balance_loss_passes_gradcheck_and_is_one_at_balance() -> None:
    torch.manual_seed(0)
    scores_NE = torch.rand(6, 5, dtype=torch.double, requires_grad=True)
    real_N = torch.tensor([True, True, False, True, True, True])
    assert torch.autograd.gradcheck(
        lambda scores: sequence_balance_loss(scores, 2, (2, 3), real_N), (scores_NE,)
    )
    even_NE = torch.eye(4).repeat(2, 1) + 0.5  # each expert is the best of one token per sequence
    assert sequence_balance_loss(even_NE, 1, (2, 4)).item() == pytest.approx(1)
    skewed_NE = torch.tensor([1.0, 1e-9, 1e-9, 1e-9]).repeat(8, 1)
    assert sequence_balance_loss(skewed_NE, 1, (2, 4)).item() == pytest.approx(4)


def test_the_balance_loss_alone_evens_a_skewed_router() -> None:
    """Its gradient reaches the router's weights, with neither bias nor language loss."""
    model = tiny_model(aux_loss_alpha=1.0, n_group=1, topk_group=1)
    with torch.no_grad():
        for router in model.routers().values():
            router.weight[0] += 3 * model.model.embed_tokens.weight.std()
    optimizer = torch.optim.Adam([r.weight for r in model.routers().values()], lr=3e-3)
    losses = []
    for _ in range(40):
        loss = model(input_ids=IDS_BT).aux_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() / len(model.routers()))
    assert losses[0] > 1.1 and losses[-1] < 1 + (losses[0] - 1) / 3, (losses[0], losses[-1])


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_the_loss_of_the_model_holds_the_weighted_balance_loss(checkpointing: bool | None) -> None:
    mask_BT = (torch.arange(16) >= torch.tensor([[0], [3], [5], [0]])).long()
    inputs = {"input_ids": IDS_BT, "attention_mask": mask_BT}
    plain, weighted = tiny_model()(**inputs, labels=IDS_BT), []
    for alpha in (0.1, 0.2):
        model = tiny_model(aux_loss_alpha=alpha)
        if checkpointing is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        outputs = model(**inputs, labels=IDS_BT)
        assert largest_change(outputs.loss, plain.loss + outputs.aux_loss) <= 1e-6
        outputs.loss.backward()
        assert model.routers()[1].weight.grad.any()
        replayed = model(**inputs, routed_experts=model(**inputs, record=True).routed_experts)
        assert largest_change(replayed.aux_loss, outputs.aux_loss) <= 1e-7  # padding is left out
        weighted.append(outputs.aux_loss.item())
    assert weighted[1] == pytest.approx(2 * weighted[0], rel=1e-5) and weighted[0] > 0
    assert plain.aux_loss is None
    assert tiny_model(aux_loss_alpha=0.1).eval()(**inputs).aux_loss is None


def test_padding_is_left_out_of_the_balance_loss() -> None:
    model, starts = tiny_model(aux_loss_alpha=0.5), [0, 3, 9, 0]
    mask_BT = (torch.arange(16) >= torch.tensor(starts)[:, None]).long()
    together = model(input_ids=IDS_BT, attention_mask=mask_BT).aux_loss
    alone = [
        model(input_ids=ids_T[None, start:]).aux_loss
        for ids_T, start in zip(IDS_BT, starts, strict=True)
    ]
    assert largest_change(together, torch.stack(alone).mean()) <= 1e-5


# -- the metrics ----------------------------------------------------------------------------------


def test_metrics_of_known_loads() -> None:
    even = balance_metrics(torch.tensor([5, 5, 5, 5]), 10)
    assert even == {
        "max_over_mean": 1, "max_violation": 0, "dead_experts": 0, "utilisation_token": 0.5,
        "utilisation_batch": 1, "effective_experts": pytest.approx(4),
        "utilisation_effective": pytest.approx(1),
    }  # fmt: skip
    collapsed = balance_metrics(torch.tensor([8, 0, 0, 0]), 8)
    assert collapsed["max_over_mean"] == 4 and collapsed["dead_experts"] == 3
    assert collapsed["utilisation_token"] == collapsed["utilisation_batch"] == 0.25
    assert collapsed["effective_experts"] == 1
    with pytest.raises(ValueError, match="no load to measure: 0 tokens"):
        balance_metrics(torch.zeros(4), 0)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    loads=st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any),
    copies=st.integers(1, 5),
)
def test_metrics_keep_their_bounds_and_scale(loads: list[int], copies: int) -> None:
    num_tokens = max(loads)
    one = balance_metrics(torch.tensor(loads), num_tokens)
    assert 1 <= one["max_over_mean"] <= len(loads)
    assert one["effective_experts"] + 1e-9 >= 1 and one["utilisation_effective"] <= 1 + 1e-9
    assert one["utilisation_effective"] <= one["utilisation_batch"] + 1e-9
    assert one["utilisation_token"] <= one["utilisation_batch"] + 1e-9
    scaled = balance_metrics(torch.tensor(loads) * copies, num_tokens * copies)
    assert all(math.isclose(one[name], scaled[name], abs_tol=1e-9) for name in one)


if __name__ == "__main__":
    _rank(int(sys.argv[1]), sys.argv[2])
