"""One batch ahead: drawn by a real server while the last one is scored, at most one update old."""

import importlib.util
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from pipeline_cases import SharedServer, learner_role, random_moe, save

from pipelines.policy.fingerprint import UNPROVEN
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import weights_hash
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Completion, Sampling
from pipelines.rollouts.ledger import Ledger, balance
from pipelines.rollouts.sample import Sample, Scored
from pipelines.rollouts.servers.engine import ServerEngine
from pipelines.sync.proof import Proof
from pipelines.sync.push import WeightSync
from pipelines.training.trainer import RoleTrainer

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.timeout(240),
]
EXACT = 1e-5  # nats, float32
GROUP = 4
TOKENIZER = character_tokenizer()
PROMPTS = ("a4b1\n", "a9b3\n", "a7b2\n", "a1b1\n", "a6b8\n", "a2b5\n")
PROBES = [TOKENIZER(prompt)["input_ids"] for prompt in PROMPTS]


class Watched(RoleTrainer):
    """Keeps the policy of each version, and what its scorer is given."""

    def watch(self) -> None:
        self.policies: dict[str, dict[str, torch.Tensor]] = {}
        self.seen: list[tuple[int, bool, list[Sample]]] = []

    def score(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        state = {name: tensor.clone() for name, tensor in self.policy.state_dict().items()}
        self.policies[weights_hash(self.policy)] = state
        in_flight = self.sampler.has_batch_in_flight
        self.seen.append((self.block.staleness, in_flight, list(samples)))
        return [Scored(float(index % GROUP == 0)) for index in range(len(indices))]


@pytest.fixture(scope="module")
def engine(
    shared_server: SharedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerEngine]:
    opened = shared_server.engine(tmp_path_factory.mktemp("ahead"))
    yield opened
    opened.close()


def _role(engine: ServerEngine, tmp_path: Path, draw_ahead: bool, rows: list[dict]) -> Watched:
    sync = WeightSync(engine, checkpoint_manifest(engine.spec.directory), PROBES, 1, EXACT)
    role = learner_role(
        Watched, engine.spec.directory, rows.append, engine=engine, sync=sync,
        spec={"draw_ahead": draw_ahead},
        per_device_train_batch_size=2 * GROUP, num_generations=GROUP,
    )  # fmt: skip
    role.sampler.ledger = Ledger(tmp_path / "ledger.jsonl")
    role.watch()
    return role


def test_batches_drawn_ahead_are_one_update_old_and_weighed_for_it(
    engine: ServerEngine, tmp_path: Path
) -> None:
    rows: list[dict] = []
    role = _role(engine, tmp_path, True, rows)
    role.play(PROMPTS, role.score, "ahead")
    assert [staleness for staleness, *_ in role.seen] == [0, 1, 1]
    assert [in_flight for _, in_flight, _ in role.seen] == [True, True, False]
    assert [row["rollout/staleness"] for row in rows] == [0, 1, 1]
    every = [sample for *_, samples in role.seen for sample in samples]
    for prompt, sample in zip((p for p in PROMPTS for _ in range(GROUP)), every, strict=True):
        role.policy.load_state_dict(role.policies[sample.weights_hash])
        ids = [*TOKENIZER(prompt)["input_ids"], *sample.token_ids]
        ours = policy_logprobs(role.policy, [ids])[0][-len(sample.token_ids) :]
        assert max(abs(a - b) for a, b in zip(ours, sample.logprobs, strict=True)) <= EXACT
    fresh, *stale = [row["rollout/mismatch_max"] for row in rows]
    assert fresh <= EXACT < min(stale), "one update must show, or the batches were not stale"
    assert all(math.isfinite(row["policy/importance_ratio_mean"]) for row in rows)
    counts = balance(tmp_path / "ledger.jsonl")
    assert counts["issued"] == counts["used"] == len(PROMPTS) and counts["open"] == 0


def test_on_demand_every_batch_is_fresh(engine: ServerEngine, tmp_path: Path) -> None:
    rows: list[dict] = []
    role = _role(engine, tmp_path, False, rows)
    role.play(PROMPTS, role.score, "on demand")
    assert [staleness for staleness, *_ in role.seen] == [0, 0, 0]
    assert max(row["rollout/mismatch_max"] for row in rows) <= EXACT


def test_a_scorer_that_fails_leaves_nothing_in_flight(engine: ServerEngine, tmp_path: Path) -> None:
    role = _role(engine, tmp_path, True, [])

    def broken(indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        raise RuntimeError("the scorer fails")

    with pytest.raises(RuntimeError, match="the scorer fails"):
        role.play(PROMPTS, broken, "broken")
    assert not role.sampler.has_batch_in_flight
    role.play(PROMPTS, role.score, "again")
    assert [staleness for staleness, *_ in role.seen] == [0, 1, 1]
    assert balance(tmp_path / "ledger.jsonl")["discarded"] == 2, "the batch that was drawn ahead"


class LostInFlight:
    """An engine in memory whose replica is lost in a batch drawn ahead, and back after an update.

    It then holds the weights that were pushed, as a restarted server does.
    """

    label, reissued, concurrency = "the server", (), None
    role: RoleTrainer

    def __init__(self) -> None:
        self.weights, self.replicas, self.num_checked = UNPROVEN, [self], 0
        self.updated = threading.Event()

    def publish(self, proof: Proof) -> None:
        self.pushed = random_moe(TOKENIZER)
        self.pushed.load_state_dict(self.role.policy.state_dict())

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return policy_logprobs(self.pushed, sequences)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        if threading.current_thread() is not threading.main_thread():
            assert self.updated.wait(60)
            self.role.sampler.sync.agreement.check(self, list)
            self.num_checked += 1
        end = TOKENIZER.eos_token_id
        return [Completion([5 + i % GROUP, end], [-1.0, -1.0], False) for i in range(len(prompts))]

    def close(self) -> None: ...


class Signalling(Watched):
    """Tells its engine of the first update."""

    def finish_step(self) -> None:
        super().finish_step()
        self.sampler.engine.updated.set()


def test_a_server_lost_in_flight_is_held_to_the_policy_that_was_pushed(tmp_path: Path) -> None:
    directory = save(random_moe(TOKENIZER), tmp_path / "moe")
    engine = LostInFlight()
    sync = WeightSync(engine, checkpoint_manifest(directory), PROBES, 100, EXACT)
    role = engine.role = learner_role(
        Signalling, directory, engine=engine, sync=sync, spec={"draw_ahead": True},
        per_device_train_batch_size=2 * GROUP, num_generations=GROUP,
    )  # fmt: skip
    role.watch()
    role.play(PROMPTS[:4], role.score, "lost")
    assert engine.num_checked == 1
    assert weights_hash(role.policy) != weights_hash(engine.pushed), "the update must show"
