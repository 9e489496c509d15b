"""Rows of JSON lines or of a dataset, read as questions with gold answers; each bad one named.

A field may be nested (`reward_model.ground_truth`), a question may be a conversation of one turn,
and the gold answer may stand within a longer solution (`data/gold.py`). Where the code verifier
judges, rows may have HumanEval's or MBPP's form (`data/code_rows.py`). Leaves out what becomes of
the rows (`data/listed.py`).
"""

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.code_rows import code_row, is_code_row
from data.errors import UserError, as_user_error, reason, unknown_name
from data.gold import gold_answer
from data.records import VerifierName, canonical_json
from data.verifier_parameters import check_parameters

BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}


@dataclass(frozen=True)
class Fields:
    """Where a row has its question and its gold answer.

    Attributes:
        question: a field; dots lead into nested ones.
        answer: the same.
        pattern: how the gold answer is found within that field (`data/gold.py`); "" takes it whole.
        verifier: judges answers, unless a JSON line names another.
        parameters: of that verifier; a JSON line's own are added to them.

    Raises:
        UserError: there is no such verifier, or the parameters are not its own.
    """

    question: str = "question"
    answer: str = "answer"
    pattern: str = ""
    verifier: str = "math"
    parameters: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        # What each line brings itself, such as its schema, may be missing here.
        check_parameters(self.verifier, self.parameters, complete=False)


@dataclass(frozen=True)
class Row:
    """One problem as read.

    Attributes:
        place: where it stands, for a person.
        parameters: of the verifier.
        has_system_turn: whether a system turn stood before the question; it is left out.
    """

    place: str
    question: str
    answer: str
    verifier: VerifierName
    parameters: dict[str, object] = field(default_factory=dict, hash=False)
    has_system_turn: bool = False


@dataclass(frozen=True)
class Fault:
    """A row that is no problem, and why."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


# What a row's own verifier has against the row's answer; "" if nothing.
Refusal = Callable[[Row], str]


def read_jsonl(path: Path, fields: Fields) -> Iterator[Row | Fault]:
    """Read a file of one JSON object a line, perhaps gzipped; empty lines are passed over.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"task file {path} does not exist or is not a file: check the path")
    for number, line in enumerate(_contents(path).splitlines(), start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            yield _row(place, _parsed(line), fields, names_verifier=True)
        except UserError as error:
            yield Fault(place, str(error))


def _contents(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"task file {path} is not gzipped as its name says: {error}") from None


def read_dataset(path_or_id: str, config: str, split: str, fields: Fields) -> Iterator[Row | Fault]:
    """Read a split of what the datasets library loads.

    Args:
        path_or_id: a folder, a file (parquet, jsonl, csv) or a hub id.
        config: the configuration's name; "" where there is only one.
        split: the dataset's own.
        fields: where its rows have what.

    Raises:
        UserError: it cannot be loaded, or lacks the configuration, the split or a column.
    """
    dataset = load_split(path_or_id, config, split)
    where, chosen = f"{path_or_id} [{split}]", dataset
    if not (fields.verifier == "code" and is_code_row(dict.fromkeys(dataset.column_names))):
        columns = [_column(path_or_id, name, dataset.column_names) for name in _names(fields)]
        chosen = dataset.select_columns(list(dict.fromkeys(columns)))
    for number, row in enumerate(chosen):
        place = f"{where} row {number}"
        try:
            yield _row(place, row, fields)
        except UserError as error:
            yield Fault(place, str(error))


def _names(fields: Fields) -> tuple[str, str]:
    return fields.question, fields.answer


def _column(path_or_id: str, name: str, columns: Sequence[str]) -> str:
    """The column that holds a field, which may be nested."""
    column = name if name in columns else name.partition(".")[0]
    if column not in columns:
        raise UserError(
            f"{unknown_name(f'column of {path_or_id}', column, columns)} Set tasks.question_field "
            "and tasks.answer_field"
        )
    return column


# -- one row --------------------------------------------------------------------------------------


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode(), object_pairs_hook=_with_each_key_once)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 ({error.reason}): re-save the file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"not a JSON object on one line: {error}") from error


def _with_each_key_once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f'"{twice}" stands twice in one JSON object: keep one')
    return found


def _row(place: str, row: object, fields: Fields, names_verifier: bool = False) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"expected a JSON object, got {type(row).__name__}")
    if fields.verifier == "code" and is_code_row(row):
        row, names_verifier = code_row(row), True
        fields = Fields(verifier="code", parameters=fields.parameters)
    asked, has_system = _question(_at(row, fields.question))
    verifier, parameters = _judged_by(row, fields) if names_verifier else _judged_by({}, fields)
    answer = gold_answer(_answer(_at(row, fields.answer), verifier), fields.pattern)
    for name, text in (("question", asked), ("answer", answer)):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"the {name} holds half of a surrogate pair: fix its escape")
    return Row(place, asked, answer, verifier, parameters, has_system)


