"""What a source of tasks offers, and how much can be drawn of one.

Leaves out the sources (`data/sources.py` makes them).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from data.errors import UserError
from data.records import Split, Task


class TaskSource(Protocol):
    """Anything that the loop can draw tasks from."""

    def draw(
        self, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
    ) -> list[Task]:
        """Return `num` tasks of `split` with distinct ids, the same for the same arguments.

        Raises:
            UserError: there are not that many.
        """
        ...

    def draw_round(
        self, num: int, seed: int, exclude: frozenset[str], played: Mapping[str, int]
    ) -> list[Task]:
        """Return the training tasks of a round, the same for the same arguments.

        Args:
            num: how many. A list that has fewer gives some of them again.
            seed: the round's.
            exclude: ids of tasks to leave out.
            played: how often a listed task was played, by id; those played least come first.

        Raises:
            UserError: there are none, or too few where tasks are made on demand.
        """
        ...

    def ids(self, split: Split) -> frozenset[str]:
        """Ids of the tasks that a list has in a split; empty where tasks are made on demand."""
        ...

    def keys(self, split: Split) -> Mapping[str, str]:
        """What tells each of those tasks from others, however it is spelled, by id."""
        ...

    def key(self, question: str) -> str:
        """The same of any question (`data/spelling.py`)."""
        ...

    def remarks(self) -> list[str]:
        """What a person should know of the tasks, one line each."""
        ...

    def reports(self) -> list[dict[str, Any]]:
        """What became of each list's rows, as JSON tables."""
        ...


def draw_up_to(
    source: TaskSource, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
) -> list[Task]:
    """Draw `num` tasks, or all there are where a source has fewer."""
    tasks: list[Task] = []
    step = num
    while len(tasks) < num and step > 0:
        step = min(step, num - len(tasks))
        try:
            tasks += source.draw(split, step, seed, exclude | {task.id for task in tasks})
        except UserError:  # a source says so when it has not that many
            step //= 2
    return tasks


def draw_apart(
    draw: Callable[[frozenset[str]], list[Task]],
    key: Callable[[str], str],
    apart: Collection[str],
    exclude: frozenset[str],
) -> list[Task]:
    """Draw tasks that ask none of some questions, in whatever spelling.

    Args:
        draw: gives tasks, without those whose ids it is given.
        key: tells questions apart.
        apart: keys of the questions.
        exclude: ids of tasks to leave out.

    Raises:
        UserError: `draw` does.
    """
    while True:
        tasks = draw(exclude)
        same = {task.id for task in tasks if key(task.question) in apart}
        if not same:
            return tasks
        exclude |= same


def draw_held_out(source: TaskSource, split: Split, num: int) -> list[Task]:
    """Draw the same tasks every time: `num`, or all there are where a list has fewer.

    Raises:
        UserError: a list has none, or too few can be made on demand.
    """
    try:
        return source.draw(split, num, 0)
    except UserError:
        tasks = draw_up_to(source, split, num, 0) if source.ids(split) else []
        if not tasks:
            raise
        return tasks
