"""An engine as the sync sees it: replicas of the weights, each of which is proven."""

from collections.abc import Callable, Sequence
from typing import Protocol

from pipelines.errors import UnprovenSyncError
from pipelines.policy.fingerprint import NamedTensors
from pipelines.rollouts.engine import Engine

Payload = NamedTensors | str | dict[str, object]  # tensors, a file's path, or an invitation


class Replica(Protocol):
    """One copy of the weights inside vLLM, as the sync sees it.

    Attributes:
        label: names it in errors.
    """

    label: str

    def call(self, method: str, **kwargs: object) -> list[dict]:
        """Call a method of `worker.SyncWorker`; one answer a worker."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]: ...

    def reset_prefix_cache(self) -> None: ...


Prove = Callable[[Replica, bool], None]


class SyncedEngine(Engine, Protocol):
    """An engine whose weights are sent to it.

    Attributes:
        replicas: each must vouch for the stamp of `weights`, which is empty as loaded from disk.
    """

    replicas: Sequence[Replica]

    def adopt(self, stamp: str, tensors: Callable[[], NamedTensors], prove: Prove) -> None:
        """Make new weights available to the replicas, and have each of them proven.

        Args:
            stamp: names the weights, never to be used again.
            tensors: the policy's, from the first again at each call.
            prove: given a replica, and whether it had been lost, loads and checks its weights.
        """
        ...

    def payload(self, replica: Replica) -> Payload:
        """What `SyncWorker` is given to read the published weights from."""
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
