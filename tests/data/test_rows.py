"""Rows as data sets have them: nested, as conversations, with answers within solutions."""

import gzip
import json
from contextlib import suppress
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.foreign import rows_of
from data.gold import check_pattern, gold_answer
from data.rows import Fault, Fields, Row, read_dataset, read_jsonl

VERL = Fields("prompt", "reward_model.ground_truth")


def turn(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def read(tmp_path: Path, row: object, fields: Fields = VERL) -> Row | Fault:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (found,) = read_jsonl(path, fields)
    return found


@pytest.mark.parametrize(
    ("solution", "pattern", "gold"),
    [
        ("She has 3 + 4 = <<3+4=7>>7 eggs.\n#### 7", "gsm8k", "7"),
        ("One #### 5 is not the last.\n#### 1,000 ", "gsm8k", "1,000"),
        ("4 + 3 = 7\n####\n7\n\nI hope this helps.", "gsm8k", "7"),
        (r"so $x = \boxed{5}$, or rather $\boxed{\frac{1}{2}}$.", "boxed", r"\frac{1}{2}"),
        (r"$\boxed{\left\{1, \{2\}\right\}}$", "boxed", r"\left\{1, \{2\}\right\}"),
        (r"\fbox {A}", "boxed", "A"),
        ("Answer: 3\nAnswer:  4", r"Answer:\s*(\d+)", "4"),
        (" as it is #### 7", "", " as it is #### 7"),
    ],
)
def test_the_gold_answer_is_found_within_a_solution(solution: str, pattern: str, gold: str) -> None:
    check_pattern(pattern)
    assert gold_answer(solution, pattern) == gold


@pytest.mark.parametrize(
    ("solution", "pattern", "message"),
    [
        ("no hashes", "gsm8k", "'gsm8k' is not in it: 'no hashes'"),
        ("#### ", "gsm8k", "finds an empty answer"),
        (r"\boxed{never closed", "boxed", "is not in it"),
        ("nothing", r"Answer: (\d+)", "is not in it"),
    ],
)
def test_a_missing_gold_answer_is_a_fault(solution: str, pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gold_answer(solution, pattern)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("gms8k", 'did you mean "gsm8k"'),
        ("Answer: .*", "has 0 groups"),
        ("(a)(b)", "has 2 groups"),
        ("(", "is no regular expression"),
    ],
)
def test_a_wrong_pattern_is_named(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_pattern(pattern)


@given(st.text(max_size=40), st.sampled_from(["gsm8k", "boxed", r"a(\w*)"]))
def test_finding_the_gold_answer_is_total(solution: str, pattern: str) -> None:
    with suppress(UserError):
        assert gold_answer(solution, pattern) in solution


@pytest.mark.parametrize(
    ("prompt", "asked", "has_system_turn"),
    [
        ("Plain?", "Plain?", False),
        ([turn("user", "One turn?")], "One turn?", False),
        ([turn("system", "Be brief."), turn("user", "Two?")], "Two?", True),
        ([turn("user", [{"type": "text", "text": "Parts"}, {"text": "?"}])], "Parts?", False),
    ],
)
def test_a_question_may_be_a_conversation(
    tmp_path: Path, prompt: object, asked: str, has_system_turn: bool
) -> None:
    found = read(tmp_path, {"prompt": prompt, "reward_model": {"ground_truth": "7"}})
    assert isinstance(found, Row)
    assert (found.question, found.answer) == (asked, "7")
    assert found.has_system_turn == has_system_turn


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [turn("user", "a"), turn("assistant", "b")]}, "one user turn and no reply"),
        ({"prompt": [turn("system", "a")]}, "one user turn and no reply"),
        ({"prompt": []}, "text or a conversation"),
        ({"prompt": ["a"]}, "text or a conversation"),
        ({"prompt": [turn("user", [{"image": "x.png"}])]}, "something other than text"),
        ({"prompt": [turn("user", " ")]}, "question must be non-empty text"),
        ({"prompt": 3}, "question must be non-empty text, got 3"),
        ({"reward_model": {"style": "rule"}}, r"ground_truth\" is missing \(fields found: style"),
        ({"reward_model": 3}, r'"reward_model.ground_truth" is missing'),
        ({"reward_model": {"ground_truth": float("nan")}}, "must be a finite number"),
        ({"reward_model": {"ground_truth": ["a", "b"]}}, "non-empty text or a number"),
    ],
)
def test_what_is_no_problem_says_why(tmp_path: Path, row: dict, message: str) -> None:
    found = read(tmp_path, {"prompt": "Q?", "reward_model": {"ground_truth": "7"}} | row)
    assert isinstance(found, Fault)
    with pytest.raises(UserError, match=message):
        raise UserError(str(found))


