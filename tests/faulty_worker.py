"""A sync worker that can be told to go wrong, inside a real engine or a server's process."""

from pipelines import worker
from pipelines.worker import NamedTensors, SyncWorker

BIAS = "e_score_correction_bias"
# By fault: what the sync says of it.
FAULTS = {
    "skipped": "did not update",
    "swapped": "and policy differ by",
    "stale bias": f"suspect .*{BIAS}",
    "unpacked": "and policy differ by",
}


class FaultyWorker(SyncWorker):
    """What arrives is right, and fingerprinted; what the engine makes of it is not."""

    sync_fault = ""

    def sync_break(self, fault: str) -> None:
        """Choose the fault of all syncs to come, one of `FAULTS`; none where empty."""
        self.sync_fault = fault

    def sync_receive(self, weights: NamedTensors | str) -> dict[str, object]:
        if self.sync_fault != "unpacked":
            return super().sync_receive(weights)
        repack = worker._repack_cpu_experts
        worker._repack_cpu_experts = lambda module: None
        try:
            return super().sync_receive(weights)
        finally:
            worker._repack_cpu_experts = repack

    def sync_load(self, tensors: NamedTensors) -> None:
        every = [(name, tensor.clone()) for name, tensor in tensors]
        super().sync_load(_corrupted(self.sync_fault, every))


def _corrupted(fault: str, tensors: list) -> NamedTensors:
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
