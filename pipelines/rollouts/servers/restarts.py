"""How often a role's servers have been restarted, and when that is too often."""

import threading

from pipelines.errors import EngineLostError


class Restarts:
    """Counts restarts; servers that are proven side by side may be lost at once.

    Args:
        most_in_a_row: more without a completion in between end the run (`rollout.max_restarts`).

    Attributes:
        num: since the start.
    """

    def __init__(self, most_in_a_row: int) -> None:
        self.most_in_a_row, self.num, self._num_in_a_row = most_in_a_row, 0, 0
        self._lock = threading.Lock()

    def count(self, label: str, reason: str) -> None:
        """Note that a server is about to be restarted.

        Raises:
            EngineLostError: restarting does not help.
        """
        with self._lock:
            self.num += 1
            self._num_in_a_row += 1
            in_a_row = self._num_in_a_row
        if in_a_row > self.most_in_a_row:
            raise EngineLostError(
                f"{label} was lost again after rollout.max_restarts = {self.most_in_a_row} "
                f"restarts without one completion: {reason}"
            )

    def helped(self) -> None:
        """Begin to count anew: a completion was proven."""
        with self._lock:
            self._num_in_a_row = 0
