"""Resets: beginnings of the learner's solutions as prompts of later blocks.

    the text before a flagged step    a state that the learner comes to, and fails from
    any beginning of one that passed  a state that success is known to follow from

A group of continuations from there is verified like any other, and only the continuation is learned
from: whoever chose the state, the objective stays the verifier's (SRPO, arXiv:2605.25507). States
that succeed about half of the time teach most and are taken first, so that the learner masters the
ends of solutions before their beginnings (reverse curriculum, arXiv:2402.05808); the success of an
untried one is guessed from the pass rate of whole solutions. Leaves out who flags
(`game/pointing.py`).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict

from critic.value_drop import expected_value
from data.records import Generator, Task
from pipelines.game.bout import Bout, Start
from pipelines.game.pointing import pass_rate
from pipelines.settings.pointing_table import PointingTable

LEAST_WEIGHT = 1e-4  # so that a state without any success can still be drawn
MAX_WAITING = 4000  # states, which every commit saves


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
        for state, place in zip(self._take(num, round_), spread(num, len(tasks)), strict=True):
            starts[place] = state
        return starts

    def _take(self, num: int, round_: int) -> list[Start]:
        """Take states by weight, without replacement."""
        rng = random.Random(f"{self.seed}/resets/{round_}")
        weights = [_weight(value, self.table.reset_focus) for _, value in self.waiting]
        keys = [rng.random() ** (1 / weight) for weight in weights]
        order = sorted(range(len(keys)), key=keys.__getitem__, reverse=True)
        taken = set(order[:num])
        states = [self.waiting[place][0] for place in order[:num]]
        self.waiting = [pair for i, pair in enumerate(self.waiting) if i not in taken]
        return states

    def collect(
        self,
        bouts: Sequence[Bout],
        version: int,
        first_bad: Callable[[Bout], int | None] = lambda bout: None,
    ) -> None:
        """Note the states that the bouts came to, each once.

        Args:
            bouts: a round's.
            version: of the weights that wrote them.
            first_bad: the first wrong step of one that passed, where code may say: what begins
                behind it could only pass by a second slip, and would teach that.
        """
        if self.table.reset_share == 0:
            return
        known = {(start.task.id, start.prefix) for start, _ in self.waiting}
        rate = pass_rate(bout.verdict for bout in bouts if not bout.prefix)
        for bout in bouts:
            for index, value in _states(bout, first_bad):
                prefix = bout.solution.text[: bout.solution.steps[index].start]
                if (bout.task.id, prefix) in known:
                    continue
                if value is None:
                    value = expected_value(rate, len(prefix) / len(bout.solution.text))
                known.add((bout.task.id, prefix))
                self.waiting.append((Start(bout.task, prefix, version), value))
        self.waiting = self.waiting[-MAX_WAITING:]

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {"waiting": [[asdict(start), value] for start, value in self.waiting]}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.waiting = [(_start(row), value) for row, value in state["waiting"]]


def _states(bout: Bout, first_bad: Callable[[Bout], int | None]) -> list[tuple[int, float | None]]:
    """The steps that a later group may begin before, each with the counted chance to pass.

    Those of a solution that begins with the reset itself are left out: they were there before. So
    is a place that chance chose in a failed one, unless something passed from there: the flaw may
    stand before it, and then nothing can pass.
    """
    steps, pointing = bout.solution.steps, bout.pointing
    if bout.verdict.passed:
        given, wrong = len(bout.prefix), first_bad(bout)
        last = len(steps) if wrong is None else wrong + 1
        return [(i, None) for i, step in enumerate(steps[:last]) if i and step.start > given]
    if pointing is None or pointing.status == "refuted" or pointing.index == 0:
        return []
    if (pointing.source, pointing.status) == ("chance", "unknown") and not pointing.value_before:
        return []
    return [(pointing.index, pointing.value_before)]


def _weight(value: float, focus: float) -> float:
    """1 where half of the continuations should pass; the less the farther from that, by `focus`.

    With a focus of 1 the many states that hardly ever succeed would crowd out the few that teach.
    """
    return max((4 * value * (1 - value)) ** focus, LEAST_WEIGHT)


def spread(num: int, of: int) -> list[int]:
    """`num` places of `of`, evenly spread, so that every batch of a block gets its share."""
    return [(2 * i + 1) * of // (2 * num) for i in range(num)]


def _start(row: dict) -> Start:
    task = row["task"]
    generator = Generator(**task["generator"])
    return Start(Task(**{**task, "generator": generator}), row["prefix"], row["version"])
