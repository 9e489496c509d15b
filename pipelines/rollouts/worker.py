"""The class that vLLM mixes into its worker, in whatever process that is.

It adds the routes of what the engine samples (`rollouts/recorder.py`) to the receiving half of the
weight sync (`sync/receive.py`). vLLM imports this file in a process of its own.
"""

from collections.abc import Sequence

from pipelines.rollouts.recorder import RouteRecorder
from pipelines.sync.receive import SyncWorker


class RolloutWorker(SyncWorker):
    """Methods that vLLM's worker gains; none of their names may be one of its own."""

    route_recorder: RouteRecorder | None = None

    def watch_routes(self) -> None:
        """Record the routes of what is sampled from here on; the model must have experts."""
        if self.route_recorder is None:
            self.route_recorder = RouteRecorder(self.model_runner)  # type: ignore[attr-defined]
        self.route_recorder.start()

    def take_routes(self, requests: Sequence[str]) -> dict[str, object]:
        """Stop recording; "routes" are those of the requests, packed, and nothing else is kept."""
        assert self.route_recorder is not None, "watch_routes comes first"
        return {"routes": self.route_recorder.take(requests)}
