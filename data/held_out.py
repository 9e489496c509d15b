"""The evaluation texts that a data set was decontaminated against, kept beside it.

    DIR/held_out.jsonl     {"set": "test", "text": "What is 17 + 25?", "templated": true}

`merge` and `verify` can so repeat the check without the model, its tokenizer or the sources. Leaves
out the check (`data/contamination.py`).
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from data.atomic import write_text_atomic
from data.contamination import Contamination
from data.errors import UserError, reason
from data.records import SPLITS, Task
from data.source import TaskSource

HELD_OUT_FILE = "held_out.jsonl"


@dataclass(frozen=True)
class HeldOut:
    """One evaluation text.

    Attributes:
        set: the evaluation set that it belongs to.
        text: a question, or a question with its solution.
        templated: whether a generator wrote it, so that what several have in common is wording.
    """

    set: str
    text: str
    templated: bool = False


def held_out_of(source: TaskSource, tasks: Iterable[Task]) -> list[HeldOut]:
    """Tasks' questions as evaluation texts; their set is the split."""
    listed = {split: source.ids(split) for split in SPLITS}
    return [
        HeldOut(task.split, task.question, templated=task.id not in listed[task.split])
        for task in tasks
    ]


def contamination_of(texts: Iterable[HeldOut]) -> Contamination:
    """The index of evaluation texts."""
    listed = list(texts)
    return Contamination(
        [one.text for one in listed if not one.templated],
        [one.text for one in listed if one.templated],
    )


def write_held_out(folder: Path, texts: Iterable[HeldOut]) -> None:
    """Write the texts of a data set, atomically."""
    lines = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in texts]
    write_text_atomic(folder / HELD_OUT_FILE, "".join(lines))


def read_held_out(folder: Path) -> list[HeldOut] | None:
    """The texts of a data set; None where it keeps none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / HELD_OUT_FILE
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [HeldOut(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({reason(error)}): restore it") from None
