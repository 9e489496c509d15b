"""Lists of tasks from JSON lines and data sets: every row is a task, or named and counted."""

import json
from collections import Counter
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


def write_rows(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def problem(question: object, answer: object = "1") -> dict[str, object]:
    return {"question": question, "answer": answer}


def test_sixty_problems_are_served_with_a_warning(tmp_path: Path) -> None:
    source = jsonl_source(write_jsonl(tmp_path / "few.jsonl", 60))
    counts = {split: len(source.ids(split)) for split in SPLITS}
    assert min(counts["test"], counts["probe"], counts["audit"]) >= 6 and counts["train"] >= 36
    assert sum(counts.values()) == 60
    (line,) = source.remarks()
    assert "few.jsonl is short" in line and f"{counts['test']} test" in line


@pytest.mark.parametrize("num", range(1, 13))
def test_every_split_has_a_task_from_four_on(tmp_path: Path, num: int) -> None:
    source = jsonl_source(write_jsonl(tmp_path / "t.jsonl", num))
    assert sum(len(source.ids(split)) for split in SPLITS) == num
    if num >= 4:
        assert all(source.ids(split) for split in SPLITS)
    else:
        with pytest.raises(UserError, match="add tasks, at least 4 in all"):
            for split in SPLITS:
                source.draw(split, 1, 0)


def test_spellings_of_one_question_are_in_one_split(tmp_path: Path) -> None:
    """Case, spaces, punctuation and dollar signs make another text, not another problem."""
    spellings = ["What is {} + 25?", "what is ${}+25$", "What is  {} + 25", "WHAT IS {} + 25 ?!"]
    rows = [problem(one.format(n), n + 25) for n in range(300) for one in spellings]
    source = jsonl_source(write_rows(tmp_path / "t.jsonl", rows))
    splits: dict[str, set[str]] = {}
    for task in source.tasks:
        splits.setdefault(task.reference, set()).add(task.split)
    assert len(source.tasks) == 1200 and all(len(found) == 1 for found in splits.values())
    assert source.ids("test")
    # an operator is no punctuation
    rows = [problem(f"{n} {sign} {n + 1}") for n in range(400) for sign in "+-*"]
    of_one = jsonl_source(write_rows(tmp_path / "t.jsonl", rows)).tasks
    assert any(of_one[3 * n].split != of_one[3 * n + 1].split for n in range(400))


@pytest.mark.parametrize(
    ("spelling", "plain"),
    [
        ("{} \u2212 25?", "{} - 25?"), ("{} \u2013 25?", "{} - 25?"), ("{} \u2010 25?", "{} - 25?"),
        ("{} \u2014 25?", "{} - 25?"), ("\u00bd of {}", "1/2 of {}"), ("{} \u00f7 5", "{} / 5"),
        ("{} \u00d7 25?", "{}*25"), ("{} \u00b7 25?", "{}*25"), ("{} \u22c5 25?", "{}*25"),
    ],
)  # fmt: skip
def test_unicode_signs_of_one_operator_are_one(tmp_path: Path, spelling: str, plain: str) -> None:
    rows = [problem(one.format(n), n) for n in range(300) for one in (spelling, plain)]
    source = jsonl_source(write_rows(tmp_path / "t.jsonl", rows))
    splits: dict[str, set[str]] = {}
    for task in source.tasks:
        splits.setdefault(task.reference, set()).add(task.split)
    assert len(source.tasks) == 600 and all(len(found) == 1 for found in splits.values())


FAULTY = [
    problem("1?"), problem(""), problem("2?", None), problem("3?", "1"), problem("4?"),
    problem("3?", "2"), problem("4 ?"), {"question": "5?"}, problem("6?"), problem("7?"),
]  # fmt: skip


def test_every_faulty_row_is_named_and_left_out_on_request(tmp_path: Path) -> None:
    """Two rows that contradict each other are both faulty: nobody knows which is right."""
    path = write_rows(tmp_path / "t.jsonl", FAULTY)
    with pytest.raises(UserError) as caught:
        jsonl_source(path)
    message = str(caught.value)
    assert message.startswith("5 of 10 rows are faulty: ") and "\n" not in message
    assert all(f"t.jsonl:{row}: " in message for row in (2, 3, 4, 6, 8))
    assert "skip_faulty_rows = true" in message
    source = jsonl_source(path, skip_faulty_rows=True)
    assert sorted(task.question for task in source.tasks) == ["1?", "4 ?", "4?", "6?", "7?"]
    (report,) = source.reports()
    assert len(report["faults"]) == 5 and report["num_rows"] == 10
    assert any("5 of 10 rows are faulty" in line for line in source.remarks())


def test_a_message_names_each_kind_of_fault_once_and_the_report_every_row(tmp_path: Path) -> None:
    """Of one kind of fault the first row stands for all: twenty equal lines tell no more."""
    path = write_rows(
        tmp_path / "t.jsonl",
        [problem("")] * 28
        + [problem("a?", answer=""), problem("b?", answer="")]
        + [problem(f"{n}?") for n in range(9)],
    )
    with pytest.raises(UserError) as caught:
        jsonl_source(path)
    named = str(caught.value)
    assert "30 of 39 rows are faulty" in named and named.count("t.jsonl:") == 2
    assert "jsonl:1: " in named and "(and 27 more like it)" in named and "(and 1 more" in named
    (report,) = jsonl_source(path, skip_faulty_rows=True).reports()
    assert len(report["faults"]) == 30
    long = [{"question": f"{n}?", "answer": [letter * 90, "b"]} for n, letter in enumerate("cdef")]
    path = write_rows(tmp_path / "long.jsonl", long + [problem(f"{n}?") for n in range(9)])
    with pytest.raises(UserError, match=r"4 of 13 rows .*\(and 3 more like it\)"):
        jsonl_source(path)  # what a row says is cut short there, and its quote with it


def test_repeated_rows_are_one_task(tmp_path: Path) -> None:
    rows = [problem(f"{n}?") for n in range(1200)] + [problem("5?"), problem(" 5? ")]
    source = jsonl_source(write_rows(tmp_path / "t.jsonl", rows))
    assert len(source.tasks) == 1200
    assert source.remarks() == [
        "t.jsonl: 2 of 1202 rows repeat an earlier problem and are left out"
    ]


def test_test_rows_of_ones_own_are_the_test_split(tmp_path: Path) -> None:
    """What they ask is not trained on, in whatever spelling."""
    train = [problem(f"What is {n} + 1?", n + 1) for n in range(100)]
    test = [problem(f"what is {n}+1", n + 1) for n in range(95, 110)]
    source = jsonl_source(
        write_rows(tmp_path / "train.jsonl", train),
        test_path=write_rows(tmp_path / "test.jsonl", test),
    )
    asked = {split: {t.question for t in source.tasks if t.split == split} for split in SPLITS}
    assert asked["test"] == {row["question"] for row in test}
    rest = asked["train"] | asked["probe"] | asked["audit"]
    assert rest == {row["question"] for row in train[:95]} and len(asked["probe"]) >= 8
    assert source.census.num_in_test == 5
    assert any("5 of 115 rows ask what the test rows ask" in line for line in source.remarks())


def test_a_data_sets_own_test_split(tmp_path: Path) -> None:
    """GSM8K and MATH as they are: solutions that hold the answer, and a split for testing."""
    parts = {
        name: datasets.Dataset.from_dict({
            "problem": [f"{name}: what is {n} / 2?" for n in range(num)],
            "solution": [rf"Half of {n} is $\boxed{{\frac{{{n}}}{{2}}}}$." for n in range(num)],
        })
        for name, num in (("train", 80), ("test", 20))
    }  # fmt: skip
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "math")
    fields = Fields("problem", "solution", "boxed")
    source = dataset_source(tmp_path / "math", fields=fields, test_split="test")
    assert len(source.ids("test")) == 20 and len(source.ids("train")) >= 54
    by_split = {split: source.draw(split, 5, 0) for split in SPLITS}
    assert all(task.question.startswith("test") for task in by_split["test"])
    assert all(task.reference.startswith(r"\frac{") for task in by_split["train"])


