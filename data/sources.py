"""Where tasks come from: procedural puzzles, a JSONL file, a dataset, or a mixture of these.

A task's split follows from the hash of what a model sees of it, so no two splits share a task and
a task keeps its split when a file grows. A source that is given how a dialect shows questions
hashes that, so that no two splits show a model the same problem either. Left out: what the loop
asks for and when.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data.errors import UserError, unknown_name
from data.listed import ListedSource
from data.mixture import MixtureSource, Part
from data.puzzles import ReasoningGymSource
from data.records import Fits, Shown, Split, Task
from data.rows import Fault, Fields, Refusal, Row, read_dataset, read_jsonl
from data.source import TaskSource, draw_apart, draw_up_to

__all__ = [
    "Fields",
    "ListedSource",
    "MixtureSource",
    "Part",
    "ReasoningGymSource",
    "TaskSource",
    "WithoutExamples",
    "dataset_source",
    "draw_up_to",
    "jsonl_source",
    "make_source",
]


def jsonl_source(
    path: Path | str,
    fields: Fields | None = None,
    test_path: Path | str = "",
    family: str = "jsonl",
    shown: Shown | None = None,
    fits: Fits | None = None,
    skip_faulty_rows: bool = False,
    refusal: Refusal | None = None,
) -> ListedSource:
    """Tasks from a JSONL file: one object a line with `question`, `answer`, maybe `verifier`.

    Args:
        path: the file, UTF-8.
        fields: where a row has what; other fields are ignored.
        test_path: a file of test tasks; without it some of the first's tasks are.
        family: the family that its tasks belong to.
        shown: how questions are rendered, which fixes each task's identity and split.
        fits: whether the context holds a task; None holds any.
        skip_faulty_rows: leave faulty rows out instead of refusing the file.
        refusal: what a row's verifier has against the row's answer; None asks none.

    Raises:
        UserError: a file is missing or empty, or lines are malformed (names each).
    """
    fields = fields or Fields()
    test_rows = read_jsonl(Path(test_path), fields) if test_path else ()
    rows, name = read_jsonl(Path(path), fields), Path(path).name
    return ListedSource(rows, name, family, shown, fits, test_rows, skip_faulty_rows, refusal)


def dataset_source(
    path_or_id: Path | str,
    config: str = "",
    split: str = "train",
    fields: Fields | None = None,
    test_path: Path | str = "",
    test_split: str = "",
    family: str = "dataset",
    shown: Shown | None = None,
    fits: Fits | None = None,
    skip_faulty_rows: bool = False,
    refusal: Refusal | None = None,
) -> ListedSource:
    """Tasks from a `datasets` dataset: a folder, a file (parquet, jsonl, csv) or a hub id.

    Args:
        path_or_id: a path, or an id such as `openai/gsm8k`.
        config: the dataset's configuration, such as `main`; "" where it has only one.
        split: the dataset's own split to read; ours follow from each task's hash.
        fields: where a row has what.
        test_path: another dataset whose rows are the test tasks; "" is this one.
        test_split: the dataset's own split of test tasks; without it and `test_path` some of the
            tasks of `split` are. Give one of the two.
        family: the family that its tasks belong to.
        shown: how questions are rendered, which fixes each task's identity and split.
        fits: whether the context holds a task; None holds any.
        skip_faulty_rows: leave faulty rows out instead of refusing the dataset.
        refusal: what a row's verifier has against the row's answer; None asks none.

    Raises:
        UserError: the dataset, configuration, split or a column does not exist, or rows are
            malformed (names each).
    """
    fields = fields or Fields()
    test_rows: Iterator[Row | Fault] = iter(())
    if test_path or test_split:
        where = (str(test_path), "") if test_path else (str(path_or_id), config)
        test_rows = read_dataset(*where, test_split or split, fields)
    rows = read_dataset(str(path_or_id), config, split, fields)
    return ListedSource(
        rows, Path(path_or_id).name, family, shown, fits, test_rows, skip_faulty_rows, refusal
    )


class WithoutExamples:
    """A source whose held-out splits lack what every prompt shows as a worked example.

    Args:
        source: the tasks.
        examples: the examples' questions, in any spelling.
    """

    def __init__(self, source: TaskSource, examples: Iterable[str]) -> None:
        self._source, self._examples = source, frozenset(map(source.key, examples))
        self.ids, self.remarks, self.reports = source.ids, source.remarks, source.reports
        self.keys, self.key = source.keys, source.key
        self.draw_round = source.draw_round

    def draw(
        self, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
    ) -> list[Task]:
        """Return `num` tasks of `split`; see `TaskSource`."""
        if split == "train":
            return self._source.draw(split, num, seed, exclude)
        same = {t for t, key in self._source.keys(split).items() if key in self._examples}
        return draw_apart(
            lambda left_out: self._source.draw(split, num, seed, left_out),
            self._source.key, self._examples, exclude | same,
        )  # fmt: skip


SOURCES: Mapping[str, Callable[..., TaskSource]] = {
    "reasoning_gym": ReasoningGymSource,
    "mixture": MixtureSource,
    "jsonl": jsonl_source,
    "dataset": dataset_source,
}


def make_source(kind: str, **kwargs: Any) -> TaskSource:
    """Build the source of a kind from its keyword arguments, as a config table gives them.

    Raises:
        UserError: the kind or an argument is unknown, or one is missing.
    """
    if kind not in SOURCES:
        raise UserError(unknown_name("task source kind", kind, SOURCES))
    parameters = inspect.signature(SOURCES[kind]).parameters
    for name in kwargs:
        if name not in parameters:
            raise UserError(unknown_name(f'argument of task source "{kind}"', name, parameters))
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in kwargs:
            raise UserError(f'task source "{kind}" needs "{name}": add it')
    return SOURCES[kind](**kwargs)