def test_nested_fields_are_read_as_people_keep_them(tmp_path: Path) -> None:
    """As an object, as its JSON text, with an index, or as a name that has dots itself."""
    asked = {"prompt": "Q?"}
    for row, name in (
        ({"a": {"b": {"c": 7}}}, "a.b.c"),
        ({"a": '{"b": 7}'}, "a.b"),
        ({"a": [{"b": 7}]}, "a.0.b"),
        ({"a.b": 7}, "a.b"),
        ({"a": ["7"]}, "a"),
    ):
        found = read(tmp_path, asked | row, Fields("prompt", name))
        assert isinstance(found, Row) and found.answer == "7", found


def test_a_nested_column_of_a_data_set(tmp_path: Path) -> None:
    rows = {
        "prompt": [[turn("user", f"What is {n} + 1?")] for n in range(3)],
        "reward_model": [{"style": "rule", "ground_truth": str(n + 1)} for n in range(3)],
    }
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "verl.parquet")
    found = list(read_dataset(str(tmp_path / "verl.parquet"), "", "train", VERL))
    assert [row.answer for row in found if isinstance(row, Row)] == ["1", "2", "3"]
    with pytest.raises(
        UserError, match=r'"rewad_model": did you mean "reward_model".*answer_field'
    ):
        list(
            read_dataset(
                str(tmp_path / "verl.parquet"), "", "train", Fields("prompt", "rewad_model.x")
            )
        )


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"question": "Q?", "answer": 1, "answer": 2}', "answer"),
        ('{"question": "Q?", "answer": 1, "verifier_parameters": {"a": 1, "a": 1}}', "a"),
    ],
)
def test_a_key_that_stands_twice_is_a_fault(tmp_path: Path, line: str, key: str) -> None:
    """JSON's readers silently take the last one."""
    path = tmp_path / "rows.jsonl"
    path.write_text(line)
    (found,) = read_jsonl(path, Fields())
    assert str(found) == f'{path}:1: "{key}" stands twice in one JSON object: keep one'


def test_a_verifier_is_one_of_those_that_judge_text() -> None:
    with pytest.raises(UserError, match='unknown verifier "puzzle"'):
        Fields(verifier="puzzle")


def test_a_data_set_with_configurations(tmp_path: Path) -> None:
    for name in ("main", "socratic"):
        (tmp_path / name).mkdir()
        rows = {
            "question": [f"{name} {n}?" for n in range(5)],
            "answer": [f"#### {n}" for n in range(5)],
        }
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / name / "train-0.parquet")
    card = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        for name in ("main", "socratic")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    fields = Fields(pattern="gsm8k")
    found = list(read_dataset(str(tmp_path), "socratic", "train", fields))
    assert next(row.question for row in found if isinstance(row, Row)) == "socratic 0?"
    for config in ("", "main "):
        with pytest.raises(UserError, match=r"main.*socratic.*tasks\.dataset_config"):
            list(read_dataset(str(tmp_path), config, "train", fields))


def test_an_index_is_of_plain_digits(tmp_path: Path) -> None:
    found = read(tmp_path, {"prompt": "Q?", "a": ["7"]}, Fields("prompt", "a.\u00b2"))
    assert isinstance(found, Fault) and "is missing" in found.reason


def test_a_damaged_gzip_file_names_itself(tmp_path: Path) -> None:
    """Wherever the damage is: gzip raises another error for each place."""
    whole = gzip.compress(b'{"question": "Q?", "answer": 1}\n' * 50)
    for name, content in {
        "end": whole[:-12], "sum": whole[:-8] + bytes(8), "body": whole[:10] + b"\xff" * 40,
    }.items():  # fmt: skip
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(content)
        for reading in (read_jsonl(path, Fields()), rows_of(str(path))):
            with pytest.raises(UserError, match=str(path)):
                list(reading)


def test_what_csv_holds_is_text(tmp_path: Path) -> None:
    """007 is not 7, nor is "True" a truth value, nor "NA" nothing; a gap makes no 1 a 1.0."""
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffid,question,answer\n,a,007\n2,b,True\n3,c,NA\n4,"d, e\nf",1\n5,g,\n')
    *sound, last = read_dataset(str(path), "", "train", Fields())
    assert [(row.question, row.answer) for row in sound if isinstance(row, Row)] == [
        ("a", "007"), ("b", "True"), ("c", "NA"), ("d, e\nf", "1"),
    ]  # fmt: skip
    assert isinstance(last, Fault) and "non-empty" in last.reason


@pytest.mark.parametrize(
    ("content", "told"),
    [
        # Of which pandas makes an index, and the question "2" with the answer "3".
        ("question,answer\nWhat follows 1, 2?,3\n", "line 2 has 3 fields, the header 2: put a"),
        ("question,answer,answer\na,1,2\n", "the header must name each column once"),
        ("question,answer,\na,1,\n", "the header must name each column once"),
    ],
)
def test_csv_whose_fields_are_not_told_apart_is_refused(
    tmp_path: Path, content: str, told: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=told):
        list(read_dataset(str(path), "", "train", Fields()))
