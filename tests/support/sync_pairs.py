"""A policy and the engine started from its checkpoint; ways to corrupt a stream of weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pipeline_cases import save

from pipelines.errors import UnprovenSyncError
from pipelines.policy.fingerprint import NamedTensors
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import policy_tensors
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Sampling
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.settings.tables import RolloutTable
from pipelines.sync.push import WeightSync

Policy = torch.nn.Module
EXACT = 1e-5  # nats, float32
ROLLOUT = RolloutTable(max_model_len=64, kv_cache_gib=0.05, max_num_seqs=8)
TOKENIZER = character_tokenizer()
PROBES = torch.randint(
    3, len(TOKENIZER), (4, 32), generator=torch.Generator().manual_seed(3)
).tolist()


@dataclass
class Pair:
    """A policy and the engine that was started from its checkpoint."""

    policy: Policy
    sync: WeightSync
    version: int = 0

    @property
    def engine(self) -> VllmEngine:
        return self.sync.engine

    def push(self) -> None:
        self.version += 1
        self.sync.push(self.policy, self.version)

    def difference(self) -> float:
        """Largest difference of log-probabilities (nats), measured without the sync's own check."""
        ours = torch.tensor(policy_logprobs(self.policy, PROBES))
        return (ours - torch.tensor(self.engine.score(PROBES))).abs().max().item()


def start_pair(
    policy: Policy, directory: Path, table: RolloutTable = ROLLOUT, dtype: str = "float32"
) -> Pair:
    """An engine of that type; in bfloat16 the sync's own threshold holds."""
    save(policy, directory)
    engine = VllmEngine(EngineSpec(directory, table, dtype, (TOKENIZER.eos_token_id,)))
    manifest, threshold = checkpoint_manifest(directory), EXACT if dtype == "float32" else None
    sync = WeightSync(engine, manifest, PROBES, 1, threshold, dtype=getattr(torch, dtype))
    return Pair(policy, sync)


BIAS = "e_score_correction_bias"


def without(tensors: NamedTensors, lost: str) -> NamedTensors:
    return ((name, tensor) for name, tensor in tensors if not name.endswith(lost))


def swap_experts(tensors: NamedTensors) -> NamedTensors:
    for name, tensor in tensors:
        for a, b in ((".experts.0.", ".experts.1."), (".experts.1.", ".experts.0.")):
            if a in name:
                name = name.replace(a, b)
                break
        yield name, tensor


def stale_bias(tensors: NamedTensors) -> NamedTensors:
    for name, tensor in tensors:
        yield (
            name,
            tensor - 0.3 * torch.arange(len(tensor)).sin() if name.endswith(BIAS) else tensor,
        )


def perturb_all(policy: Policy, redraw_all: Callable[[Policy, int], object], seed: int) -> None:
    """Redraw everything, and prove that no tensor of the checkpoint kept one value."""
    before = {name: tensor.clone() for name, tensor in policy_tensors(policy)}
    redraw_all(policy, seed)
    for name, tensor in policy_tensors(policy):
        assert (tensor != before[name]).all(), f"{name} was not perturbed"


def prove_five_syncs(pair: Pair, redraw_all: Callable[[Policy, int], object]) -> None:
    for seed in range(11, 16):
        perturb_all(pair.policy, redraw_all, seed)
        assert pair.difference() > 1, (
            "a stale engine must be nats away, or this test proves nothing"
        )
        pair.push()
        assert pair.difference() <= EXACT
        assert pair.engine.weights.version == pair.version
        assert pair.sync.agreement_difference <= EXACT


def refused(pair: Pair) -> None:
    assert pair.engine.weights.version == -1
    with pytest.raises(UnprovenSyncError, match="the engine holds weights"):
        pair.engine.generate([[5, 9]], Sampling(2), [1])
