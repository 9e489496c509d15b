"""Weights to a server's workers over a process group of their own, without a shared folder.

The trainer is rank 0 and broadcasts one tensor after the other, over NCCL where it has an NVIDIA
accelerator and over gloo elsewhere; a server's workers join by the invitation that they are sent.
Everything has a deadline. Leaves out what is done with the tensors (`sync/receive.py`) and the
other way, a file in shared memory (`rollouts/servers/handover.py`).
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from pipelines.policy.fingerprint import NamedTensors

Layout = list[tuple[str, str, list[int]]]  # name, dtype and shape of each tensor, in order
TRAINER = 0


@dataclass(frozen=True)
class Invitation:
    """What a worker must know to join; all of it can be written as JSON.

    Attributes:
        host, port: where the trainer's store listens.
        size: the trainer and the server's workers.
        backend: "nccl" or "gloo".
        seconds: deadline of joining, and of each tensor.
        layout: what will come.
    """

    host: str
    port: int
    size: int
    backend: str
    seconds: float
    layout: Layout


class Broadcast:
    """One sending of the weights to the workers of one server, in a thread of its own.

    Args:
        tensors: gives them, from the first again at each call.
        host: the trainer's address as the server sees it.
        num_workers: of the server.
        seconds: deadline of joining, and of each tensor.
    """

    def __init__(
        self, tensors: Callable[[], NamedTensors], host: str, num_workers: int, seconds: float
    ) -> None:
        self.tensors, self.error = tensors, ""
        self._store = dist.TCPStore(
            "0.0.0.0", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=seconds)
        )
        layout = [
            (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
            for name, tensor in tensors()
        ]
        address = (host, self._store.port)
        self.invitation = Invitation(*address, num_workers + 1, _backend(), seconds, layout)
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def message(self) -> dict[str, object]:
        """What the server's workers are sent."""
        return asdict(self.invitation)

    def _send(self) -> None:
        try:
            group = _join(self._store, TRAINER, self.invitation)
            for _, tensor in self.tensors():
                group.broadcast(_as_bytes(tensor), TRAINER).wait()
        except RuntimeError as error:  # the workers report to the user what went wrong
            self.error = str(error)


def received(message: dict[str, object]) -> NamedTensors:
    """A worker's side: the tensors as they come.

    Raises:
        RuntimeError: the trainer is not there, or stopped half-way.
    """
    invitation = Invitation(**message)  # type: ignore[arg-type]
    deadline = timedelta(seconds=invitation.seconds)
    store = dist.TCPStore(invitation.host, invitation.port, is_master=False, timeout=deadline)
    group = _join(store, store.add("joined", 1), invitation)
    device = _device(invitation.backend)
    for name, dtype, shape in invitation.layout:
        tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        group.broadcast(_as_bytes(tensor), TRAINER).wait()
        yield name, tensor


def reachable_from(address: str) -> str:
    """This machine's address as a server sees it: "http://host:port", or a Unix socket's path."""
    if not address.startswith("http://"):
        return "127.0.0.1"
    host, _, port = address.removeprefix("http://").rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with suppress(OSError):  # no route: the server will say that it cannot reach us
            probe.connect((host, int(port)))  # sends nothing
        return str(probe.getsockname()[0])


def _backend() -> str:
    return "nccl" if torch.accelerator.is_available() and dist.is_nccl_available() else "gloo"


def _device(backend: str) -> torch.device:
    accelerator = torch.accelerator.current_accelerator() if backend == "nccl" else None
    return torch.device("cpu") if accelerator is None else accelerator


def _join(store: dist.Store, rank: int, invitation: Invitation) -> dist.ProcessGroup:
    """A group that is not the default one of any process, so that neither side's is disturbed."""
    own, deadline = dist.PrefixStore("weights", store), timedelta(seconds=invitation.seconds)
    if invitation.backend == "gloo":
        return dist.ProcessGroupGloo(own, rank, invitation.size, deadline)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = deadline
    return dist.ProcessGroupNCCL(own, rank, invitation.size, options)


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's memory as bytes, which every backend knows, whatever its dtype."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
