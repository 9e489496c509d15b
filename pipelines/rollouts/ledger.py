"""The fate of every group of completions, one JSON line per event, in `RUN/ledger/rank_N.jsonl`.

    issued -> [reissued ...] -> completed -> used | discarded -> [rolled_back]

A group is the completions of one prompt that are drawn together. Its number is its own for the
whole run, resumed or not, so that none can be lost or used twice unnoticed: `balance` refuses a
ledger in which a group ended twice, ended without a start, or was used without being complete.
Groups that were used in a round which a kill took back are rolled back, and drawn anew under other
numbers. Leaves out when groups are issued and used (`rollouts/sampler.py`, `training/trainer.py`).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

ENDS = ("used", "discarded")
FATES = ("issued", "reissued", "completed", *ENDS, "rolled_back")


class Ledger:
    """Appends to one file and knows which groups are open; one process writes it.

    Args:
        path: the file; made if absent, continued if not.

    Attributes:
        round: the round that groups are issued in.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.round = path, 0
        self._open: set[int] = set()
        self._next = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_cut_line(path)
        for row in read(path):
            self._note(str(row["fate"]), row["groups"])

    def issue(self, num: int, **facts: object) -> list[int]:
        """Open `num` groups; returns their numbers."""
        groups = list(range(self._next, self._next + num))
        self.record("issued", groups, round=self.round, **facts)
        return groups

    def record(self, fate: str, groups: Iterable[int], **facts: object) -> None:
        """Write what happened to some groups; nothing where there are none."""
        groups = list(groups)
        if not groups:
            return
        assert fate in FATES, fate
        with self.path.open("a") as stream:
            stream.write(json.dumps({"fate": fate, "groups": groups, **facts}) + "\n")
        self._note(fate, groups)

    def discard_open(self, reason: str) -> None:
        """End every group that is still open: nothing will be made of it any more."""
        self.record("discarded", sorted(self._open), reason=reason)

    def take_back(self, round_: int) -> None:
        """Undo every round from this one on: a kill lost them, and they are played again."""
        self.discard_open("the run was killed before they were used")
        rounds: dict[int, int] = {}
        used: set[int] = set()
        for row in read(self.path):
            if row["fate"] == "issued":
                rounds |= dict.fromkeys(row["groups"], row["round"])
            elif row["fate"] == "used":
                used |= set(row["groups"])
            elif row["fate"] == "rolled_back":
                used -= set(row["groups"])
        undone = sorted(group for group in used if rounds[group] >= round_)
        self.record("rolled_back", undone, reason=f"round {round_} was not committed")

    def _note(self, fate: str, groups: list[int]) -> None:
        if fate == "issued":
            self._open |= set(groups)
            self._next = max(groups) + 1
        elif fate in ENDS:
            self._open -= set(groups)


def read(path: Path) -> Iterator[dict]:
    """The ledger's rows, whole lines only."""
    for line in path.read_text().split("\n")[:-1] if path.exists() else []:
        yield json.loads(line)


def _drop_cut_line(path: Path) -> None:
    """A kill may have cut the last line short; what is appended next must not join it."""
    if path.exists():
        with path.open("rb+") as stream:
            stream.truncate(stream.read().rfind(b"\n") + 1)


def balance(path: Path) -> dict[str, int]:
    """How many groups met each fate; "open" are those that met no end, 0 after a run.

    Raises:
        ValueError: a group ended twice, or was used without being issued and completed.
    """
    groups: dict[str, list[int]] = {fate: [] for fate in FATES}
    for row in read(path):
        groups[str(row["fate"])] += row["groups"]
    counts = {fate: len(numbers) for fate, numbers in groups.items()}
    issued, ended = set(groups["issued"]), [*groups["used"], *groups["discarded"]]
    twice = len(ended) - len(set(ended)) + len(groups["issued"]) - len(issued)
    unknown = set(ended) - issued
    hasty = set(groups["used"]) - set(groups["completed"])
    if twice or unknown or hasty:
        raise ValueError(
            f"{path} does not balance: {twice} groups twice, {len(unknown)} never issued, "
            f"{len(hasty)} used without being complete"
        )
    return counts | {"open": len(issued - set(ended))}
