"""Where tasks come from: procedural puzzles, mixtures of them, a JSONL file, or a dataset.

Every source yields tasks whose split follows from the task's hash, so no two splits share a task
and a task keeps its split when a file grows. A source that is given how a dialect shows questions
hashes that, so that no two splits show a model the same problem either. Left out: what the loop
asks for and when.
"""

import hashlib
import inspect
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from data.errors import UserError, reason, unknown_name
from data.mixture import MixtureSource
from data.puzzles import ReasoningGymSource
from data.records import (
    SPLITS,
    VERIFIER_NAMES,
    Generator,
    Shown,
    Split,
    Task,
    VerifierName,
    identity,
    make_task,
)

__all__ = [
    "DatasetSource",
    "JsonlSource",
    "MixtureSource",
    "ReasoningGymSource",
    "TaskSource",
    "WithoutExamples",
    "draw_up_to",
    "make_source",
]

TEXT_VERIFIERS = tuple(name for name in VERIFIER_NAMES if name != "puzzle")
JSONL_FIELDS = ("question", "answer", "verifier")


class TaskSource(Protocol):
    """Anything that the loop can draw tasks from."""

    def draw(
        self, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
    ) -> list[Task]:
        """Return `num` tasks of `split` with distinct ids, the same for the same arguments."""
        ...


class JsonlSource:
    """Tasks from a JSONL file: one object a line with `question`, `answer`, maybe `verifier`.

    `verifier` is "math" (the default) or "exact"; other fields are ignored.

    Args:
        path: the file, UTF-8.
        family: the family that its tasks belong to.
        shown: how questions are rendered, which fixes each task's identity and split.

    Raises:
        UserError: the file is missing or empty, or a line is malformed (names file and line).
    """

    def __init__(self, path: Path | str, family: str = "jsonl", shown: Shown | None = None) -> None:
        self._path = Path(path)
        self._tasks = _distinct_tasks(_read_jsonl(self._path), family, self._path.name, shown)

    def draw(
        self, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
    ) -> list[Task]:
        """Return `num` tasks of `split` in an order fixed by `seed`; see `TaskSource`."""
        return _draw_listed(self._tasks, str(self._path), split, num, seed, exclude)


class DatasetSource:
    """Tasks from a `datasets` dataset: a folder, a file (parquet, jsonl, csv) or a hub id.

    Args:
        path_or_id: a path, or an id such as `openai/gsm8k`.
        split: the dataset's own split to read; ours follow from each task's hash.
        question_field: column of the questions.
        answer_field: column of the answers.
        verifier: "math" or "exact".
        family: the family that its tasks belong to.
        shown: how questions are rendered, which fixes each task's identity and split.

    Raises:
        UserError: the dataset, split or a column does not exist, or a row is malformed.
    """

    def __init__(
        self,
        path_or_id: Path | str,
        split: str = "train",
        question_field: str = "question",
        answer_field: str = "answer",
        verifier: VerifierName = "math",
        family: str = "dataset",
        shown: Shown | None = None,
    ) -> None:
        self._where = f"{path_or_id} [{split}]"
        if verifier not in TEXT_VERIFIERS:
            raise UserError(unknown_name("verifier", verifier, TEXT_VERIFIERS))
        columns = _load_columns(str(path_or_id), split, (question_field, answer_field))
        rows = (
            _checked(f"{self._where} row {row}", question, answer, verifier)
            for row, (question, answer) in enumerate(zip(*columns, strict=True))
        )
        self._tasks = _distinct_tasks(rows, family, Path(path_or_id).name, shown)

    def draw(
        self, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
    ) -> list[Task]:
        """Return `num` tasks of `split` in an order fixed by `seed`; see `TaskSource`."""
        return _draw_listed(self._tasks, self._where, split, num, seed, exclude)


class WithoutExamples:
    """A source whose held-out splits lack what every prompt shows as a worked example.

    Args:
        source: the tasks.
        examples: ids of the examples' questions.
    """

    def __init__(self, source: TaskSource, examples: frozenset[str]) -> None:
        self._source, self._examples = source, examples

    def draw(
        self, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
    ) -> list[Task]:
        """Return `num` tasks of `split`; see `TaskSource`."""
        shown = frozenset[str]() if split == "train" else self._examples
        return self._source.draw(split, num, seed, exclude | shown)


SOURCES: dict[str, Callable[..., TaskSource]] = {
    "reasoning_gym": ReasoningGymSource,
    "mixture": MixtureSource,
    "jsonl": JsonlSource,
    "dataset": DatasetSource,
}


def make_source(kind: str, **kwargs: object) -> TaskSource:
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


# A question and answer as read, with where they stood: (place, question, answer, verifier).
_Row = tuple[str, str, str, VerifierName]


def _read_jsonl(path: Path) -> Iterable[_Row]:
    if not path.is_file():
        raise UserError(f"task file {path} does not exist or is not a file: check the path")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        place = f"{path}:{number}"
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise UserError(f"{place}: not UTF-8 ({error.reason}): re-save the file") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not a JSON object on one line: {error}") from error
        yield _jsonl_row(place, row)


