"""One replica of the weights as the sync sees it, and the question which weights it vouches for."""

from collections.abc import Sequence
from typing import Protocol

from pipelines.errors import UnprovenSyncError
from pipelines.policy.fingerprint import NamedTensors

Payload = NamedTensors | str | dict[str, object]  # tensors, a file's path, or an invitation


class Replica(Protocol):
    """One copy of the weights inside vLLM.

    Attributes:
        label: names it in errors.
    """

    label: str

    def call(self, method: str, **kwargs: object) -> list[dict]:
        """Call a method of `SyncWorker`; one answer per worker."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of each sequence's tokens after the first (nats)."""
        ...

    def reset_prefix_cache(self) -> None:
        """Forget the keys and values of earlier weights."""
        ...


def check_stamp(replica: Replica, stamp: str) -> None:
    """Ask a replica which weights it vouches for.

    Raises:
        UnprovenSyncError: others than those last proven, or none.
    """
    for state in replica.call("sync_state"):
        if state["stamp"] != stamp:
            raise UnprovenSyncError(
                f"{replica.label} holds weights {state['stamp'] or 'as it was started'!r}, the "
                f"policy's last proven are {stamp or 'as started'!r}: it was restarted, its sync "
                "failed, or somebody else writes into it"
            )
