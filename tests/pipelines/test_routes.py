"""What the sampler routed where: read from the real vLLM engine, token by token, whatever it does.

The engines live in this process; each takes some seconds to start and is shared by its tests.
"""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_cases import random_llama, random_moe, save
from weights import make_weights_matter

from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UnprovenSyncError
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Completion, Sampling
from pipelines.rollouts.recorder import RouteRecorder, pack, unpack
from pipelines.rollouts.routes import RecordedRoutes, Routes, checked_routes
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.transformers_engine import TransformersEngine
from pipelines.rollouts.vllm_engine import VllmEngine, _finished
from pipelines.settings.tables import RolloutTable
from pipelines.sync.push import WeightSync
from pipelines.training.replay import lay_out

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)

TOKENIZER = character_tokenizer()
AGREEMENT = 0.999  # of tokens, float32
SAMPLING = Sampling(12, routes=True)


def _tokens(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, len(TOKENIZER), (length,), generator=generator).tolist()


def _policy() -> SparringMoeForCausalLM:
    return random_moe(TOKENIZER, num_hidden_layers=3)  # two layers with experts


@torch.no_grad()
def _own(policy: SparringMoeForCausalLM, sequence: Sequence[int]) -> np.ndarray:
    """The policy's own routes of a sequence's tokens but the last, [T, L, K]."""
    ids_1T = torch.tensor([list(sequence)])
    return policy.model(ids_1T, use_cache=False, record=True).routed_experts[0, :-1].numpy()


def _agreement(
    policy: SparringMoeForCausalLM, prompts: Sequence[list[int]], drawn: Sequence[Completion]
) -> float:
    """Share of tokens whose experts are the policy's own in every layer."""
    same: list[bool] = []
    for prompt, completion in zip(prompts, drawn, strict=True):
        sequence, routes = [*prompt, *completion.token_ids], completion.routes
        assert routes is not None
        assert routes.token_ids_T.tolist() == sequence[:-1]
        own_TLK = _own(policy, sequence)
        equal_TL = np.sort(own_TLK, -1) == np.sort(routes.experts_TLK, -1)
        same += equal_TL.all((1, 2)).tolist()
    return sum(same) / len(same)


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> tuple[SparringMoeForCausalLM, WeightSync]:
    policy = _policy()
    directory = save(policy, tmp_path_factory.mktemp("routes") / "moe")
    table = RolloutTable(max_model_len=192, kv_cache_gib=0.1, max_num_seqs=80)
    engine = VllmEngine(EngineSpec(directory, table, "float32", (TOKENIZER.eos_token_id,)))
    manifest = checkpoint_manifest(directory)
    return policy, WeightSync(engine, manifest, [_tokens(24, 0)], 1, 1e-5)


@needs_vllm
def test_captured_routes_are_the_policys_own_after_every_sync(
    moe: tuple[SparringMoeForCausalLM, WeightSync],
) -> None:
    """Requests of all lengths, that end at different steps, each prompt twice."""
    policy, sync = moe
    prompts = [_tokens(length, length) for length in (1, 40, 3, 17, 5, 5, 29, 2, 11, 63)] * 2
    for version, seed in enumerate((None, 5)):
        if seed is not None:
            make_weights_matter(policy, seed)
            sync.push(policy, version)
        drawn = sync.engine.generate(prompts, SAMPLING, list(range(len(prompts))))
        assert _agreement(policy, prompts, drawn) >= AGREEMENT
    layers = np.concatenate([c.routes.experts_TLK for c in drawn])  # type: ignore[union-attr]
    assert len(np.unique(layers)) == policy.config.n_routed_experts, "too few to tell apart"


@needs_vllm
def test_routes_are_told_only_where_they_are_asked_for(
    moe: tuple[SparringMoeForCausalLM, WeightSync],
) -> None:
    engine = moe[1].engine
    prompts = [_tokens(9, 1), _tokens(4, 2)]
    plain = engine.generate(prompts, Sampling(12), [1, 2])
    told = engine.generate(prompts, SAMPLING, [1, 2])
    assert [c.routes for c in plain] == [None, None]
    assert [c.token_ids for c in plain] == [c.token_ids for c in told]
    assert [c.logprobs for c in plain] == [c.logprobs for c in told], "watching changed the sampler"


