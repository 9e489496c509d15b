"""Verified weight sync: the policy's tensors into every engine that samples for it, failing closed.

One naming serves save and sync: `model.checkpoint.named_checkpoint_tensors` for our model, merged
names for LoRA, plain HF names otherwise. Multi-token layers are not sent: no engine here holds
them. The checks, each of which stops the run:
  manifest   the names and shapes sent are exactly those of the checkpoint the engine started from;
  received   the engine's fingerprint of each tensor as it arrived is the policy's own;
  stale      the engine replaced every tensor it holds, packed copies too (`sync/receive.py`);
  canary     the engine's log-probabilities of one short sequence are finite (a NaN may be packed);
  probe      after syncs 1, 2 and every k-th, engine and policy must agree on log-probabilities;
  stamp      only then is the engine stamped, and every generation asks for that stamp.
"""

import math
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from peft import PeftModel
from transformers import PreTrainedModel

from pipelines.errors import UnprovenSyncError
from pipelines.policy.fingerprint import (
    UNPROVEN,
    Fingerprints,
    WeightsId,
    fingerprints_difference,
    fingerprints_hash,
)
from pipelines.policy.manifest import Manifest, manifest_difference
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import policy_fingerprints, served_tensors
from pipelines.sync.replica import Replica, SyncedEngine, check_stamp

CANARY_TOKENS = 8
NUM_SUSPECTS = 4