def test_a_round_plays_every_task_before_any_comes_again(tmp_path: Path) -> None:
    source = jsonl_source(write_jsonl(tmp_path / "t.jsonl", 60))
    num_train = len(source.ids("train"))
    played: Counter[str] = Counter()
    rounds = []
    for seed in range(6):
        tasks = source.draw_round(25, seed, frozenset(), played)
        assert tasks == source.draw_round(25, seed, frozenset(), played)
        rounds.append([task.id for task in tasks])
        played.update(rounds[-1])
        assert max(played.values()) - min(played[i] for i in source.ids("train")) <= 1
    assert sum(map(len, rounds)) == 150 > 2 * num_train
    assert set(played) == source.ids("train")
    assert rounds[0] != rounds[2][:25]


def test_a_round_that_is_longer_than_the_list_repeats_it(tmp_path: Path) -> None:
    source = jsonl_source(write_jsonl(tmp_path / "t.jsonl", 20))
    tasks = source.draw_round(64, 0, frozenset(), {})
    counts = Counter(task.id for task in tasks)
    assert len(tasks) == 64 and set(counts) == source.ids("train")
    assert max(counts.values()) - min(counts.values()) <= 1
    with pytest.raises(UserError, match='no "train" tasks left'):
        source.draw_round(1, 0, source.ids("train"), {})


def test_what_does_not_fit_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [problem("x" * n) for n in range(1, 101)]
    source = jsonl_source(
        write_rows(tmp_path / "t.jsonl", rows), fits=lambda t: len(t.question) < 81
    )
    assert len(source.tasks) == 80 and source.census.num_too_long == 20
    assert all(len(task.question) < 81 for task in source.draw_round(80, 0, frozenset(), {}))


@pytest.mark.parametrize("num", [60, 200])
def test_splits_do_not_depend_on_the_context(tmp_path: Path, num: int) -> None:
    """An evaluation without a critic holds more tasks than the run did, and tests no other."""
    rows = [problem(f"problem {n} " + "x" * (37 * n % 100)) for n in range(num)]
    path = write_rows(tmp_path / "t.jsonl", rows)
    wide = jsonl_source(path)
    for longest in (50, 80, 105):
        narrow = jsonl_source(path, fits=lambda task, most=longest: len(task.question) < most)
        assert narrow.census.num_too_long > 0
        for split in SPLITS:
            assert narrow.ids(split) and narrow.ids(split) <= wide.ids(split)
