"""Rollouts by real vLLM servers: equal to the engine in-process, proven, and hard to kill.

Two servers of one tiny model are started once. Their workers can be told to go wrong.
"""

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from faulty_worker import FAULTS, break_all
from pipeline_cases import learner_role, random_moe, save
from weights import make_weights_matter

from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UnprovenSyncError, UserError
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts import spec as engine_spec
from pipelines.rollouts.engine import Completion, Sampling
from pipelines.rollouts.sample import Sample, Scored
from pipelines.rollouts.servers import replica as server_replica
from pipelines.rollouts.servers.client import ReplicaLostError
from pipelines.rollouts.servers.engine import ServerEngine
from pipelines.rollouts.servers.jobs import Job
from pipelines.rollouts.servers.replica import Server
from pipelines.rollouts.servers.start import start_server
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.rollouts.vllm_options import engine_options
from pipelines.settings.tables import RolloutTable
from pipelines.sync.agreement import largest_difference
from pipelines.sync.push import WeightSync
from pipelines.training.trainer import RoleTrainer

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.timeout(240),
]

EXACT = 1e-5  # nats, float32
ROLLOUT = RolloutTable(
    placement="server", servers=2, max_model_len=64, kv_cache_gib=0.05, max_num_seqs=8,
    start_timeout_seconds=200, request_timeout_seconds=100, liveness_seconds=20,
    adaptive_concurrency=False,  # a loaded machine would leave no four requests at once
)  # fmt: skip
TOKENIZER = character_tokenizer()
PROBES = torch.randint(
    3, len(TOKENIZER), (4, 32), generator=torch.Generator().manual_seed(3)
).tolist()
PROMPTS = [[5 + i % 7, 9, 30 + i % 3] for i in range(24)]
SEEDS = list(range(100, 100 + len(PROMPTS)))
LONG = Sampling(60, routes=True)
AGREEMENT = 0.999  # of tokens routed alike, float32


@dataclass
class Servers:
    """A policy, the two servers that were started from its checkpoint, and that checkpoint."""

    policy: SparringMoeForCausalLM
    sync: WeightSync
    directory: Path
    version: int = 0

    @property
    def engine(self) -> ServerEngine:
        assert isinstance(self.sync.engine, ServerEngine)
        return self.sync.engine

    def push(self) -> None:
        self.version += 1
        self.sync.push(self.policy, self.version)

    def sample(self) -> None:
        self.engine.generate([[5, 9]], Sampling(2), [1])

    def difference(self) -> float:
        """Largest difference of log-probabilities (nats) over both servers, without the sync."""
        ours = policy_logprobs(self.policy, PROBES)
        scores = [server.score(PROBES) for server in self.engine.replicas]
        return max(largest_difference(ours, theirs)[0] for theirs in scores)


