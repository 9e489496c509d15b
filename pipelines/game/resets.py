"""Resets: sound beginnings of failed solutions as prompts of later blocks.

The text before a flagged step is a state that the learner really comes to and fails from. A group
of continuations from there is verified like any other, and only the continuation is learned from:
whoever chose the state, the objective stays the verifier's (SRPO, arXiv:2605.25507). States that
succeed about half of the time teach most; untried ones are taken at `UNTRIED`. Leaves out who
flags (`game/pointing.py`).
"""

import random
from collections.abc import Sequence
from dataclasses import asdict

from data.records import Generator, Task
from pipelines.game.bout import Bout, Start
from pipelines.settings.pointing_table import PointingTable

UNTRIED = 0.1  # the weight of a state whose success nobody has tried; tried ones have 4 p (1 - p)


class Resets:
    """The states that wait to be continued.

    Args:
        table: their share of a block, and how old they may be.
        seed: the run's.

    Attributes:
        waiting: each with the share of continuations from it that passed; None where untried.
    """

    def __init__(self, table: PointingTable, seed: int) -> None:
        self.table, self.seed = table, seed
        self.waiting: list[tuple[Start, float | None]] = []

    def starts(self, tasks: Sequence[Task], round_: int, version: int) -> list[Start]:
        """A block's starts: the tasks, a share of them replaced by waiting states.

        Args:
            tasks: one per group.
            round_: part of the seed.
            version: of the learner's weights, by which waiting states age.
        """
        oldest = version - self.table.reset_max_age
        self.waiting = [pair for pair in self.waiting if pair[0].version >= oldest]
        num = min(round(self.table.reset_share * len(tasks)), len(self.waiting))
        starts = [Start(task) for task in tasks]
        for state, place in zip(self._take(num, round_), _spread(num, len(tasks)), strict=True):
            starts[place] = state
        return starts

    def _take(self, num: int, round_: int) -> list[Start]:
        """Take states by weight, without replacement."""
        rng = random.Random(f"{self.seed}/resets/{round_}")
        keys = [rng.random() ** (1 / _weight(value)) for _, value in self.waiting]
        order = sorted(range(len(keys)), key=keys.__getitem__, reverse=True)
        taken = set(order[:num])
        states = [self.waiting[place][0] for place in order[:num]]
        self.waiting = [pair for i, pair in enumerate(self.waiting) if i not in taken]
        return states

    def collect(self, bouts: Sequence[Bout], version: int) -> None:
        """Note the states before the steps that were pointed at, each once."""
        known = {(start.task.id, start.prefix) for start, _ in self.waiting}
        for bout in bouts:
            pointing = bout.pointing
            if pointing is None or pointing.status == "refuted" or pointing.index == 0:
                continue
            prefix = bout.solution.text[: bout.solution.steps[pointing.index].start]
            if (bout.task.id, prefix) not in known and pointing.value_before != 1:
                known.add((bout.task.id, prefix))
                self.waiting.append((Start(bout.task, prefix, version), pointing.value_before))

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {"waiting": [[asdict(start), value] for start, value in self.waiting]}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.waiting = [(_start(row), value) for row, value in state["waiting"]]


def _weight(value: float | None) -> float:
    return UNTRIED if value is None else max(4 * value * (1 - value), UNTRIED / 10)


def _spread(num: int, of: int) -> list[int]:
    """`num` places of `of`, evenly spread, so that every batch of a block gets its share."""
    return [(2 * i + 1) * of // (2 * num) for i in range(num)]


def _start(row: dict) -> Start:
    task = row["task"]
    generator = Generator(**task["generator"])
    return Start(Task(**{**task, "generator": generator}), row["prefix"], row["version"])
