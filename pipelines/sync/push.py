"""Verified weight sync: the policy's tensors into every engine that samples for it, failing closed.

One naming serves save and sync: that of `model/checkpoint/naming.py` for our model, merged names
for LoRA, plain HF names otherwise. Multi-token layers are not sent: no engine here holds them. The
checks, each of which stops the run:
  manifest   the names and shapes sent are exactly those of the checkpoint the engine started from;
  received   the engine's fingerprint of each tensor as it arrived is the policy's own;
  stale      the engine replaced every tensor it holds, packed copies too (`sync/receive.py`);
  canary     the engine's log-probabilities of one short sequence are finite (a NaN may be packed);
  agreement  after syncs 1, 2 and every k-th, engine and policy must agree on log-probabilities;
  stamp      only then is the engine stamped, and every generation asks for that stamp.

This file holds the first check and the order of things; `sync/proof.py` holds the others.
"""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from pipelines.errors import UnprovenSyncError
from pipelines.policy.fingerprint import UNPROVEN, WeightsId, fingerprints_hash
from pipelines.policy.manifest import Manifest, manifest_difference
from pipelines.policy.tensors import policy_fingerprints, served_tensors
from pipelines.sync.agreement import Agreement
from pipelines.sync.costs import Costs
from pipelines.sync.proof import Proof
from pipelines.sync.replica import Replica


class Receiver(Protocol):
    """What the sync needs of an engine.

    Attributes:
        weights: what it may sample from: every replica must vouch for their stamp, which is empty
            as loaded from disk. Only the sync sets them.
        replicas: its copies of the weights.
    """

    weights: WeightsId
    replicas: Sequence[Replica]

    def publish(self, proof: Proof) -> None:
        """Make the proof's weights available to every replica, and have each of them proven.

        Raises:
            UnprovenSyncError: a replica cannot be proven to hold them.
        """
        ...


@dataclass
class WeightSync:
    """Moves one policy's weights into one engine and proves it.

    Args:
        engine: the receiver; one or several replicas, each of which is proven.
        manifest: what the engine was started from, from `checkpoint_manifest`.
        agreement_sequences: token-id sequences on which both sides must agree.
        agreement_every: syncs between checks of the agreement, after the second.
        agreement_threshold: largest allowed difference of log-probabilities, nats; None follows
            the precision (`sync/agreement.py`).
        fp8: the engine gets the weights as FP8 holds them.
        dtype: the engine's type, to which weights are cast before they are fingerprinted and sent.

    Attributes:
        num_syncs: since the start, or since `restart_agreement`.
        num_parameters: sent in each sync.
    """

    engine: Receiver
    manifest: Manifest
    agreement_sequences: Sequence[Sequence[int]]
    agreement_every: int
    agreement_threshold: float | None
    fp8: bool = False
    dtype: torch.dtype = torch.float32
    num_syncs: int = 0
    num_parameters: int = 0
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        self.agreement = Agreement(
            self.agreement_sequences, self.agreement_threshold, self.rounds, self.fp8
        )

    def push(self, policy: PreTrainedModel | PeftModel, version: int) -> WeightsId:
        """Send the weights, check them, and stamp the engine with their version.

        Raises:
            UnprovenSyncError: a check failed; the engine's weights are then unproven: nothing
                can be sampled from it.
        """
        stamp = f"{version}-{uuid.uuid4().hex}"  # never to be met again
        self.engine.weights = replace(UNPROVEN, stamp=stamp)  # no replica holds it yet
        self.agreement.begin(policy)
        with self.costs.timed("checksum"):
            fingerprints, shapes = policy_fingerprints(policy, self.fp8, self.dtype)
            weights = WeightsId(version, fingerprints_hash(fingerprints), stamp)
        with self.costs.timed("coverage"):
            self.num_parameters = sum(math.prod(shape) for shape in shapes.values())
            if wrong := manifest_difference(shapes, self.manifest):
                raise UnprovenSyncError(f"the policy's tensors are not the engine's: {wrong}")
        self.num_syncs += 1
        proof = Proof(
            weights=weights,
            tensors=lambda: served_tensors(policy, self.fp8, self.dtype),
            fingerprints=fingerprints,
            agreement=self.agreement,
            agreement_due=self.num_syncs <= 2 or self.num_syncs % self.agreement_every == 0,
            costs=self.costs,
        )
        with self.costs.timed("sync"):
            self.engine.publish(proof)
        self.engine.weights = weights
        return weights

    def restart_agreement(self) -> None:
        """Check the agreement after the next two syncs, as after a start."""
        self.num_syncs = 0

    def hold_agreement(self) -> None:
        """Score the agreement's sequences with the policy as it was pushed, before it trains on.

        A replica that is lost after that gets the pushed weights again, and is held to these.
        """
        with self.costs.timed("probe"):
            self.agreement.hold()

    @property
    def rounds(self) -> bool:
        """Whether the engine computes in less than float32."""
        return self.dtype != torch.float32

    @property
    def agreement_difference(self) -> float:
        """What the last check of the agreement found, nats: see `Agreement`."""
        return self.agreement.difference

    def take_costs(self) -> dict[str, float]:
        """Seconds by part since the last call, and nanoseconds per parameter; see `Costs.take`."""
        return self.costs.take(self.num_parameters)
