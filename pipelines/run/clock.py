"""How long a run has lasted, and how long this process may go on."""

import time


class Clock:
    """Wall-clock seconds of a run, earlier processes' included, and of this process's limit.

    Args:
        limit: seconds that this process may play rounds for; 0 sets no limit.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self._started, self._before = limit, time.perf_counter(), 0.0

    def seconds(self) -> float:
        """Since the run began."""
        return self._before + self._own()

    def is_over(self) -> bool:
        """Whether this process has used up its time."""
        return bool(self.limit) and self._own() > self.limit

    def _own(self) -> float:
        return time.perf_counter() - self._started

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {"seconds": self.seconds()}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self._before = state["seconds"]
