"""Sampler against policy: divergence of their probabilities, and routes that can be no others'."""

import numpy as np
import pytest
import torch
from pipeline_cases import random_moe

from model.experts.router import Router
from pipelines.errors import UnprovenSyncError
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.training.mismatch import ExpertMismatch, logprob_mismatch, margin, preferred


def test_the_kl_estimate_is_the_kl() -> None:
    """Over all tokens of a small distribution, sampled in proportion, k3 is exact in the mean."""
    sampler_V = torch.tensor([0.5, 0.25, 0.125, 0.125])
    policy_V = torch.tensor([0.4, 0.3, 0.2, 0.1])
    drawn = torch.tensor([[0] * 4 + [1] * 2 + [2] + [3]])
    found = logprob_mismatch(
        policy_V.log()[drawn], sampler_V.log()[drawn], torch.ones(1, 8), lambda x: x
    )
    kl = (sampler_V * (sampler_V / policy_V).log()).sum().item()
    assert found["rollout/mismatch_kl"] == pytest.approx(kl, abs=1e-7)
    assert found["rollout/mismatch_max"] == pytest.approx(np.log(0.2 / 0.125), abs=1e-6)


def test_masked_tokens_and_empty_batches_count_nothing() -> None:
    policy_BT, sampler_BT = torch.tensor([[-1.0, -50.0]]), torch.tensor([[-1.0, 0.0]])
    half = logprob_mismatch(policy_BT, sampler_BT, torch.tensor([[1, 0]]), lambda x: x)
    none = logprob_mismatch(policy_BT, sampler_BT, torch.zeros(1, 2), lambda x: x)
    assert set(half.values()) == set(none.values()) == {0.0}


def test_experts_are_compared_as_sets_where_routes_are_known() -> None:
    routes_BTLK = torch.tensor([[[[0, 1], [2, 3]], [[0, 1], [2, 3]], [[-1, -1], [-1, -1]]]])
    own_BTLK = torch.tensor([[[[1, 0], [3, 2]], [[1, 0], [3, 4]], [[5, 6], [5, 6]]]])
    found = ExpertMismatch(own_BTLK, torch.zeros(1, 3, 2), routes_BTLK, [1, 2], lambda x: x)
    assert found.row() == {
        "rollout/other_experts": 0.5,
        "rollout/other_experts_layers": {"1": 0.0, "2": 0.5},
    }


def test_a_tie_is_no_fault_whatever_follows_from_it() -> None:
    """Eight sequences of one prompt share its tie, which moves tokens behind it in all of them."""
    routes_BTLK = torch.zeros(128, 90, 2, 1)
    own_BTLK, margins_BTL = routes_BTLK.clone(), torch.full((128, 90, 2), 0.01)
    own_BTLK[64:72, 10, 0] = 1
    margins_BTL[64:72, 10, 0] = 1e-6
    own_BTLK[64:72, 18:40, 1] = 1
    found = ExpertMismatch(own_BTLK, margins_BTL, routes_BTLK, [0, 1], lambda x: x)
    found.check(exact=True)
    assert found.row()["rollout/other_experts"] == pytest.approx(8 * 23 / (128 * 90))


def test_one_token_that_is_no_tie_is_a_fault() -> None:
    routes_BTLK = torch.zeros(128, 90, 2, 1)
    own_BTLK, margins_BTL = routes_BTLK.clone(), torch.full((128, 90, 2), float("inf"))
    own_BTLK[5, 7, 1] = 1
    margins_BTL[5, 7] = torch.tensor([1e-6, 0.01])  # a tie in another layer excuses nothing
    found = ExpertMismatch(own_BTLK, margins_BTL, routes_BTLK, [0, 1], lambda x: x)
    found.check(exact=False)
    with pytest.raises(UnprovenSyncError, match=r"the first of a sequence by a margin of 0\.01"):
        found.check(exact=True)


