"""Lists of tasks from JSON lines and data sets: every row is a task, or named and counted."""

import json
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.records import SPLITS
from data.sources import Fields, dataset_source, jsonl_source
from rewards.dialect import dialect


def write_jsonl(path: Path, num: int) -> Path:
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(num)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_draws_every_task_once(tmp_path: Path) -> None:
    source = jsonl_source(write_jsonl(tmp_path / "t.jsonl", 200))
    drawn = {}
    for split in SPLITS:
        num = len(source.ids(split))
        drawn[split] = source.draw(split, num, 4)
        assert drawn[split] == source.draw(split, num, 4)
    assert sum(map(len, drawn.values())) == 200
    assert source.draw("train", 50, 1) != source.draw("train", 50, 2)
    kept = source.draw("train", 10, 1)
    assert source.draw("train", 5, 1, exclude=frozenset(t.id for t in kept[:5])) == kept[5:]
    with pytest.raises(UserError, match=r"t\.jsonl has \d+ of 500 \"train\" tasks \(200 in all"):
        source.draw("train", 500, 0)


def test_a_task_keeps_its_split_when_a_long_file_grows(tmp_path: Path) -> None:
    few = jsonl_source(write_jsonl(tmp_path / "a.jsonl", 400))
    many = jsonl_source(write_jsonl(tmp_path / "b.jsonl", 800))
    for split in SPLITS:
        assert few.ids(split) < many.ids(split)


def test_jsonl_takes_what_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"question": "Name a \xe2\x80\xa8colour", "answer": "red",'
        b' "verifier": "exact", "id": 7}\r\n\n'
        b'{"question": "1 + 1?", "answer": 2}\n{"question": "1  + 1?", "answer": "2"}\n'
    )
    by_reference = {task.reference: task for task in jsonl_source(path).tasks}
    assert {key: task.verifier for key, task in by_reference.items()} == {
        "red": "exact",
        "2": "math",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no tasks"),
        (b"\n \n", "holds no tasks"),
        (b'{"question": "a", "answer": "b"}\n{"question": ', r"t\.jsonl:2: not a JSON object"),
        (b"[1]", r"t\.jsonl:1: expected a JSON object, got list"),
        (b"[" * 100_000, r"t\.jsonl:1: not a JSON object"),
        (b'{"question": "a\xff", "answer": "b"}', r"t\.jsonl:1: not UTF-8"),
        (b'{"question": "a", "answr": "b"}', r'"answer" is missing \(fields found: answr'),
        (b'{"question": " ", "answer": "b"}', "question must be non-empty text"),
        (b'{"question": "a", "answer": null}', "answer must be non-empty text or a number"),
        (b'{"question": "a", "answer": true}', "answer must be non-empty text or a number"),
        (b'{"question": "\\ud800", "answer": "b"}', "half of a surrogate pair"),
        (b'{"question": "a", "answer": "b", "verifier": "mth"}', 'did you mean "math"'),
        (b'{"question": "a", "answer": "b", "verifier": ["math"]}', "unknown verifier"),
        (
            b'{"question": "a", "answer": "1"}\n{"question": "a ", "answer": "2"}',
            r"t\.jsonl:2: the same question stands at .*t\.jsonl:1 with another answer",
        ),
    ],
)
def test_malformed_jsonl_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        jsonl_source(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=60)
@given(st.binary(max_size=60))
def test_reading_jsonl_is_total(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.jsonl"):
        jsonl_source(path)


def test_a_dataset_is_read_from_file_and_folder(tmp_path: Path) -> None:
    rows = {"problem": [f"What is {n} + 1?" for n in range(60)], "gold": list(range(1, 61))}
    saved = datasets.Dataset.from_dict(rows)
    saved.to_parquet(tmp_path / "tasks.parquet")
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "named")
    fields = {"fields": Fields("problem", "gold")}
    draws = [
        [task.id for task in dataset_source(tmp_path / name, **fields).draw("train", 30, 0)]
        for name in ("tasks.parquet", "one", "named")
    ]
    assert draws[0] == draws[1] == draws[2]
    for name, arguments, message in (
        ("one", {}, 'unknown column of .* "question"'),
        ("named", {**fields, "split": "trian"}, 'did you mean "train"'),
        ("missing", fields, "missing does not exist"),
        ("missing.parquet", fields, "missing.parquet does not exist"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            dataset_source(tmp_path / name, **arguments)
        assert "\n" not in str(caught.value)


def test_a_broken_dataset_file_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    (tmp_path / "tasks.txt").write_text("x")
    for name in ("bad.parquet", "tasks.txt"):
        with pytest.raises(UserError, match="cannot be loaded") as caught:
            dataset_source(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_listed_problem_is_one_task_however_it_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [("What is 4 + 1?", 5), ("Evaluate: 4 + 1.", 5), ("Calculate 4 * 0.", 0), ("2 + 1", 3)]
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    tasks = jsonl_source(path, shown=dialect("chain").shown).tasks
    assert [task.question for task in tasks] == ["What is 4 + 1?", "2 + 1"]
    with pytest.raises(UserError, match=r"t\.jsonl:1: the chain dialect reads sums"):
        jsonl_source(write_jsonl(path, 3), shown=lambda q: dialect("chain").shown(q + " apples"))
