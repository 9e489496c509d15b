"""Which experts serve a token: selection, replayed routes, and the number of experts asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from weights import ROUNDING, largest_change, make_weights_matter, prompt_logprobs

from model.configuration import SparringMoeConfig, tiny_config
from model.experts.router import Router, select_experts
from model.experts.routing import Routing, routing_of
from model.layers import MixtureOfExperts
from model.modeling import SparringMoeForCausalLM

VOCAB = 40
IDS_BT = torch.randint(2, VOCAB, (3, 10), generator=torch.Generator().manual_seed(0))
MASK_BT = (torch.arange(10) >= torch.tensor([[0], [3], [6]])).long()


def config(**overrides: object) -> SparringMoeConfig:
    return tiny_config(VOCAB, **{"n_group": 1, "topk_group": 1, **overrides})


def tiny_model(**overrides: object) -> SparringMoeForCausalLM:
    return make_weights_matter(SparringMoeForCausalLM(config(**overrides))).eval()


# -- selection ------------------------------------------------------------------------------------


def test_selection_keeps_to_the_best_groups_by_their_two_best() -> None:
    # Group 0 has the single best expert, group 1 the best pair.
    scores = torch.tensor([[0.9, 0.1, 0.1, 0.1, 0.6, 0.6, 0.2, 0.2]])
    limits = {"num_groups": 2, "num_groups_kept": 1, "num_selected": 2}
    assert set(select_experts(scores, torch.zeros(8), **limits)[0].tolist()) == {4, 5}
    bias = torch.tensor([0.0, 0.5, 0, 0, 0, 0, 0, 0])
    assert set(select_experts(scores, bias, **limits)[0].tolist()) == {0, 1}
    # A dropped group stays dropped where the biased scores of the kept one are below 0.
    assert set(select_experts(scores, torch.full((8,), -1.0), **limits)[0].tolist()) == {4, 5}


def test_the_bias_selects_but_does_not_weigh() -> None:
    router = Router(config(hidden_size=4))
    with torch.no_grad():
        router.weight.normal_()
        router.e_score_correction_bias[3] = 10
    x_ND = torch.randn(5, 4)
    chosen_NK, weights_NK, _ = router(x_ND)
    assert (chosen_NK == 3).any(-1).all()
    scores_NK = (x_ND @ router.weight.T).sigmoid().gather(1, chosen_NK)
    assert largest_change(weights_NK, scores_NK / scores_NK.sum(-1, keepdim=True)) <= 1e-6


# -- replay ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_replaying_its_own_record_changes_nothing(padded: bool) -> None:
    model = tiny_model(n_group=2)
    inputs = {"input_ids": IDS_BT, "attention_mask": MASK_BT if padded else None}
    recorded = model(**inputs, record=True)
    routes_BTLK = recorded.routed_experts
    assert routes_BTLK.shape == (3, 10, 2, 2) and routes_BTLK.dtype == torch.int16
    assert model(**inputs).routed_experts is None
    replayed = model(**inputs, routed_experts=routes_BTLK, record=True)
    assert torch.equal(replayed.logits, recorded.logits)
    assert torch.equal(replayed.routed_experts, routes_BTLK)


@torch.no_grad()
def test_replayed_routes_hold_where_the_router_would_choose_others() -> None:
    model = tiny_model()
    before = model(input_ids=IDS_BT, record=True)
    for router in model.routers().values():
        router.e_score_correction_bias.copy_(torch.randn(8))
    moved = model(input_ids=IDS_BT, record=True)
    assert not torch.equal(moved.routed_experts, before.routed_experts)
    replayed = model(input_ids=IDS_BT, routed_experts=before.routed_experts)
    assert torch.equal(replayed.logits, before.logits)  # the bias does not weigh


@torch.no_grad()
def test_rows_of_a_record_may_be_sliced_and_shuffled() -> None:
    model = tiny_model()
    routes_BTLK = model(input_ids=IDS_BT, record=True).routed_experts
    for router in model.routers().values():
        router.e_score_correction_bias.copy_(torch.randn(8))
    whole = model(input_ids=IDS_BT, routed_experts=routes_BTLK).logits
    order = torch.tensor([2, 0])
    part = model(input_ids=IDS_BT[order, :7], routed_experts=routes_BTLK[order, :7]).logits
    assert largest_change(part, whole[order, :7]) <= ROUNDING


@torch.no_grad()
def test_tokens_without_a_record_are_routed_as_usual() -> None:
    model = tiny_model()
    own_BTLK = model(input_ids=IDS_BT, record=True).routed_experts
    routes_BTLK = own_BTLK.clone()
    routes_BTLK[:, 6:] = -1
    routes_BTLK[0, 2, 1] = torch.tensor([7, 6])
    mixed = model(input_ids=IDS_BT, routed_experts=routes_BTLK, record=True).routed_experts
    assert torch.equal(mixed[0, 2, 1], routes_BTLK[0, 2, 1])
    assert torch.equal(mixed[1:], own_BTLK[1:]) and torch.equal(mixed[0, :2], own_BTLK[0, :2])
    assert (mixed >= 0).all()


@torch.no_grad()
def test_routes_shifted_by_one_token_change_the_logprobs() -> None:
    """An off-by-one between the sampler's tokens and ours cannot pass unseen."""
    model = tiny_model()
    routes_BTLK = model(input_ids=IDS_BT, record=True).routed_experts
    right = prompt_logprobs(model, IDS_BT)
    logits_BTV = model(input_ids=IDS_BT, routed_experts=routes_BTLK.roll(1, dims=1)).logits
    shifted = logits_BTV[:, :-1].log_softmax(-1).gather(-1, IDS_BT[:, 1:, None]).squeeze(-1)
    assert largest_change(right, shifted) > 1