@dataclass
class WeightSync:
    """Moves one policy's weights into one engine and proves it.

    Args:
        engine: the receiver; one or several replicas, each of which is proven.
        manifest: what the engine was started from, from `checkpoint_manifest`.
        probe_sequences: token-id sequences on which both sides must agree.
        probe_every: syncs between probes, after the second.
        probe_threshold: largest allowed difference of log-probabilities, nats.
        fp8: the engine gets the weights as FP8 holds them.

    Attributes:
        probe_difference: the largest difference that the last probe found, nats.
    """

    engine: SyncedEngine
    manifest: Manifest
    probe_sequences: Sequence[Sequence[int]]
    probe_every: int
    probe_threshold: float
    fp8: bool = False
    num_syncs: int = 0
    probe_difference: float = 0.0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_parameters: int = 0

    def __post_init__(self) -> None:
        self._lock, self._told = threading.Lock(), defaultdict[str, float](float)
        self._reference: list[list[float]] = []
        self.fingerprints: Fingerprints = {}

    def push(self, policy: PreTrainedModel | PeftModel, version: int) -> WeightsId:
        """Send the weights, check them, and stamp the engine with their version.

        Raises:
            UnprovenSyncError: a check failed; the engine's weights are then unproven: nothing
                can be sampled from it.
        """
        stamp = f"{version}-{uuid.uuid4().hex}"  # never to be met again
        self.engine.weights = replace(UNPROVEN, stamp=stamp)  # no replica holds it yet
        self.policy, self._reference = policy, []
        with self._timed("checksum"):
            self.fingerprints, shapes = policy_fingerprints(policy, self.fp8)
            weights = WeightsId(version, fingerprints_hash(self.fingerprints), stamp)
        with self._timed("coverage"):
            self.num_parameters = sum(math.prod(shape) for shape in shapes.values())
            if wrong := manifest_difference(shapes, self.manifest):
                raise UnprovenSyncError(f"the policy's tensors are not the engine's: {wrong}")
        self.num_syncs += 1
        with self._timed("sync"):
            self.engine.adopt(stamp, lambda: served_tensors(policy, self.fp8), self.prove)
        self.engine.weights = weights
        return weights

    def restart_probes(self) -> None:
        """Probe the next two syncs, as after a start: the policy was restored."""
        self.num_syncs = 0

    def prove(self, replica: Replica, lost: bool) -> None:
        """Load a replica's weights and check them; one that had been `lost` is always probed.

        Raises:
            UnprovenSyncError: a check failed; the replica stays without a stamp.
        """
        with self._timed("transfer"):
            self._receive(replica)
        with self._timed("canary"):
            self._canary(replica)
        if lost or self.num_syncs <= 2 or self.num_syncs % self.probe_every == 0:
            with self._timed("probe"):
                self.probe(self.policy, [replica])
        stamp = self.engine.weights.stamp
        replica.call("sync_certify", stamp=stamp)
        check_stamp(replica, stamp)  # refused where others' weights came in between

    def _receive(self, replica: Replica) -> None:
        sent = {"weights": self.engine.payload(replica), "stamp": self.engine.weights.stamp}
        for report in replica.call("sync_receive", **sent):
            wrong = fingerprints_difference(self.fingerprints, report["received"])
            if report["error"] or wrong:
                raise UnprovenSyncError(
                    f"{replica.label} received other bytes than were sent: {wrong or 'none'} "
                    f"{report['error']}"
                )
            if stale := report["stale"]:
                raise UnprovenSyncError(
                    f"{replica.label} did not update {len(stale)} tensors, first {stale[:4]}"
                )
        replica.reset_prefix_cache()

    def _canary(self, replica: Replica) -> None:
        scores = replica.score([self.probe_sequences[0][:CANARY_TOKENS]])[0]
        if not all(map(math.isfinite, scores)):
            raise UnprovenSyncError(
                f"{replica.label} did not update a part of its packed tensors: its "
                f"log-probabilities are {scores}"
            )

    def probe(self, policy: PreTrainedModel | PeftModel, replicas: Sequence[Replica] = ()) -> float:
        """Largest difference of log-probabilities between engine and policy (nats).

        Raises:
            UnprovenSyncError: it exceeds the threshold; names the place that differs most.
        """
        self._score_policy(policy)
        worst = 0.0
        for replica in replicas or self.engine.replicas:
            theirs = replica.score(self.probe_sequences)
            difference, sequence, position = largest_difference(self._reference, theirs)
            worst = max(worst, difference)
            if not difference <= self.probe_threshold:
                raise UnprovenSyncError(
                    f"log-probability probe after sync {self.num_syncs}: {replica.label} and "
                    f"policy differ by {difference:.3g} nats (rollout.probe_threshold = "
                    f"{self.probe_threshold:g}), most at token {position} of probe {sequence}; "
                    f"suspect {', '.join(self.suspects(replica)) or 'none named'}{self._advice}"
                )
        self.probe_difference = worst
        return worst

    def hold_probes(self) -> None:
        """Score the probes with the policy as it was pushed, before it trains on.

        A replica that is lost after that gets the pushed weights again, and is held to these.
        """
        with self._timed("probe"):
            self._score_policy(self.policy)

    def _score_policy(self, policy: PreTrainedModel | PeftModel) -> None:
        with self._lock:  # replicas are proven side by side
            self._reference = self._reference or policy_logprobs(policy, self.probe_sequences)

    @property
    def _advice(self) -> str:
        if not self.fp8:
            return ""
        return (
            '; with rollout.precision = "fp8" the policy must multiply in FP8 (train_in_fp8) or '
            "lie on its grid (snap_to_grid), and on CPU the threshold must leave room for "
            "activations, which only the policy quantises there"
        )

    def suspects(self, replica: Replica) -> list[str]:
        """The replica's parameters furthest from what was sent, where shapes allow it."""
        weights = self.engine.payload(replica)
        found = replica.call("sync_furthest", weights=weights, num=NUM_SUSPECTS)[0]
        return [f"{name} (max difference {d:.2g})" for d, name in found if d > 0]

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        with self._lock:
            self.seconds[name] += time.perf_counter() - start

    def take_costs(self) -> dict[str, float]:
        """Seconds by part since the last call, and nanoseconds a parameter of moving and proving.

        "sync" is all that a rollout waits for after "checksum" and "coverage". The others add up
        over replicas: "transfer" is reload and repack with the receiver's checks; proving is what
        comes on top, fingerprints, name coverage, canary and probe.
        """
        spent = {name: total - self._told[name] for name, total in self.seconds.items()}
        self._told = defaultdict(float, self.seconds)
        proving = sum(spent.get(n, 0.0) for n in ("checksum", "coverage", "canary", "probe"))
        scale = 1e9 / max(1, self.num_parameters)
        return {name: round(seconds, 6) for name, seconds in spent.items()} | {
            "transfer_ns_per_parameter": spent.get("transfer", 0.0) * scale,
            "proof_ns_per_parameter": proving * scale,
        }


def largest_difference(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> tuple[float, int, int]:
    """Where two sets of log-probabilities differ most: nats, sequence, token position.

    A difference that is not a number counts as infinite: NaN compares as neither larger nor
    smaller, and would pass for agreement.
    """
    return max(
        (math.inf if math.isnan(a - b) else abs(a - b), sequence, position + 1)
        for sequence, (row_a, row_b) in enumerate(zip(ours, theirs, strict=True))
        for position, (a, b) in enumerate(zip(row_a, row_b, strict=True))
    )
