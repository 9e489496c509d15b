"""What the weight sync costs, in seconds by part."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

PROOFS = ("checksum", "coverage", "canary", "probe")


class Costs:
    """Adds up seconds by part; replicas that are proven side by side may add at once.

    Attributes:
        seconds: by part, since the start.
    """

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)
        self._taken = defaultdict[str, float](float)
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add what happens within to a part's seconds."""
        start = time.perf_counter()
        yield
        with self._lock:
            self.seconds[part] += time.perf_counter() - start

    def take(self, num_parameters: int) -> dict[str, float]:
        """Seconds by part since the last call, and nanoseconds per parameter.

        "sync" is all that a rollout waits for after "checksum" and "coverage". The others add up
        over replicas: "transfer" is reload and repack with the receiver's checks; proving is what
        comes on top, `PROOFS`, where "probe" is the agreement.
        """
        spent = {part: total - self._taken[part] for part, total in self.seconds.items()}
        self._taken = defaultdict(float, self.seconds)
        scale = 1e9 / max(1, num_parameters)
        return {part: round(seconds, 6) for part, seconds in spent.items()} | {
            "transfer_ns_per_parameter": spent.get("transfer", 0.0) * scale,
            "proof_ns_per_parameter": sum(spent.get(part, 0.0) for part in PROOFS) * scale,
        }