def test_a_layer_with_replayed_routes_passes_gradcheck() -> None:
    small = config(hidden_size=6, moe_intermediate_size=3, n_routed_experts=4, num_hidden_layers=2)
    torch.manual_seed(0)
    layer = MixtureOfExperts(small, layer_idx=1).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    routes_BTLK = torch.tensor([[0, 2], [3, 1], [1, 2], [0, 1], [2, 3]]).view(1, 5, 1, 2)
    parameters = dict(layer.named_parameters())

    def run(x_BTD: Tensor, *values: Tensor) -> Tensor:
        routing = Routing((1, 5), replayed_NLK=routes_BTLK.flatten(0, 1))
        held = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(layer, held, (x_BTD, routing))[0]

    x_BTD = torch.randn(1, 5, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x_BTD, *parameters.values()))
    run(x_BTD, *parameters.values()).sum().backward()
    assert layer.gate.weight.grad.any(), "gradients flow through the recomputed weights"


@pytest.mark.parametrize("reentrant", [False, True])
def test_replay_under_gradient_checkpointing_gives_equal_gradients(reentrant: bool) -> None:
    plain, checkpointed = tiny_model().train(), tiny_model().train()
    routes_BTLK = torch.rand(3, 10, 2, 8).argsort(-1)[..., :2]
    routes_BTLK[:, 8:] = -1
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for model in (plain, checkpointed):
        inputs = {"input_ids": IDS_BT, "attention_mask": MASK_BT, "labels": IDS_BT}
        outputs = model(**inputs, routed_experts=routes_BTLK, record=True)
        outputs.loss.backward()
        assert torch.equal(outputs.routed_experts[:, :8].long(), routes_BTLK[:, :8])
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert a.grad is not None and torch.equal(a.grad, b.grad), name


