"""Counts over a run that its commits keep.

Leaves out where they are logged (`run/session.py`).
"""

from collections import Counter
from collections.abc import Sequence

from data.records import Record
from pipelines.game.gate import reject_counts


class KeptCounts(Counter[str]):
    """Counts over the run that a commit keeps."""

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return dict(self)

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.clear()
        self.update(state)


class GateCounts(KeptCounts):
    """How many samples were admitted over the run, and how many rejected for which reason."""

    def count(self, records: Sequence[Record]) -> None:
        """Add a round's."""
        self.update(admitted=sum(r.accepted for r in records), **reject_counts(records))
