"""Routing replay in the update, and the mismatch of sampler and policy that every step reports.

Roles generate with transformers here, whose routes are as real as vLLM's and start at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_cases import learner_role, random_llama, random_moe, save
from torch import Tensor

from pipelines.errors import UnprovenSyncError, UserError
from pipelines.policy.tensors import weights_hash
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Completion, Sampling
from pipelines.rollouts.routes import Routes
from pipelines.rollouts.sample import Sample, Scored
from pipelines.rollouts.transformers_engine import TransformersEngine
from pipelines.training.replay import BatchRoutes, check_replay, lay_out
from pipelines.training.trainer import RoleTrainer

GROUP = 4
PROMPTS = ("a4b1\n", "a9\n")
REWARDS = (1.0, 0.0, 0.5, 0.0) * 2
Tamper = Callable[[list[Completion]], list[Completion]]


class WatchedRole(RoleTrainer):
    """Keeps what goes into the loss."""

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        self.batch = super()._generate_and_score_completions(inputs)
        return self.batch


class TamperedEngine(TransformersEngine):
    """Changes completions on their way out."""

    tamper: Tamper

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        return self.tamper(super().generate(prompts, sampling, seeds))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    policy = random_moe(character_tokenizer(), num_hidden_layers=3)
    return save(policy, tmp_path_factory.mktemp("replay") / "moe")


def _role(
    checkpoint: Path,
    rows: list[dict[str, object]] | None = None,
    replayed: bool = True,
    tamper: Tamper | None = None,
    **options: object,
) -> WatchedRole:
    batch = {"per_device_train_batch_size": GROUP * len(PROMPTS), "num_generations": GROUP}
    on_step = (lambda row: None) if rows is None else rows.append
    spec = {"routing_replay": replayed, "router_bias_rate": 0.0}
    role = learner_role(WatchedRole, checkpoint, on_step, spec=spec, **{**batch, **options})
    if tamper is not None:
        own = role.sampler.engine
        engine = TamperedEngine(own.policy, own.end_ids, own.pad_id, own.max_model_len)
        role.sampler.engine, engine.tamper = engine, tamper
    return role


def _play(role: RoleTrainer, prompts: Sequence[str] = PROMPTS) -> None:
    def score(indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        return [Scored(reward) for reward in REWARDS[: len(samples)]]

    role.play(prompts, score, "round 0")


# -- replay --------------------------------------------------------------------------------------


def test_every_pass_of_the_policy_gets_the_routes_of_its_own_tokens(checkpoint: Path) -> None:
    """Chunks, shuffle, two micro-batches, two iterations; and the reference routes itself."""
    role = _role(
        checkpoint, beta=0.1, num_iterations=2, steps_per_generation=2,
        per_device_train_batch_size=GROUP,
    )  # fmt: skip
    passes: list[tuple[bool, Tensor, Tensor]] = []
    referred: list[object] = []

    def watch(_module: torch.nn.Module, _args: tuple, kwargs: dict[str, Tensor]) -> None:
        if "routed_experts" in kwargs:
            given = (kwargs["input_ids"], kwargs["routed_experts"])
            passes.append((torch.is_grad_enabled(), *given))

    role.policy.model.register_forward_pre_hook(watch, with_kwargs=True)
    role.ref_model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: referred.append(kwargs.get("routed_experts")),
        with_kwargs=True,
    )
    _play(role)
    sampled = {
        tuple(completion.routes.token_ids_T.tolist()): completion.routes.experts_TLK
        for completion in role.block.current.completions
    }
    assert [grad for grad, *_ in passes] == [False] * 2 + [True] * 4
    assert referred == [None, None]
    for _, ids_BT, routes_BTLK in passes:
        assert len(ids_BT) == GROUP
        for ids_T, routes_TLK in zip(ids_BT, routes_BTLK, strict=True):
            known_T = (routes_TLK >= 0).all(-1).all(-1)
            assert (routes_TLK[~known_T] == -1).all()
            expected_TLK = sampled[tuple(ids_T[known_T].tolist())]
            assert np.array_equal(routes_TLK[known_T].numpy(), expected_TLK)


def test_in_float32_replay_changes_nothing(checkpoint: Path) -> None:
    rows: list[dict[str, object]] = []
    hashes, loads = [], []
    for replayed in (False, True):
        role = _role(checkpoint, rows, replayed)
        _play(role)
        hashes.append([t.clone() for t in role.policy.parameters()])
        loads.append(role.expert_load.take())
    for ours, theirs in zip(*hashes, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4
    own, routed = loads
    assert own.keys() == routed.keys() == {1, 2}
    for layer, load_E in own.items():
        last = load_E.sum() - routed[layer].sum()  # the tokens that no sampler ran: one a sequence
        assert last == 2 * 8 and (load_E >= routed[layer]).all()
    for row in rows:
        assert float(str(row["moe/max_over_mean"])) > 1
        assert row["rollout/other_experts"] == 0
        assert row["rollout/other_experts_layers"] == {"1": 0, "2": 0}
        assert float(str(row["rollout/mismatch_max"])) <= 1e-4
        assert 0 <= float(str(row["rollout/mismatch_kl"])) <= 1e-8


def _shifted(drawn: list[Completion]) -> list[Completion]:
    return [_with(c, np.roll(c.routes.experts_TLK, 1, 0)) for c in drawn]


def _swapped(drawn: list[Completion]) -> list[Completion]:
    """The routes of another prompt's request, under this one's tokens."""
    other = drawn[len(drawn) // 2 :] + drawn[: len(drawn) // 2]
    return [
        _with(c, np.resize(o.routes.experts_TLK, c.routes.experts_TLK.shape))
        for c, o in zip(drawn, other, strict=True)
    ]


def _with(completion: Completion, experts_TLK: np.ndarray) -> Completion:
    return replace(completion, routes=Routes(completion.routes.token_ids_T, experts_TLK))


def _passed_on(drawn: list[Completion]) -> list[Completion]:
    others = [*drawn[1:], drawn[0]]
    return [replace(c, routes=o.routes) for c, o in zip(drawn, others, strict=True)]


def _lost(drawn: list[Completion]) -> list[Completion]:
    return [replace(drawn[0], routes=None), *drawn[1:]]


@pytest.mark.parametrize("replayed", [True, False], ids=["replayed", "measured"])
@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        pytest.param(_shifted, "to other experts", id="shifted by a token"),
        pytest.param(_swapped, "to other experts", id="swapped between requests"),
        pytest.param(_passed_on, "of other tokens", id="with their tokens, to another request"),
        pytest.param(_lost, "gave no routes for 1 of 8", id="one lost"),
    ],
)
def test_wrong_routes_stop_the_run_before_they_are_used(
    checkpoint: Path, tamper: Tamper, told: str, replayed: bool
) -> None:
    role = _role(checkpoint, tamper=tamper, replayed=replayed)
    before = weights_hash(role.policy)
    with pytest.raises(UnprovenSyncError, match=told):
        _play(role)
    assert weights_hash(role.policy) == before


def test_replay_without_routes_is_refused_and_measuring_does_without(checkpoint: Path) -> None:
    def untold(drawn: list[Completion]) -> list[Completion]:
        return [replace(c, routes=None) for c in drawn]

    with pytest.raises(UnprovenSyncError, match="gave no routes for 8 of 8"):
        _play(_role(checkpoint, tamper=untold))
    rows: list[dict[str, object]] = []
    _play(_role(checkpoint, rows, replayed=False, tamper=untold))
    assert "rollout/other_experts" not in rows[0] and "rollout/mismatch_kl" in rows[0]


def _batch(seed: int, num: int = 4) -> tuple[list[Routes], BatchRoutes]:
    """Padded prompts and completions with made-up routes; and the routes laid out."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, (num, 2))
    (most_prompt, most_completion), routes = sizes.max(0), []
    ids_BT = np.zeros((num, most_prompt + most_completion), np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for row, (prompt, completion) in enumerate(sizes):
        places = slice(most_prompt - prompt, most_prompt + completion)
        ids_BT[row, places], mask_BT[row, places] = rng.integers(3, 50, prompt + completion), 1
        tokens_T = ids_BT[row, places][:-1].astype(np.int32)
        routes.append(Routes(tokens_T, rng.integers(0, 8, (len(tokens_T), 2, 2), np.int8)))
    ids_BT, mask_BT = torch.tensor(ids_BT), torch.tensor(mask_BT)
    return routes, BatchRoutes(ids_BT, lay_out(routes, ids_BT, mask_BT))


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(4)), size=st.integers(1, 4))
def test_routes_are_found_by_their_rows_and_for_their_own_tokens_only(
    seed: int, order: list[int], size: int
) -> None:
    """A micro-batch is any rows of the shuffled batch; moved tokens or rows alone are refused."""
    routes, batch = _batch(seed)
    rows_B = torch.tensor(order[:size])
    ids_BT = batch.input_ids_BT[rows_B]
    for own, routes_TLK in zip(rows_B.tolist(), batch.of(rows_B, ids_BT), strict=True):
        known_T = (routes_TLK >= 0).all(-1).all(-1)
        assert np.array_equal(routes_TLK[known_T].numpy(), routes[own].experts_TLK)
    elsewhere_B = (rows_B + 1) % 4
    if not torch.equal(batch.input_ids_BT[elsewhere_B], ids_BT):
        with pytest.raises(UnprovenSyncError, match="shuffled or split apart"):
            batch.of(elsewhere_B, ids_BT)
    changed_BT = ids_BT.clone()
    changed_BT[-1, -1] += 1
    with pytest.raises(UnprovenSyncError, match="1 of "):
        batch.of(rows_B, changed_BT)