def _spec(directory: Path, settings: RolloutTable) -> EngineSpec:
    return EngineSpec(directory, settings, "float32", (TOKENIZER.eos_token_id,))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("servers") / "moe"
    policy = random_moe(TOKENIZER)
    spec = _spec(save(policy, directory), ROLLOUT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
        folder = tmp_path_factory.mktemp("handed")
        worker = "faulty_worker.FaultyWorker"
        started = [start_server(spec, folder, label, worker) for label in ("one", "two")]
    engine = ServerEngine(spec, started, folder)
    try:
        manifest = checkpoint_manifest(directory)
        engine.await_ready(manifest)
        yield Servers(policy, WeightSync(engine, manifest, PROBES, 1, EXACT), directory)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def in_process(servers: Servers) -> VllmEngine:
    return VllmEngine(servers.engine.spec)


def _same(left: list[Completion], right: list[Completion]) -> None:
    assert [c.token_ids for c in left] == [c.token_ids for c in right]
    assert [c.truncated for c in left] == [c.truncated for c in right]
    rows = [c.logprobs for c in left], [c.logprobs for c in right]
    assert largest_difference(*rows)[0] <= EXACT
    routes = [[c.routes.experts_TLK for c in side] for side in (left, right)]  # type: ignore
    assert _same_experts(*map(np.concatenate, routes)) >= AGREEMENT


def _same_experts(left_TLK: np.ndarray, right_TLK: np.ndarray) -> float:
    """Share of tokens that two routings send to the same experts."""
    return float((np.sort(left_TLK, -1) == np.sort(right_TLK, -1)).all((1, 2)).mean())


@torch.no_grad()
def _own_routes(policy: SparringMoeForCausalLM, drawn: list[Completion]) -> np.ndarray:
    """The policy's own routes of everything that was drawn for `PROMPTS`."""
    whole = [[*p, *c.token_ids[:-1]] for p, c in zip(PROMPTS, drawn, strict=True)]
    passes = [policy.model(torch.tensor([ids]), use_cache=False, record=True) for ids in whole]
    return np.concatenate([one.routed_experts[0].numpy() for one in passes])


def test_every_perturbed_weight_arrives_at_every_server_five_times_in_a_row(
    servers: Servers,
) -> None:
    for seed in range(11, 16):
        make_weights_matter(servers.policy, seed)
        assert servers.difference() > 1, "stale servers must be nats away"
        servers.push()
        assert servers.difference() <= EXACT
        assert servers.sync.agreement_difference <= EXACT
        assert servers.engine.weights.version == servers.version
    costs = servers.sync.take_costs()
    assert costs["proof_ns_per_parameter"] > 0 and costs["sync"] > 0


def test_servers_sample_what_the_engine_in_process_samples(
    servers: Servers, in_process: VllmEngine
) -> None:
    servers.push()
    WeightSync(in_process, servers.sync.manifest, PROBES, 1, EXACT).push(servers.policy, 1)
    drawn = servers.engine.generate(PROMPTS, LONG, SEEDS)
    _same(drawn, in_process.generate(PROMPTS, LONG, SEEDS))
    served = [server.call("sync_state")[0]["pid"] for server in servers.engine.replicas]
    assert len(set(served)) == 2
    ours = policy_logprobs(servers.policy, [[*PROMPTS[0], *drawn[0].token_ids]])[0]
    assert largest_difference([ours[2:]], [drawn[0].logprobs])[0] <= EXACT
    assert drawn[0].token_ids != drawn[21].token_ids, "copies of a prompt need their own noise"
    told_TLK = np.concatenate([c.routes.experts_TLK for c in drawn])  # type: ignore[union-attr]
    assert _same_experts(told_TLK, _own_routes(servers.policy, drawn)) >= AGREEMENT
    assert len(np.unique(told_TLK)) == servers.policy.config.n_routed_experts
    plain = servers.engine.generate(PROMPTS[:2], Sampling(4), SEEDS[:2])
    assert [c.routes for c in plain] == [None, None], "routes that nobody asked for"
    assert largest_difference(
        servers.engine.score(PROBES), in_process.score(PROBES)
    )[0] <= EXACT  # fmt: skip


@pytest.mark.parametrize(("fault", "told"), FAULTS.items())
def test_a_fault_inside_one_server_is_caught_before_anything_is_sampled(
    servers: Servers, fault: str, told: str
) -> None:
    servers.push()
    servers.engine.replicas[1].call("sync_break", fault=fault)
    for use in (servers.push, servers.sample):
        with pytest.raises(UnprovenSyncError, match=f"server two .*{told}"):
            use()
        assert servers.engine.weights.version == -1
        assert servers.engine.replicas[1].call("sync_state")[0]["stamp"] == ""
    servers.engine.replicas[1].call("sync_break", fault="")
    servers.push()  # and the server recovers
    assert servers.difference() <= EXACT


@pytest.mark.slow
def test_a_wrong_rope_mode_is_caught_before_anything_is_sampled(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of its own, started without what turns vLLM's wrong rotary kernel off."""
    if torch.accelerator.is_available():
        pytest.skip("only vLLM's CPU rotary kernel is wrong in eager mode")
    wrong = {**engine_options(ROLLOUT), "compilation_config": {"custom_ops": ["all"]}}
    monkeypatch.setattr(engine_spec, "engine_options", lambda settings: wrong)
    spec = _spec(servers.directory, ROLLOUT)
    engine = ServerEngine(spec, [start_server(spec, tmp_path, "wrong")], tmp_path)
    rotated = Servers(
        servers.policy, WeightSync(engine, servers.sync.manifest, PROBES, 1, EXACT), tmp_path
    )
    try:
        engine.await_ready(servers.sync.manifest)
        for use in (rotated.push, rotated.sample):
            with pytest.raises(UnprovenSyncError, match="server wrong and policy differ by"):
                use()
    finally:
        engine.close()


def test_weights_that_changed_during_a_batch_void_its_answers(servers: Servers) -> None:
    servers.push()
    asked: list[str] = []

    class Overwritten(Job[str]):
        def ask(self, server: Server, index: int) -> str:
            asked.append(server.label)
            if len(asked) == 1:
                another = {"stamp": "another run's"}
                weights = servers.engine.handover.payload(server)
                server.call("sync_receive", weights=weights, **another)
                server.call("sync_certify", **another)
            return f"answer {len(asked)}"

    seconds = servers.sync.costs.seconds
    before = seconds["transfer"]
    assert servers.engine._serve(1, Overwritten()) == ["answer 2"]
    assert len(asked) == 2 and servers.engine.reissued == [0]
    assert seconds["transfer"] > before, "the server must be given the weights anew"
    assert servers.difference() <= EXACT


@pytest.mark.parametrize("fault", ["shifted routes", "swapped routes"])
def test_routes_of_other_tokens_stop_the_run(servers: Servers, fault: str) -> None:
    servers.push()
    break_all(servers.engine.replicas, fault)
    with pytest.raises(UnprovenSyncError, match=r"the routes of request .* shifted or swapped"):
        servers.engine.generate(PROMPTS, LONG, SEEDS)
    break_all(servers.engine.replicas, "")


def test_a_step_trains_on_the_routes_that_servers_tell(servers: Servers) -> None:
    rows: list[dict[str, object]] = []
    role = learner_role(
        RoleTrainer, servers.directory, rows.append, per_device_train_batch_size=8,
        num_generations=4, max_completion_length=24, engine=servers.engine, sync=servers.sync,
        spec={"routing_replay": True, "router_bias_rate": 0.0},
    )  # fmt: skip

    def score(indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        return [Scored(float(place % 2)) for place in range(len(samples))]

    role.play(["a4b1\n", "a9\n"], score, "round 0")
    assert float(str(rows[0]["rollout/other_experts"])) <= 1 - AGREEMENT
    assert float(str(rows[0]["rollout/mismatch_max"])) <= EXACT
    assert float(str(rows[0]["policy/grad_norm"])) > 0


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGSTOP, id="stopped", marks=pytest.mark.slow),
    ],
)
def test_a_server_lost_in_the_middle_is_replaced_and_nothing_changes(
    servers: Servers, how: signal.Signals
) -> None:
    """A stopped engine keeps its connections, and its API server keeps answering `/health`."""
    servers.push()
    undisturbed = servers.engine.generate(PROMPTS, LONG, SEEDS)
    victim = servers.engine.replicas[0]
    victim.settings = ROLLOUT.model_copy(update={"liveness_seconds": 6.0})
    pid = victim.call("sync_state")[0]["pid"]
    restarts, group = servers.engine.restarts.num, victim.process.pid

    def lose_when_busy() -> None:
        while len(victim.client._open) < 4:
            time.sleep(0.001)
        os.kill(pid, how)

    killer = threading.Thread(target=lose_when_busy)
    killer.start()
    drawn = servers.engine.generate(PROMPTS, LONG, SEEDS)
    killer.join()
    _same(drawn, undisturbed)
    told_TLK = np.concatenate([c.routes.experts_TLK for c in drawn])  # type: ignore[union-attr]
    assert _same_experts(told_TLK, _own_routes(servers.policy, drawn)) >= AGREEMENT
    assert servers.engine.reissued and servers.engine.restarts.num > restarts
    assert victim.call("sync_state")[0]["pid"] != pid
    assert servers.difference() <= EXACT
    with pytest.raises(ProcessLookupError):  # no process of the broken engine lingers
        os.killpg(group, 0)


