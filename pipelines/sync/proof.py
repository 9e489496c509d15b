"""One sending of the weights, and the checks that show that a replica holds them.

Whoever has lost a replica gives it the weights again and proves it by the same `Proof`. Leaves out
the checks before anything is sent (`sync/push.py`) and those inside vLLM (`sync/receive.py`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipelines.errors import UnprovenSyncError
from pipelines.policy.fingerprint import (
    Fingerprints,
    NamedTensors,
    WeightsId,
    fingerprints_difference,
)
from pipelines.sync.agreement import Agreement
from pipelines.sync.costs import Costs
from pipelines.sync.replica import Payload, Replica, check_stamp

CANARY_TOKENS = 8
NUM_SUSPECTS = 4


@dataclass(frozen=True)
class Proof:
    """One sending of the weights to every replica of an engine.

    Attributes:
        weights: what a replica holds that was proven; its stamp is of this sending only.
        tensors: the policy's as the engine gets them, from the first again at each call.
        fingerprints: theirs.
        agreement: with the policy that is sent.
        agreement_due: whether it is checked; in a replica that was lost it always is.
        costs: where the checks' seconds are added.
    """

    weights: WeightsId
    tensors: Callable[[], NamedTensors]
    fingerprints: Fingerprints
    agreement: Agreement
    agreement_due: bool
    costs: Costs

    def prove(self, replica: Replica, payload: Callable[[], Payload], lost: bool) -> None:
        """Load a replica's weights, check them, and stamp the replica.

        Args:
            replica: one that does not hold these weights.
            payload: gives what the replica's workers read the weights from, anew at each call.
            lost: it held these weights before.

        Raises:
            UnprovenSyncError: a check failed; the replica stays without a stamp.
        """
        with self.costs.timed("transfer"):
            self._receive(replica, payload())
        with self.costs.timed("canary"):
            self._canary(replica)
        if lost or self.agreement_due:
            with self.costs.timed("probe"):
                self.agreement.check(replica, partial(_suspects, replica, payload))
        stamp = self.weights.stamp
        replica.call("sync_certify", stamp=stamp)
        check_stamp(replica, stamp)  # refused where others' weights came in between

    def _receive(self, replica: Replica, payload: Payload) -> None:
        for report in replica.call("sync_receive", weights=payload, stamp=self.weights.stamp):
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
        scores = replica.score([self.agreement.sequences[0][:CANARY_TOKENS]])[0]
        if not all(map(math.isfinite, scores)):
            raise UnprovenSyncError(
                f"{replica.label} did not update a part of its packed tensors: its "
                f"log-probabilities are {scores}"
            )


def _suspects(replica: Replica, payload: Callable[[], Payload]) -> list[str]:
    """The replica's parameters furthest from what was sent, where shapes allow it."""
    found = replica.call("sync_furthest", weights=payload(), num=NUM_SUSPECTS)[0]
    return [f"{name} (max difference {d:.2g})" for d, name in found if d > 0]