# -- importance correction -----------------------------------------------------------------------


def _claiming(nats: float) -> Tamper:
    """A sampler whose log-probabilities are off by so much a token."""
    return lambda drawn: [replace(c, logprobs=[x + nats for x in c.logprobs]) for c in drawn]


def test_the_correction_is_on_and_weighs_every_sequence(checkpoint: Path) -> None:
    rows: list[dict[str, object]] = []
    role = _role(checkpoint, rows, tamper=_claiming(-0.1))
    _play(role)
    lengths_B = role.batch["completion_mask"].sum(1)
    assert torch.allclose(
        role.batch["importance_sampling_ratio"].squeeze(1), (0.1 * lengths_B).exp(), atol=1e-3
    )
    assert float(str(rows[0]["rollout/mismatch_max"])) == pytest.approx(0.1, abs=1e-4)
    assert float(str(rows[0]["rollout/mismatch_kl"])) == pytest.approx(np.exp(0.1) - 1.1, abs=1e-4)


@pytest.mark.parametrize(("correction", "trains"), [(True, False), (False, True)])
def test_a_sampler_far_from_the_policy_trains_nothing(
    checkpoint: Path, correction: bool, trains: bool
) -> None:
    """Ratios above the clip are masked; and the mismatch is reported without correction too."""
    rows: list[dict[str, object]] = []
    role = _role(
        checkpoint, rows, tamper=_claiming(-2.0), vllm_importance_sampling_correction=correction
    )
    before = weights_hash(role.policy)
    _play(role)
    assert (weights_hash(role.policy) != before) == trains
    assert float(str(rows[0]["rollout/mismatch_max"])) == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_replay_refuses_what_it_would_leave_without_effect(rate: float) -> None:
    tokenizer = character_tokenizer()
    policy = random_llama(tokenizer) if rate == 0 else random_moe(tokenizer)
    told = "has no routed experts" if rate == 0 else "router_bias_rate = 0.001 does nothing"
    with pytest.raises(UserError, match=told):
        check_replay("learner", policy, rate)
