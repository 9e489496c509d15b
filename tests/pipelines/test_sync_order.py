"""Who may vouch for weights, and for which: the sync against others, and against later updates.

The receiving half is the real one, mixed into a plain model instead of vLLM's.
"""

import copy
import importlib.util
from collections.abc import Sequence

import pytest
import torch
from pipeline_cases import random_llama, redraw
from transformers import PreTrainedModel

from pipelines.errors import UnprovenSyncError
from pipelines.policy.fingerprint import UNPROVEN, NamedTensors
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import policy_fingerprints
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.sync.proof import Proof
from pipelines.sync.push import WeightSync
from pipelines.sync.receive import SyncWorker

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)
TOKENIZER = character_tokenizer()
PROBES = [[5, 9, 30, 7, 11], [8, 6, 21]]
EXACT = 1e-5  # nats, float32


class Twin(SyncWorker):
    """An engine, its only replica and its worker in one: a copy of the policy."""

    weights, label = UNPROVEN, "the twin"

    def __init__(self, policy: PreTrainedModel) -> None:
        self.module, self.replicas = copy.deepcopy(policy), [self]

    def get_model(self) -> PreTrainedModel:
        return self.module

    @torch.no_grad()
    def reload_weights(self, weights_iterator: NamedTensors) -> None:
        own = dict(self.module.named_parameters())
        for name, tensor in weights_iterator:
            own[name].copy_(tensor)

    def call(self, method: str, **kwargs: object) -> list[dict]:
        return [getattr(self, method)(**kwargs)]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return policy_logprobs(self.module, sequences)

    def reset_prefix_cache(self) -> None:
        """It has none."""

    def publish(self, proof: Proof) -> None:
        """As a server's: the tensors are kept as they are now."""
        self.proof = proof
        self.handed = [(name, tensor.clone()) for name, tensor in proof.tensors()]
        self.prove(lost=False)

    def prove(self, lost: bool) -> None:
        self.proof.prove(self, lambda: iter(self.handed), lost)


def _synced() -> tuple[PreTrainedModel, Twin, WeightSync]:
    policy = random_llama(TOKENIZER)
    twin, manifest = Twin(policy), policy_fingerprints(policy)[1]
    sync = WeightSync(twin, manifest, PROBES, 100, EXACT, num_syncs=2)
    sync.push(policy, 1)
    return policy, twin, sync


def test_a_replica_lost_during_an_update_is_held_to_what_was_sent() -> None:
    policy, twin, sync = _synced()
    sync.hold_agreement()
    redraw(policy, 7)  # the optimizer, while a batch is drawn ahead
    redraw(twin.module, 8)  # a restart
    twin.sync_stamp = ""
    twin.prove(lost=True)
    assert twin.sync_stamp == twin.weights.stamp and sync.agreement_difference <= EXACT
    sync.push(policy, 2)
    sync.agreement.check(twin, list)
    assert sync.agreement_difference <= EXACT, "the next sync has a reference of its own"


def test_weights_that_came_between_a_sync_and_its_stamp_are_not_certified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two runs that were given one server: the second writes while the first one proves."""
    policy, twin, sync = _synced()
    others = list(redraw(copy.deepcopy(policy), 9).state_dict().items())

    def overwritten(proof: Proof, replica: Twin) -> None:
        twin.sync_receive(((n, t) for n, t in others if n != "lm_head.weight"), "another run's")

    monkeypatch.setattr(Proof, "_canary", overwritten)
    with pytest.raises(UnprovenSyncError, match="somebody else writes into it"):
        sync.push(policy, 2)
    assert twin.weights.version == -1 and twin.sync_stamp == ""