@pytest.mark.slow
def test_servers_killed_in_a_sync_and_in_its_last_check_are_replaced(servers: Servers) -> None:
    """Both at once: the one while its weights are loaded, the other after canary and stamp."""
    servers.push()
    first, second = servers.engine.replicas
    restarts = servers.engine.restarts.num
    first.call("sync_break", fault="dead")
    second.call("sync_die_after", passes=1)  # the canary
    make_weights_matter(servers.policy, 99)
    servers.push()
    assert servers.engine.restarts.num >= restarts + 2
    assert servers.difference() <= EXACT
    assert len(servers.engine.generate(PROMPTS, LONG, SEEDS)) == len(PROMPTS)


def test_a_server_that_is_not_the_policys_is_refused(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers.engine.replicas[0]
    other = save(random_moe(TOKENIZER, num_hidden_layers=3), tmp_path / "other")
    with pytest.raises(UserError, match=r"serves another model, .* unknown"):
        server.check_model(checkpoint_manifest(other), "float32")
    with pytest.raises(UserError, match="dtype float32, the run needs bfloat16"):
        server.check_model(servers.sync.manifest, "bfloat16")
    monkeypatch.setattr(server_replica, "vllm_version", lambda: "0.30.0")
    with pytest.raises(UserError, match=r"runs vLLM .*, this run 0.30.0"):
        server.check_model(servers.sync.manifest, "float32")


def test_a_prompt_that_is_too_long_is_told_before_it_is_sent(servers: Servers) -> None:
    servers.push()
    with pytest.raises(UserError, match=r"exceed rollout.max_model_len = 64: raise it to at least"):
        servers.engine.generate([[5] * 60], Sampling(10), [1])
    with pytest.raises(UserError, match=r"exceed rollout.max_model_len"):
        servers.engine.score([[5] * 65])


@pytest.mark.slow
def test_a_server_without_memory_says_so(servers: Servers, tmp_path: Path) -> None:
    settings = ROLLOUT.model_copy(update={"kv_cache_gib": 1e-6})
    server = start_server(_spec(servers.directory, settings), tmp_path, "poor")
    try:
        with pytest.raises(
            ReplicaLostError, match=r"server poor ended: .*\(rollout.kv_cache_gib = 1e-06: "
        ):
            server.await_ready()
    finally:
        server.process.stop()
