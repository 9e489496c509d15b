"""A sync worker that can be told to go wrong, inside a real engine or a server's process."""

import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.policy.fingerprint import NamedTensors
from pipelines.rollouts.recorder import pack, unpack
from pipelines.rollouts.worker import RolloutWorker
from pipelines.sync import receive

if TYPE_CHECKING:  # a server's worker does not need it
    from pipelines.rollouts.servers.replica import Server

BIAS = "e_score_correction_bias"
# By fault: what the sync says of it.
FAULTS = {
    "skipped": "did not update",
    "swapped": "and policy differ by",
    "stale bias": f"suspect .*{BIAS}",
    "unpacked": "and policy differ by",
}


class FaultyWorker(RolloutWorker):
    """What arrives is right, and fingerprinted; what the engine makes of it is not."""

    sync_fault = ""

    def sync_break(self, fault: str) -> None:
        """Choose the fault to come, one of `FAULTS`, "dead" or of routes; none where empty.

        Of routes: "shifted routes", "swapped routes".
        """
        self.sync_fault = fault

    def sync_die_after(self, passes: int) -> None:
        """Die at the model's first pass after so many."""
        left = iter(range(passes))

        def count(*_: object) -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        module: torch.nn.Module = self.get_model()  # type: ignore[attr-defined]
        module.register_forward_pre_hook(count)

    def take_routes(self, requests: Sequence[str]) -> dict[str, object]:
        answer = super().take_routes(requests)
        fault = self.sync_fault
        told: list = answer["routes"]  # type: ignore[assignment]
        for one in told if fault == "shifted routes" else ():
            one |= {"tokens": pack(np.roll(unpack(one["tokens"]), 1))}
        if fault == "swapped routes":
            told.append(told.pop(0))
        return answer

    def sync_receive(self, weights: NamedTensors | str, stamp: str) -> dict[str, object]:
        if self.sync_fault != "unpacked":
            return super().sync_receive(weights, stamp)
        repack = receive._repack_cpu_experts
        receive._repack_cpu_experts = lambda module: None
        try:
            return super().sync_receive(weights, stamp)
        finally:
            receive._repack_cpu_experts = repack

    def sync_load(self, tensors: NamedTensors) -> None:
        if self.sync_fault == "dead":
            os.kill(os.getpid(), signal.SIGKILL)
        every = [(name, tensor.clone()) for name, tensor in tensors]
        super().sync_load(corrupted(self.sync_fault, every))


def break_all(replicas: "Sequence[Server]", fault: str) -> None:
    """Choose the fault of every server: which of them answers what depends on their speed."""
    for replica in replicas:
        replica.call("sync_break", fault=fault)


def corrupted(fault: str, tensors: list) -> NamedTensors:
    """What a fault makes of the tensors that arrived."""
    for name, tensor in tensors:
        if fault == "skipped" and name.endswith("experts.3.down_proj.weight"):
            continue
        if fault == "swapped" and ".experts.0." in name:
            name = name.replace(".experts.0.", ".experts.1.")
        elif fault == "swapped" and ".experts.1." in name:
            name = name.replace(".experts.1.", ".experts.0.")
        if fault == "stale bias" and name.endswith(BIAS):
            tensor = tensor - 0.3
            tensor[0] += 0.6
        yield name, tensor