def test_under_replay_no_tie_excuses_what_follows() -> None:
    """The policy stands where the sampler stood at every token, so that each must be a tie."""
    routes_BTLK = torch.zeros(4, 20, 2, 1)
    own_BTLK, margins_BTL = routes_BTLK.clone(), torch.full((4, 20, 2), 0.01)
    own_BTLK[1, [3, 9], 0] = 1
    margins_BTL[1, 3, 0] = 1e-6
    given = (own_BTLK, margins_BTL, routes_BTLK, [0, 1], lambda x: x)
    ExpertMismatch(*given).check(exact=True)
    with pytest.raises(UnprovenSyncError, match=r"and one by a margin of 0\.01"):
        ExpertMismatch(*given, replayed=True).check(exact=True)
    margins_BTL[1, 9, 0] = 1e-6
    ExpertMismatch(*given, replayed=True).check(exact=True)


def test_scores_that_are_no_numbers_are_no_tie() -> None:
    routes_BTLK = torch.zeros(1, 20, 1, 1)
    own_BTLK, margins_BTL = routes_BTLK.clone(), torch.full((1, 20, 1), float("nan"))
    ExpertMismatch(own_BTLK, margins_BTL, routes_BTLK, [0], lambda x: x).check(exact=True)
    own_BTLK[0, 3] = 1
    with pytest.raises(UnprovenSyncError, match="by a margin of nan"):
        ExpertMismatch(own_BTLK, margins_BTL, routes_BTLK, [0], lambda x: x).check(exact=True)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("num", "refused"), [(500, False), (510, True)])
def test_routes_that_differ_in_most_tokens_are_refused(
    num: int, refused: bool, exact: bool
) -> None:
    routes_BTLK = torch.zeros(1, 1000, 1, 1)
    own_BTLK = routes_BTLK.clone()
    own_BTLK[0, :num] = 1
    found = ExpertMismatch(own_BTLK, torch.zeros(1, 1000, 1), routes_BTLK, [0], lambda x: x)
    if refused:
        with pytest.raises(UnprovenSyncError, match="to other experts"):
            found.check(exact)
    else:
        found.check(exact)


@pytest.mark.parametrize("exact", [True, False])
def test_one_sequence_with_other_routes_does_not_hide_among_the_others(exact: bool) -> None:
    routes_BTLK = torch.zeros(256, 40, 2, 1)
    own_BTLK = routes_BTLK.clone()
    own_BTLK[5, :30] = 1
    found = ExpertMismatch(own_BTLK, torch.zeros(256, 40, 2), routes_BTLK, [0, 1], lambda x: x)
    with pytest.raises(UnprovenSyncError, match="of one sequence"):
        found.check(exact)


def others(router: Router, one_NE: torch.Tensor, other_NE: torch.Tensor) -> torch.Tensor:
    """For which tokens two scores choose different experts, [N]."""
    chosen = [preferred(router, scores_NE).sort(-1).values for scores_NE in (one_NE, other_NE)]
    return (chosen[0] != chosen[1]).any(-1)


def test_a_margin_is_what_the_scores_need_to_choose_otherwise() -> None:
    """Moving every score by less than half of it changes no choice; one score by it changes one.

    All but some choices of several groups, of which the last one kept may give no expert.
    """
    config = random_moe(character_tokenizer()).config
    generator = torch.Generator().manual_seed(0)
    for groups, kept in ((1, 1), (2, 1), (4, 2)):
        config.n_group, config.topk_group = groups, kept
        router = Router(config)
        scores_NE = torch.rand(500, config.n_routed_experts, generator=generator)
        found_N = margin(router, scores_NE)
        noise_NE = torch.rand(scores_NE.shape, generator=generator) * 2 - 1
        moved_NE = scores_NE + 0.24 * found_N[:, None] * noise_NE  # groups: the sum of two
        assert not others(router, moved_NE, scores_NE).any()
        assert (found_N > 0).all() and found_N.median() < 0.2
        changed_N = torch.zeros(500, dtype=torch.bool)
        for expert in range(config.n_routed_experts):
            raised_NE = scores_NE.clone()
            raised_NE[:, expert] += 1.001 * found_N + 1e-6
            changed_N |= others(router, raised_NE, scores_NE)
        assert changed_N.float().mean() > (0.9 if kept > 1 else 0.999)