def _jsonl_row(place: str, row: object) -> _Row:
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected a JSON object, got {type(row).__name__}")
    for name in JSONL_FIELDS[:2]:
        if name not in row:
            found = ", ".join(sorted(row)) or "none"
            raise UserError(f'{place}: field "{name}" is missing (fields found: {found})')
    return _checked(place, row["question"], row["answer"], row.get("verifier", "math"))


def _checked(place: str, question: object, answer: object, verifier: object) -> _Row:
    """Return the row with its types checked; numbers are taken as their text."""
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{place}: the question must be non-empty text, got {question!r:.80}")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(
            f"{place}: the answer must be non-empty text or a number, got {answer!r:.80}"
        )
    for name, text in (("question", question), ("answer", answer)):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"{place}: the {name} holds half of a surrogate pair: fix its escape")
    if verifier not in TEXT_VERIFIERS:
        raise UserError(f"{place}: {unknown_name('verifier', str(verifier), TEXT_VERIFIERS)}")
    return place, question, answer, verifier


def _distinct_tasks(
    rows: Iterable[_Row], family: str, name: str, shown: Shown | None
) -> list[Task]:
    """Build the tasks of all rows; a repeated question must repeat its answer.

    Raises:
        UserError: there are no rows, two rows answer one question differently, or a question
            cannot be rendered.
    """
    listed = [row for row in rows if _can_be_shown(row, shown)]
    if not listed:
        raise UserError(f"{name} holds no tasks: give at least one question with its answer")
    content = "\n".join(f"{question}\n{answer}" for _, question, answer, _ in listed)
    generator = Generator(
        name=name,
        version=hashlib.sha256(content.encode()).hexdigest()[:16],
        seed=0,
        difficulty="",
    )
    tasks: dict[str, Task] = {}
    places: dict[str, str] = {}
    for place, question, answer, verifier in listed:
        task = make_task(
            family=family,
            question=question,
            reference=answer,
            verifier=verifier,
            generator=generator,
            shown=shown,
        )
        known = tasks.setdefault(task.id, task)
        first_place = places.setdefault(task.id, place)
        if (known.reference, known.verifier) != (answer, verifier):
            raise UserError(
                f"{place}: the same question stands at {first_place} with another answer or "
                f"verifier ({known.reference!r:.40} by {known.verifier}, here {answer!r:.40} by "
                f"{verifier}): keep one"
            )
    return list(tasks.values())


def _can_be_shown(row: _Row, shown: Shown | None) -> bool:
    place, question, *_ = row
    try:
        return identity("", question, shown) is not None
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def _draw_listed(
    tasks: Sequence[Task], where: str, split: Split, num: int, seed: int, exclude: frozenset[str]
) -> list[Task]:
    if split not in SPLITS:
        raise ValueError(unknown_name("split", split, SPLITS))
    in_split = sorted((task for task in tasks if task.split == split), key=lambda task: task.id)
    random.Random(seed).shuffle(in_split)
    kept = [task for task in in_split if task.id not in exclude]
    if len(kept) < num:
        raise UserError(
            f'{where} has {len(kept)} of {num} "{split}" tasks ({len(tasks)} in all; each task\'s '
            "hash fixes its split): ask for fewer or add tasks"
        )
    return kept[:num]


def _load_columns(path_or_id: str, split: str, names: tuple[str, str]) -> list[Sequence[object]]:
    """Return the named columns of a dataset's split.

    Raises:
        UserError: it cannot be loaded, or lacks the split or a column.
    """
    dataset = _load_dataset(path_or_id, split)
    for name in names:
        if name not in dataset.column_names:
            raise UserError(unknown_name(f"column of {path_or_id}", name, dataset.column_names))
    return [list(dataset[name]) for name in names]


def _load_dataset(path_or_id: str, split: str) -> Any:
    import datasets  # here, since it takes half a second that other sources need not pay

    path = Path(path_or_id)
    builders = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}
    looks_local = path.suffix in builders or path.is_absolute() or path_or_id.startswith((".", "~"))
    if not path.exists() and (looks_local or path_or_id.count("/") > 1):
        raise UserError(f"dataset {path_or_id} does not exist: check the path")
    try:
        if path.is_file():
            if path.suffix not in builders:
                raise UserError(f"unknown file type (known: {', '.join(builders)})")
            return datasets.load_dataset(builders[path.suffix], data_files=path_or_id, split=split)
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(path_or_id)
            if isinstance(saved, datasets.Dataset):
                return saved
            if split not in saved:
                raise UserError(unknown_name("split", split, saved))
            return saved[split]
        return datasets.load_dataset(path_or_id, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        tried = "" if path.exists() else "no such path, and as a hub id: "
        raise UserError(
            f"dataset {path_or_id} [{split}] cannot be loaded: {tried}{reason(error)}"
        ) from error