def test_replayed_tokens_are_not_counted_and_leave_the_bias() -> None:
    model = tiny_model().train()
    routes_BTLK = model(input_ids=IDS_BT, record=True).routed_experts
    model.reset_router_load()
    model(input_ids=IDS_BT, labels=IDS_BT, routed_experts=routes_BTLK).loss.backward()
    before = [router.e_score_correction_bias.clone() for router in model.routers().values()]
    assert not any(load_E.any() for load_E in model.router_load().values())
    model.update_router_bias(0.1)
    after = [router.e_score_correction_bias for router in model.routers().values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        (torch.zeros(3, 10, 2, dtype=torch.long), r"\[3, 10, 2, 'K'\], got \[3, 10, 2\]"),
        (torch.zeros(3, 9, 2, 2, dtype=torch.long), r"got \[3, 9, 2, 2\]"),
        (torch.zeros(3, 10, 3, 2, dtype=torch.long), r"got \[3, 10, 3, 2\]"),
        (torch.zeros(3, 10, 2, 0, dtype=torch.long), r"got \[3, 10, 2, 0\]"),
        (torch.zeros(3, 10, 2, 2), "must be integers, got torch.float32"),
        (torch.full((3, 10, 2, 1), 8), r"must lie in \[-1, 7\], got 8 to 8"),
        (torch.full((3, 10, 2, 1), -2), r"must lie in \[-1, 7\], got -2 to -2"),
        (torch.ones(3, 10, 2, 2, dtype=torch.long), "an expert twice"),
    ],
)
def test_routes_that_do_not_fit_are_refused(routes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model()(input_ids=IDS_BT, routed_experts=routes)


# -- the number of experts ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 5, 8])
@torch.no_grad()
def test_one_number_is_a_model_configured_so(number: int) -> None:
    ours = tiny_model()(input_ids=IDS_BT, experts_per_token=number, record=True)
    configured = tiny_model(num_experts_per_tok=number)(input_ids=IDS_BT)
    assert torch.equal(ours.logits, configured.logits)
    assert ours.routed_experts.shape[-1] == number


@torch.no_grad()
def test_each_sequence_gets_its_number_whatever_its_neighbours() -> None:
    model, numbers = tiny_model(), [1, 8, 3]
    inputs = {"attention_mask": MASK_BT, "record": True}
    mixed = model(input_ids=IDS_BT, experts_per_token=torch.tensor(numbers), **inputs)
    filled_BT = (mixed.routed_experts >= 0).sum(-1)
    assert (filled_BT == torch.tensor(numbers)[:, None, None]).all()
    for row, number in enumerate(numbers):
        real = slice(10 - int(MASK_BT[row].sum()), None)
        alone = model(input_ids=IDS_BT[row : row + 1, real], experts_per_token=number)
        assert largest_change(alone.logits[0], mixed.logits[row, real]) <= ROUNDING
    replayed = model(input_ids=IDS_BT, routed_experts=mixed.routed_experts, **inputs)
    assert torch.equal(replayed.logits, mixed.logits)


def test_weights_are_normalised_over_the_experts_that_serve() -> None:
    router = Router(config(hidden_size=16, routed_scaling_factor=2.5))
    torch.nn.init.normal_(router.weight)
    x_ND = torch.randn(4, 16)
    numbers_B = torch.tensor([1, 4])
    routing = routing_of(
        config(), (2, 2), real_N=torch.ones(4, dtype=torch.bool), counts=False,
        routed_experts=None, experts_per_token=numbers_B, record=False,
    )  # fmt: skip
    chosen_NK, weights_NK, scores_NE = router(x_ND, routing)
    assert (chosen_NK >= 0).sum(-1).tolist() == [1, 1, 4, 4]
    assert largest_change(weights_NK.sum(-1), torch.full((4,), 2.5)) <= 1e-6
    best = F.normalize(scores_NE[2:].topk(4).values, p=1, dim=-1)
    assert largest_change(weights_NK[2:], 2.5 * best) <= 1e-6
    assert not weights_NK[:2, 1:].any()


@pytest.mark.parametrize("use_cache", [True, False])
def test_generate_takes_numbers_a_sequence_and_expands_them(use_cache: bool) -> None:
    model, numbers = tiny_model(), torch.tensor([1, 8, 2])
    options = {
        "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1,
        "use_cache": use_cache,
    }  # fmt: skip
    mixed = model.generate(IDS_BT, attention_mask=MASK_BT, experts_per_token=numbers, **options)
    for row, number in enumerate(numbers.tolist()):
        prompt = IDS_BT[row : row + 1, 10 - int(MASK_BT[row].sum()) :]
        alone = model.generate(prompt, experts_per_token=number, **options)[0, prompt.shape[1] :]
        assert torch.equal(mixed[row, 10:][: len(alone)], alone)
    plain = model.generate(IDS_BT, attention_mask=MASK_BT, **options)
    assert plain.shape != mixed.shape or not torch.equal(plain, mixed)
    sampled = options | {"do_sample": True, "top_k": 1, "num_return_sequences": 2}
    twice = model.generate(IDS_BT, attention_mask=MASK_BT, experts_per_token=numbers, **sampled)
    assert torch.equal(twice, mixed.repeat_interleave(2, 0))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (0, r"must lie in \[1, 4\], .*got \[0\]"),
        (5, r"must lie in \[1, 4\], .*topk_group=1 chosen groups, got \[5\]"),
        (torch.tensor([1, 2, 9]), r"got \[1, 2, 9\]"),
        (torch.tensor([1, 2]), r"one per sequence \(3\), got shape \[2\]"),
        (torch.ones(3, 10, dtype=torch.long), r"got shape \[3, 10\]"),
        (1.5, "must be integers, got torch.float32"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(numbers: int | Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model(n_group=2)(input_ids=IDS_BT, experts_per_token=numbers)


def test_a_record_and_a_number_together_are_refused() -> None:
    model = tiny_model()
    routes_BTLK = model(input_ids=IDS_BT, record=True).routed_experts
    with pytest.raises(ValueError, match="routed_experts or experts_per_token, not both"):
        model(input_ids=IDS_BT, routed_experts=routes_BTLK, experts_per_token=1)