def _judged_by(row: Mapping[str, Any], fields: Fields) -> tuple[VerifierName, dict[str, object]]:
    """The verifier that a line names, or the configured one, with its parameters."""
    name, given = row.get("verifier", fields.verifier), row.get("verifier_parameters", {})
    if not isinstance(given, dict):
        raise UserError(f"verifier_parameters must be a JSON object, got {given!r:.80}")
    whole = {**(fields.parameters if name == fields.verifier else {}), **given}
    return check_parameters(str(name), whole), whole


def _at(row: Mapping[str, Any], name: str) -> object:
    """The value of a field; each part of a dotted name leads one level down."""
    if name in row:
        return row[name]
    value: object = row
    for part in name.split("."):
        value = _inner(value, part, name)
    return value


def _inner(value: object, part: str, name: str) -> object:
    if isinstance(value, str):  # some data sets keep a nested object as its JSON text
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = {}
    if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
        return value[int(part)]
    if isinstance(value, dict) and part in value:
        return value[part]
    found = ", ".join(sorted(value)) if isinstance(value, dict) else ""
    raise UserError(f'field "{name}" is missing (fields found: {found or "none"})')


def _question(value: object) -> tuple[str, bool]:
    """The text that asks, and whether a system turn stood beside it."""
    has_system = False
    if isinstance(value, list):
        value, has_system = _only_turn(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"the question must be non-empty text, got {value!r:.80}")
    return value, has_system


def _only_turn(turns: Sequence[object]) -> tuple[object, bool]:
    """The content of a conversation's one user turn."""
    told = [turn for turn in turns if isinstance(turn, dict) and "role" in turn]
    if not told or len(told) < len(turns):
        raise UserError(f"the question must be text or a conversation, got {turns!r:.80}")
    spoken = [turn for turn in told if turn["role"] != "system"]
    if [turn["role"] for turn in spoken] != ["user"]:
        raise UserError("the question's conversation must have one user turn and no reply")
    content = spoken[0].get("content")
    if isinstance(content, list):
        content = _text_parts(content)
    return content, len(spoken) < len(turns)


def _text_parts(parts: Sequence[object]) -> str:
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise UserError("the question's turn holds something other than text")
    return "".join(map(str, texts))


def _answer(value: object, verifier: VerifierName) -> str:
    """An answer as text; numbers, and JSON for the verifier of JSON, are taken as their text."""
    if verifier == "json_schema" and value is not None and not isinstance(value, str):
        try:
            return canonical_json(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"the answer is not JSON: {error}") from None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"the answer must be a finite number, got {value}")
    text = str(value) if is_number else value
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"the answer must be non-empty text or a number, got {value!r:.80}")
    return text


# -- loading --------------------------------------------------------------------------------------


def looks_local(name: str) -> bool:
    """Whether a dataset's path or hub id is a path by its look, there or not."""
    return Path(name).suffix in BUILDERS or name.startswith(("/", ".", "~")) or name.count("/") > 1


def check_dataset_path(path_or_id: str) -> None:
    """Refuse what is no file or folder here, and by its look no hub id either.

    Raises:
        UserError: there is no such path.
    """
    if looks_local(path_or_id) and not Path(path_or_id).exists():
        raise UserError(f"dataset {path_or_id} does not exist: check the path")


def load_split(path_or_id: str, config: str, split: str) -> Any:
    """A split of what the datasets library loads, or of what it saved.

    Raises:
        UserError: it cannot be loaded.
    """
    import datasets  # here, since it takes half a second that other sources need not pay

    check_dataset_path(path_or_id)
    path = Path(path_or_id)
    try:
        if path.is_file():
            if path.suffix not in BUILDERS:
                raise UserError(f"unknown file type (known: {', '.join(BUILDERS)})")
            given = _csv_as_text(path) if path.suffix == ".csv" else {}
            kind = BUILDERS[path.suffix]
            return datasets.load_dataset(kind, data_files=path_or_id, split=split, **given)
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _saved(datasets.load_from_disk(path_or_id), split)
        return datasets.load_dataset(path_or_id, config or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        tried = "" if path.exists() else "no such path, and as a hub id: "
        setting = "; set tasks.dataset_config" if "onfig" in str(error) else ""
        raise UserError(
            f"dataset {path_or_id} [{split}] cannot be loaded: {tried}{reason(error)}{setting}"
        ) from error


def _csv_as_text(path: Path) -> dict[str, Any]:
    """How datasets reads CSV as text: else 007 comes as 7, "True" as a truth value, "None" as none.

    Raises:
        UserError: a line has another number of fields than the header, of which pandas takes some
            for an index, or the header names a column twice, or not at all.
    """
    from datasets import Features, Value

    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file, as_user_error(str(path), csv.Error):
        lines = csv.reader(file)
        names = next(lines, [])
        if not all(names) or len(set(names)) < len(names):
            raise UserError(f"the header must name each column once, got {names}")
        for fields in lines:
            if fields and len(fields) != len(names):
                raise UserError(
                    f"line {lines.line_num} has {len(fields)} fields, the header {len(names)}: "
                    'put a field that holds a comma in quotes (")'
                )
    return {"features": Features(dict.fromkeys(names, Value("string"))), "keep_default_na": False}


def _saved(saved: Any, split: str) -> Any:
    """A split of what `save_to_disk` wrote; a lone data set has none."""
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        raise UserError(unknown_name("split", split, saved))
    return saved[split]