class WatchedRecorder(RouteRecorder):
    """Counts what vLLM did to the requests, so that a test cannot pass where nothing happened."""

    def _note_step(self) -> None:
        num_requests = self.batch.num_reqs
        bounds = self.runner.query_start_loc.np[: num_requests + 1]
        firsts = self.runner.positions[: bounds[-1]].numpy()[bounds[:-1]]
        for place, request in enumerate(self.batch.req_ids):
            known = self.known_R[self._row(request)]
            cached, again = firsts[place] > known, firsts[place] < known
            prefill = 0 < known == firsts[place] and bounds[place + 1] - bounds[place] > 1
            self.seen.update(cached=int(cached), preempted=int(again), chunked=int(prefill))
        super()._note_step()


@needs_vllm
def test_cached_chunked_and_preempted_tokens_have_routes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import SamplingParams

    policy = _policy()
    directory = save(policy, tmp_path / "moe")
    engine = _cramped_engine(directory, monkeypatch)
    worker = engine.llm.llm_engine.model_executor.driver_worker.worker
    watched = worker.route_recorder = WatchedRecorder(worker.model_runner)
    watched.seen = Counter()  # type: ignore[attr-defined]
    shared = _tokens(70, 9)
    prompts = [[*shared, *_tokens(3 + index, index)] for index in range(6)]
    params = [
        SamplingParams(max_tokens=40, logprobs=0, detokenize=False, ignore_eos=True)
        for _ in prompts  # a seed and a chunk do not go together on CPU, see rollout.py
    ]
    source = RecordedRoutes()
    source.begin(engine)
    outputs = engine._run([{"prompt_token_ids": prompt} for prompt in prompts], params)
    routes = source.routes(engine, [_finished(output) for output in outputs])
    drawn = [
        Completion(list(output.outputs[0].token_ids), [], True, own)
        for output, own in zip(outputs, routes, strict=True)
    ]
    seen = watched.seen  # type: ignore[attr-defined]
    assert min(seen["cached"], seen["chunked"], seen["preempted"]) > 0, seen
    assert _agreement(policy, prompts, drawn) >= AGREEMENT


