"""Resets: sound beginnings of failed solutions as prompts of later blocks.

The text before a flagged step is a state that the learner really comes to and fails from. A group
of continuations from there is verified like any other, and only the continuation is learned from:
whoever chose the state, the objective stays the verifier's (SRPO, arXiv:2605.25507). States that
succeed about half of the time teach most and are taken first; the success of an untried one is
guessed from the pass rate of whole solutions. Leaves out who flags (`game/pointing.py`).
"""

import random
from collections.abc import Sequence
from dataclasses import asdict

from critic.value_drop import expected_value
from data.records import Generator, Task
from pipelines.game.bout import Bout, Start
from pipelines.game.pointing import pass_rate
from pipelines.settings.pointing_table import PointingTable

LEAST_WEIGHT = 0.01


class Resets:
    """The states that wait to be continued.

    Args:
        table: their share of a block, and how old they may be.
        seed: the run's.

    Attributes:
        waiting: each with the chance that a continuation from it passes, counted or guessed.
    """

    def __init__(self, table: PointingTable, seed: int) -> None:
        self.table, self.seed = table, seed
        self.waiting: list[tuple[Start, float]] = []

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
        rate = pass_rate(bout.verdict for bout in bouts if not bout.prefix)
        for bout in bouts:
            pointing = bout.pointing
            if pointing is None or pointing.status == "refuted" or pointing.index == 0:
                continue
            prefix = bout.solution.text[: bout.solution.steps[pointing.index].start]
            value = pointing.value_before
            if value is None:
                value = expected_value(rate, len(prefix) / len(bout.solution.text))
            if (bout.task.id, prefix) not in known:
                known.add((bout.task.id, prefix))
                self.waiting.append((Start(bout.task, prefix, version), value))

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {"waiting": [[asdict(start), value] for start, value in self.waiting]}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.waiting = [(_start(row), value) for row, value in state["waiting"]]


def _weight(value: float) -> float:
    return max(4 * value * (1 - value), LEAST_WEIGHT)


def _spread(num: int, of: int) -> list[int]:
    """`num` places of `of`, evenly spread, so that every batch of a block gets its share."""
    return [(2 * i + 1) * of // (2 * num) for i in range(num)]


def _start(row: dict) -> Start:
    task = row["task"]
    generator = Generator(**task["generator"])
    return Start(Task(**{**task, "generator": generator}), row["prefix"], row["version"])
