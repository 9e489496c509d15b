"""How new weights reach a role's servers: in a file, or over a process group.

Leaves out the process group itself (`sync/broadcast.py`) and the checks (`sync/proof.py`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from pipelines.errors import UserError
from pipelines.policy.fingerprint import NamedTensors
from pipelines.rollouts.servers.replica import Server
from pipelines.settings.tables import RolloutTable
from pipelines.sync.broadcast import Broadcast, reachable_from
from pipelines.sync.replica import Payload


class Handover:
    """Keeps the weights that were published last, for every server that needs them.

    Args:
        folder: private to the engine; a file of weights lies in it.
        servers: those that will read them.
        settings: the `[rollout]` table.

    Attributes:
        broadcasts: whether weights go over a process group.
    """

    def __init__(self, folder: Path, servers: Sequence[Server], settings: RolloutTable) -> None:
        self.file, self.settings = folder / "weights.safetensors", settings
        far = settings.weights_directory is None and any(server.is_remote for server in servers)
        self.broadcasts = far if settings.transfer is None else settings.transfer == "broadcast"
        self._tensors: Callable[[], NamedTensors] | None = None

    def publish(self, tensors: Callable[[], NamedTensors]) -> None:
        """Make these weights the ones that servers are given.

        Raises:
            UserError: there is no room for them.
        """
        if self.broadcasts:
            self._tensors = _kept(tensors) if self.settings.max_staleness else tensors
            return
        whole = {name: tensor.detach().contiguous() for name, tensor in tensors()}
        try:
            save_file(whole, self.file)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the weights cannot be written to {self.file} ({error}): make room there, or "
                "set rollout.weights_directory"
            ) from None

    def payload(self, server: Server) -> Payload:
        """The file's path, or an invitation to a broadcast that starts now."""
        if not self.broadcasts:
            return str(self.file)
        assert self._tensors is not None, "publish() comes first"
        host, deadline = reachable_from(server.client.address), self.settings.liveness_seconds
        num_workers = len(server.call("sync_state"))
        return Broadcast(self._tensors, host, num_workers, deadline).message()


def _kept(tensors: Callable[[], NamedTensors]) -> Callable[[], NamedTensors]:
    """A copy, for a server that is lost while the policy's own weights are being updated."""
    copies = [(name, tensor.detach().clone()) for name, tensor in tensors()]
    return lambda: iter(copies)
