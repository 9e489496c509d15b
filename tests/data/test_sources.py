"""Task sources: deterministic, distinct, split by hash, and clear about bad input."""

import json
import random
import time
from contextlib import closing
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reasoning_gym.arithmetic import basic_arithmetic
from reasoning_gym.factory import DATASETS, create_dataset

from data.errors import UserError
from data.puzzles import ReasoningGymSource
from data.records import SPLITS, Split, split_of
from data.sources import DatasetSource, JsonlSource, make_source
from rewards.dialect import dialect
from rewards.solution import Solution
from rewards.verifiers import Verifiers

ONE_DIGIT_SUMS = {
    "operators": ["+"],
    "allow_parentheses": False,
    "min_digits": 1,
    "max_digits": 1,
    "min_terms": 3,
    "max_terms": 8,
}
FAMILIES = ["basic_arithmetic", "chain_sum", "gsm_symbolic", "countdown", "word_sorting", "maze"]


def write_jsonl(path: Path, num: int) -> Path:
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(num)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@settings(max_examples=15)
@given(st.integers(0, 2**40), st.integers(1, 12), st.sampled_from(SPLITS))
def test_draws_are_deterministic_distinct_and_in_their_split(
    seed: int, num: int, split: Split
) -> None:
    source = ReasoningGymSource(params=ONE_DIGIT_SUMS)
    tasks = source.draw(split, num, seed)
    assert len({task.id for task in tasks}) == num
    assert all(task.split == split == split_of(task.id) for task in tasks)
    assert ReasoningGymSource(params=ONE_DIGIT_SUMS).draw(split, num + 3, seed)[:num] == tasks
    again = source.draw(split, num, seed, exclude=frozenset(task.id for task in tasks[:2]))
    assert again[: num - 2] == tasks[2:]


def test_splits_share_no_task_and_seeds_share_few() -> None:
    source = ReasoningGymSource(params={"min_terms": 5})
    drawn = {split: {task.id for task in source.draw(split, 60, 0)} for split in SPLITS}
    assert len(set.union(*drawn.values())) == 60 * len(SPLITS)
    neighbour = {task.id for task in source.draw("train", 60, 1)}
    assert len(neighbour & drawn["train"]) < 5  # entry i of seed 1 is not entry i+1 of seed 0


@pytest.mark.parametrize("family", FAMILIES)
def test_gold_answers_score_full_marks(family: str) -> None:
    scorer = create_dataset(family, seed=0, size=1)
    for task in ReasoningGymSource(family).draw("probe", 3, 5):
        entry = json.loads(json.dumps(task.entry))
        assert scorer.score_answer(task.reference, entry) == pytest.approx(1.0)
        assert entry["question"] == task.question and task.verifier == "puzzle"
        assert entry["metadata"]["source_dataset"] == family
        assert task.generator.name == f"reasoning_gym/{family}"


def test_a_generator_makes_the_task_again() -> None:
    source = ReasoningGymSource(params=ONE_DIGIT_SUMS)
    task = source.draw("test", 3, 9)[-1]
    params = json.loads(task.generator.difficulty)
    chunk = create_dataset(task.family, seed=task.generator.seed, size=1024, **params)
    assert chunk[task.entry["metadata"]["source_index"]]["question"] == task.question


def test_two_thousand_test_tasks_take_seconds() -> None:
    started = time.process_time()
    tasks = ReasoningGymSource("basic_arithmetic").draw("test", 2_000, 1)
    assert len({task.id for task in tasks}) == 2_000
    assert time.process_time() - started < 10


def test_drawing_leaves_the_process_as_it_was() -> None:
    find_divisors = basic_arithmetic.find_common_divisors
    random.seed(1)
    np.random.seed(1)
    expected = random.Random(1).random(), np.random.RandomState(1).random()
    first = ReasoningGymSource("list_functions").draw("train", 20, 3)  # uses the global generator
    assert (random.random(), np.random.random()) == expected
    assert ReasoningGymSource("list_functions").draw("train", 20, 3) == first
    assert basic_arithmetic.find_common_divisors is find_divisors


def test_entries_that_a_wrong_answer_solves_are_passed_over() -> None:
    family = "polynomial_multiplication"  # a product of 0 is solved by "False"
    scorer = create_dataset(family, seed=0, size=1)
    for task in ReasoningGymSource(family).draw("train", 40, 1):
        assert scorer.score_answer("False", task.entry) < 1


@pytest.mark.parametrize("family", ["codeio", "bf"])
def test_drawing_prints_nothing(family: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert ReasoningGymSource(family).draw("train", 5, 2)
    print("shown")
    assert capfd.readouterr().out == "shown\n"


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(DATASETS.keys() - {"composite"}))
def test_no_family_gives_nonsense_full_marks(family: str) -> None:
    """Every family is refused, or judges three of its tasks as it should."""
    try:
        tasks = ReasoningGymSource(family).draw("train", 3, 2)
    except UserError as error:
        assert "cannot be used" in str(error)
        return
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        for task in tasks:
            gold = verifiers.verify(task, Solution("", (), task.reference, None))
            assert gold.passed or not task.reference, gold
            for answer in ("\0garbage", "no idea", "[[1", "{", "x" * 3000):
                verdict = verifiers.verify(task, Solution("", (), answer, None))
                assert verdict.outcome in ("incorrect", "invalid"), (answer, verdict)


