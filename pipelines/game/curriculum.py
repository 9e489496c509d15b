"""Which tasks a round plays: fresh ones from the train split, minus those that are solved.

Leaves out where tasks come from (`data/sources.py`).
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from data.mixture import Part
from data.records import Split, Task, identity
from data.sources import TaskSource, WithoutExamples, make_source
from pipelines.errors import UserError
from pipelines.game.bout import Bout
from pipelines.settings.tables import Settings
from rewards.dialect import dialect


class Curriculum:
    """Draws tasks, reproducibly from (run seed, round), and retires saturated ones on request."""

    def __init__(self, source: TaskSource, seed: int) -> None:
        self.source, self.seed = source, seed
        self.retired: set[str] = set()
        self.retiring = False

    def draw(self, round_: int, num: int) -> list[Task]:
        """The round's training tasks; a source too small to spare the retired ones keeps them."""
        try:
            return self.source.draw("train", num, self._seed(round_), frozenset(self.retired))
        except UserError:
            if not self.retired:
                raise
            self.retired.clear()
            return self.source.draw("train", num, self._seed(round_))

    def held_out(self, split: Split, num: int) -> list[Task]:
        """A fixed set of a held-out split: the same in every round and every run."""
        return self.source.draw(split, num, 0)

    def learn_from(self, bouts: Sequence[Bout]) -> None:
        """Once the monitor asked for it, never draw a task again whose whole group passed."""
        if not self.retiring:
            return
        passes: dict[str, list[bool]] = defaultdict(list)
        for bout in bouts:
            if bout.prefix:
                continue  # to finish what was begun is easier
            passes[bout.task.id].append(bout.verdict.passed)
        self.retired |= {task for task, passed in passes.items() if all(passed)}

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {"retired": sorted(self.retired), "retiring": self.retiring}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.retired, self.retiring = set(state["retired"]), state["retiring"]

    def _seed(self, round_: int) -> int:
        digest = hashlib.sha256(f"{self.seed}/{round_}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def build_source(settings: Settings) -> TaskSource:
    """The task source that the `[tasks]` table describes.

    Its tasks are as distinct as what the dialect shows of them, and its held-out splits lack the
    table's worked examples.
    """
    shown, examples = dialect(settings.tasks.dialect).shown, settings.tasks.examples
    source = make_source(shown=shown, **_arguments(settings))
    if not examples:
        return source
    ids = (identity("", example.question, shown) for example in examples)
    return WithoutExamples(source, frozenset(task_id for task_id in ids if task_id is not None))


def _arguments(settings: Settings) -> dict[str, Any]:
    """The kind of source and what it needs."""
    tasks = settings.tasks
    if tasks.source == "jsonl":
        return {"kind": "jsonl", "path": tasks.path}
    if tasks.source == "dataset":
        return {
            "kind": "dataset", "path_or_id": tasks.path, "split": tasks.dataset_split,
            "question_field": tasks.question_field, "answer_field": tasks.answer_field,
        }  # fmt: skip
    if tasks.mixture:
        parts = [Part(part.family, part.params, part.weight) for part in tasks.mixture]
        return {"kind": "mixture", "parts": parts}
    return {"kind": "reasoning_gym", "family": tasks.family, "params": tasks.params}