def _cramped_engine(directory: Path, monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    """Chunks of 32 tokens, blocks of 32, and room for some three of the sequences."""
    import vllm

    cramped = {
        "enable_chunked_prefill": True, "max_num_batched_tokens": 32, "block_size": 32,
        "num_gpu_blocks_override": 12,
    }  # fmt: skip
    own = vllm.LLM
    monkeypatch.setattr(vllm, "LLM", lambda **options: own(**{**options, **cramped}))
    table = RolloutTable(max_model_len=160, kv_cache_gib=0.02, max_num_seqs=6)
    return VllmEngine(EngineSpec(directory, table, "float32", (TOKENIZER.eos_token_id,)))


@needs_vllm
def test_more_requests_than_seats_have_routes_and_none_is_kept(
    moe: tuple[SparringMoeForCausalLM, WeightSync],
) -> None:
    policy, sync = moe
    prompts = [_tokens(3, seed) for seed in range(200)]
    drawn = sync.engine.generate(prompts, Sampling(2, routes=True), list(range(200)))
    assert _agreement(policy, prompts, drawn) >= AGREEMENT
    recorder = sync.engine.llm.llm_engine.model_executor.driver_worker.worker.route_recorder
    assert not [name for name, kept in vars(recorder).items() if np.size(kept) > 1000]


@needs_vllm
def test_more_prompt_tokens_than_a_step_holds(
    moe: tuple[SparringMoeForCausalLM, WeightSync],
) -> None:
    """Seeded requests must not be cut into chunks on CPU, where vLLM fails on them."""
    policy, sync = moe
    prompts = [_tokens(130, seed) for seed in range(66)]
    drawn = sync.engine.generate(prompts, Sampling(2, routes=True), list(range(66)))
    assert _agreement(policy, prompts[-4:], drawn[-4:]) >= AGREEMENT


@needs_vllm
def test_replay_takes_most_of_the_difference_in_bfloat16(tmp_path: Path) -> None:
    """Five layers of 16 experts, top 4: a tenth of the tokens and more go elsewhere by rounding."""
    sizes = {"hidden_size": 128, "n_routed_experts": 16, "num_experts_per_tok": 4}
    policy = random_moe(TOKENIZER, num_hidden_layers=6, **sizes).to(torch.bfloat16)
    directory = save(policy, tmp_path / "moe")
    table = RolloutTable(max_model_len=64, kv_cache_gib=0.05, max_num_seqs=32)
    engine = VllmEngine(EngineSpec(directory, table, "bfloat16", (TOKENIZER.eos_token_id,)))
    prompts = [_tokens(12, seed) for seed in range(32)]
    drawn = engine.generate(prompts, Sampling(32, routes=True), list(range(32)))
    assert 0.7 < _agreement(policy, prompts, drawn) < 0.95
    own, replayed = (_mean_difference(policy, prompts, drawn, replay) for replay in (False, True))
    assert replayed < 0.5 * own


@torch.no_grad()
def _mean_difference(
    policy: SparringMoeForCausalLM,
    prompts: Sequence[list[int]],
    drawn: Sequence[Completion],
    replay: bool,
) -> float:
    """Mean absolute difference of the completions' log-probabilities, nats."""
    found = []
    for prompt, completion in zip(prompts, drawn, strict=True):
        ids_1T = torch.tensor([[*prompt, *completion.token_ids]])
        routes_1TLK = lay_out([completion.routes], ids_1T, torch.ones_like(ids_1T))
        logits_TV = policy(
            ids_1T, use_cache=False, routed_experts=routes_1TLK if replay else None
        ).logits[0, len(prompt) - 1 : -1]
        targets_T1 = torch.tensor(completion.token_ids)[:, None]
        logprobs_T = logits_TV.float().log_softmax(-1).gather(-1, targets_T1).squeeze(-1)
        found.append((logprobs_T - torch.tensor(completion.logprobs)).abs())
    return torch.cat(found).mean().item()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_arrays_survive_their_packing(dtype: type) -> None:
    array = np.arange(-6, 18).reshape(4, 3, 2).astype(dtype)[1:]
    unpacked = unpack(pack(array))
    assert unpacked.dtype == dtype and np.array_equal(unpacked, array)
    assert unpack(pack(array[:0])).shape == (0, 3, 2)


@needs_vllm
def test_a_dense_model_has_no_routes(tmp_path: Path) -> None:
    directory = save(random_llama(TOKENIZER), tmp_path / "dense")
    table = RolloutTable(max_model_len=64, kv_cache_gib=0.02, max_num_seqs=4, routing_replay=False)
    engine = VllmEngine(EngineSpec(directory, table, "float32", (TOKENIZER.eos_token_id,)))
    assert [c.routes for c in engine.generate([[5, 9]], SAMPLING, [1])] == [None]


def test_transformers_generation_tells_the_same() -> None:
    policy = _policy()
    engine = TransformersEngine(policy, (TOKENIZER.eos_token_id,), TOKENIZER.pad_token_id, 96)
    prompts = [_tokens(length, length) for length in (7, 1, 20, 12)]
    drawn = engine.generate(prompts, SAMPLING, [1, 2, 3, 4])
    assert _agreement(policy, prompts, drawn) >= AGREEMENT


@pytest.mark.parametrize(
    ("tokens", "missing", "told"),
    [
        ([4, 5, 6], [], None),
        ([5, 6, 7], [], "of other|not its|shifted"),
        ([4, 5], [], "2 tokens that are not its 3"),
        ([4, 5, 6], [1], "1 of 3 tokens .* have no routes, first 1"),
    ],
)
def test_routes_of_other_tokens_are_refused(
    tokens: list[int], missing: list[int], told: str | None
) -> None:
    experts_TLK = np.zeros((len(tokens), 2, 2), np.int8)
    experts_TLK[missing] = -1
    if told is None:
        assert isinstance(checked_routes("x", np.array(tokens), experts_TLK, [4, 5, 6, 7]), Routes)
        return
    with pytest.raises(UnprovenSyncError, match=told):
        checked_routes("x", np.array(tokens), experts_TLK, [4, 5, 6, 7])


@pytest.mark.gpu
@needs_vllm
def test_vllm_returns_the_policys_own_routes(tmp_path: Path) -> None:
    """On accelerators vLLM itself returns the routes."""
    policy = _policy()
    directory = save(policy, tmp_path / "moe")
    table = RolloutTable(max_model_len=128, kv_cache_gib=1, max_num_seqs=4, routing_replay=True)
    engine = VllmEngine(EngineSpec(directory, table, "float32", (TOKENIZER.eos_token_id,)))
    prompts = [_tokens(length, length) for length in (7, 1, 20, 12)]
    drawn = engine.generate(prompts, SAMPLING, [1, 2, 3, 4])
    assert _agreement(policy, prompts, drawn) >= AGREEMENT