def test_an_exhausted_family_says_so() -> None:
    source = ReasoningGymSource(params={**ONE_DIGIT_SUMS, "min_terms": 2, "max_terms": 2})
    with pytest.raises(UserError, match=r"only \d+ of 50 distinct \"test\" tasks.*widen"):
        source.draw("test", 50, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "basic_aritmetic"}, 'did you mean "basic_arithmetic"'),
        ({"params": {"min_term": 3}}, 'did you mean "min_terms"'),
        ({"params": {"min_terms": 0}}, "min_terms must be positive"),
        ({"params": {"min_terms": "a"}}, "refuses params"),
        ({"params": {"seed": 3}}, "the draw sets it"),
        ({"family": "rearc"}, "do not score 1.0 .*choose another family"),
        ({"family": "game_of_life_halting"}, r"full marks to the answer '\\x00garbage'"),
        ({"family": "coin_flip"}, "full marks to the answer '0'"),
        ({"family": "complex_arithmetic"}, "full marks to the answer 'nan'"),
        ({"famly": "x"}, 'did you mean "family"'),
    ],
)
def test_reasoning_gym_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_source("reasoning_gym", **arguments)


def test_an_unknown_kind_or_split_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='did you mean "jsonl"'):
        make_source("json", path="x")
    with pytest.raises(UserError, match='needs "path"'):
        make_source("jsonl")
    source = make_source("jsonl", path=write_jsonl(tmp_path / "t.jsonl", 40))
    for each in (source, ReasoningGymSource()):
        with pytest.raises(ValueError, match='did you mean "train"'):
            each.draw("trian", 1, 0)


def test_jsonl_draws_every_task_once(tmp_path: Path) -> None:
    source = JsonlSource(write_jsonl(tmp_path / "t.jsonl", 200))
    drawn = {}
    for split in SPLITS:
        num = sum(split_of(task_id) == split for task_id in source_ids(source))
        drawn[split] = source.draw(split, num, 4)
        assert drawn[split] == source.draw(split, num, 4)
    assert sum(map(len, drawn.values())) == 200
    assert source.draw("train", 50, 1) != source.draw("train", 50, 2)
    kept = source.draw("train", 10, 1)
    assert source.draw("train", 5, 1, exclude=frozenset(t.id for t in kept[:5])) == kept[5:]
    with pytest.raises(UserError, match=r"t\.jsonl has \d+ of 500 \"train\" tasks \(200 in all"):
        source.draw("train", 500, 0)


def source_ids(source: JsonlSource) -> list[str]:
    return [task.id for task in source._tasks]


def test_a_task_keeps_its_split_when_the_file_grows(tmp_path: Path) -> None:
    few = JsonlSource(write_jsonl(tmp_path / "a.jsonl", 50))
    many = JsonlSource(write_jsonl(tmp_path / "b.jsonl", 100))
    assert set(source_ids(few)) < set(source_ids(many))


def test_jsonl_takes_what_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"question": "Name a \xe2\x80\xa8colour", "answer": "red",'
        b' "verifier": "exact", "id": 7}\r\n\n'
        b'{"question": "1 + 1?", "answer": 2}\n{"question": "1  + 1?", "answer": "2"}\n'
    )
    by_reference = {task.reference: task for task in JsonlSource(path)._tasks}
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
        JsonlSource(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=60)
@given(st.binary(max_size=60))
def test_reading_jsonl_is_total(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.jsonl"):
        JsonlSource(path)


def test_a_dataset_is_read_from_file_and_folder(tmp_path: Path) -> None:
    rows = {"problem": [f"What is {n} + 1?" for n in range(60)], "gold": list(range(1, 61))}
    saved = datasets.Dataset.from_dict(rows)
    saved.to_parquet(tmp_path / "tasks.parquet")
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "named")
    fields = {"question_field": "problem", "answer_field": "gold"}
    draws = [
        [task.id for task in DatasetSource(tmp_path / name, **fields).draw("train", 30, 0)]
        for name in ("tasks.parquet", "one", "named")
    ]
    assert draws[0] == draws[1] == draws[2]
    for name, arguments, message in (
        ("one", {}, 'unknown column of .* "question"'),
        ("named", {**fields, "split": "trian"}, 'did you mean "train"'),
        ("tasks.parquet", {**fields, "verifier": "puzzle"}, "unknown verifier"),
        ("missing", fields, "missing does not exist"),
        ("missing.parquet", fields, "missing.parquet does not exist"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            DatasetSource(tmp_path / name, **arguments)
        assert "\n" not in str(caught.value)


def test_a_broken_dataset_file_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    (tmp_path / "tasks.txt").write_text("x")
    for name in ("bad.parquet", "tasks.txt"):
        with pytest.raises(UserError, match="cannot be loaded") as caught:
            DatasetSource(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("style", ["simple", "natural"])
def test_no_two_splits_show_the_same_problem(style: str) -> None:
    """Four spellings of a question are one problem to a dialect that shows the operands only."""
    solver = dialect("chain")
    source = ReasoningGymSource(
        params={**ONE_DIGIT_SUMS, "max_terms": 3, "format_style": style}, shown=solver.shown
    )
    shown = {
        split: {solver.render_problem(task) for task in source.draw(split, num, 0)}
        for split, num in (("train", 800), ("test", 40), ("probe", 40), ("audit", 40))
    }
    assert [len(problems) for problems in shown.values()] == [800, 40, 40, 40]
    assert len(set.union(*shown.values())) == 920


def test_a_listed_problem_is_one_task_however_it_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [("What is 4 + 1?", 5), ("Evaluate: 4 + 1.", 5), ("Calculate 4 * 0.", 0), ("2 + 1", 3)]
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    tasks = JsonlSource(path, shown=dialect("chain").shown)._tasks
    assert [task.question for task in tasks] == ["What is 4 + 1?", "2 + 1"]
    with pytest.raises(UserError, match=r"t\.jsonl:1: the chain dialect reads sums"):
        JsonlSource(write_jsonl(path, 3), shown=lambda q: dialect("chain").shown(q + " apples"))
