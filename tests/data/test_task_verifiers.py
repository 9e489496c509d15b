"""A task's own verifier and its parameters: from a JSON line, and from the configuration."""

import json
from pathlib import Path

import datasets
import pytest

from data.errors import UserError
from data.rebuild import task_of
from data.records import SampledWith
from data.rows import Fields
from data.sealed import make_record, record_from_row, record_row
from data.sources import dataset_source, jsonl_source, make_source
from pipelines.game.curriculum import build_source
from pipelines.settings.load import load_settings
from rewards.verdict import Verdict

SCHEMA = {"type": "object", "required": ["age"]}
LINES: list[dict[str, object]] = [
    {"question": "a", "answer": "1.5", "verifier": "numeric"},
    {"question": "b", "answer": 2, "verifier_parameters": {"absolute_tolerance": 1}},
    {"question": "c", "answer": {"age": 3}, "verifier": "json_schema",
     "verifier_parameters": {"schema": SCHEMA}},
    {"question": "d", "answer": "x", "verifier": "regex", "verifier_parameters": {"pattern": "x+"}},
    {"question": "e", "answer": "Paris", "verifier": "exact"},
]  # fmt: skip


def written(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_a_line_adds_to_the_default_verifiers_parameters(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", LINES)
    source = jsonl_source(path, Fields(verifier="numeric", parameters={"relative_tolerance": 0.1}))
    found = {t.question: (t.verifier, t.reference, t.entry) for t in source.tasks}
    assert found == {
        "a": ("numeric", "1.5", {"relative_tolerance": 0.1}),
        "b": ("numeric", "2", {"relative_tolerance": 0.1, "absolute_tolerance": 1}),
        "c": ("json_schema", '{"age":3}', {"schema": SCHEMA}),
        "d": ("regex", "x", {"pattern": "x+"}),
        "e": ("exact", "Paris", {}),
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"verifier": "numeric", "verifier_parameters": {"tolerance": 1}}, "did you mean"),
        ({"verifier": "numeric", "verifier_parameters": [1]}, "must be a JSON object, got [1]"),
        ({"verifier": "regex"}, 'needs the parameter "pattern"'),
        ({"verifier_parameters": {"pattern": "x"}}, 'verifier "math" has no parameters'),
        ({"verifier": "puzzle"}, "unknown verifier"),
        ({"answer": None, "verifier": "json_schema", "verifier_parameters": {"schema": {}}},
         "must be non-empty text or a number"),
    ],
)  # fmt: skip
def test_a_wrong_line_names_itself(tmp_path: Path, line: dict[str, object], told: str) -> None:
    path = written(tmp_path / "t.jsonl", [LINES[0], {"question": "z", "answer": "1", **line}])
    with pytest.raises(UserError) as refused:
        jsonl_source(path)
    assert str(refused.value).startswith(f"{path}:2: ") and told in str(refused.value)


def test_one_question_with_two_tolerances_is_refused(tmp_path: Path) -> None:
    other = {**LINES[0], "verifier_parameters": {"absolute_tolerance": 9}}
    with pytest.raises(UserError, match="the same question stands at"):
        jsonl_source(written(tmp_path / "t.jsonl", [LINES[0], other]))


def test_a_dataset_takes_its_verifier_from_the_configuration(
    tmp_path: Path, checkout: Path
) -> None:
    rows = {"question": [f"q {n}" for n in range(40)], "answer": [float(n) for n in range(40)]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "t.parquet")
    settings = load_settings(checkout / "configs" / "tiny.toml", [
        "tasks.dialect=free", "tasks.source=dataset", f"tasks.path={tmp_path / 't.parquet'}",
        "tasks.params={}", "tasks.verifier=numeric",
        "tasks.verifier_parameters={relative_tolerance = 0.5}",
    ])  # fmt: skip
    (task,) = build_source(settings).draw("train", 1, 0)
    assert (task.verifier, task.entry) == ("numeric", {"relative_tolerance": 0.5})
    with pytest.raises(UserError, match='row 0: verifier "regex" needs the parameter "pattern"'):
        dataset_source(tmp_path / "t.parquet", fields=Fields(verifier="regex"))
    with pytest.raises(UserError, match="verifier_parameter"):
        make_source("jsonl", path="x", verifier_parameters={})


REFUSED: list[dict[str, object]] = [
    {"answer": "a great many", "verifier": "numeric"},
    {"answer": "?", "verifier": "math"},
    {"answer": "9" * 5000, "verifier": "math"},
    {"answer": "not json", "verifier": "json_schema", "verifier_parameters": {"schema": {}}},
    {"answer": {"age": "x"}, "verifier": "json_schema",
     "verifier_parameters": {"schema": {"properties": {"age": {"type": "integer"}}}}},
    {"answer": "[1]", "verifier": "json_schema",
     "verifier_parameters": {"schema": {"$ref": "#/nowhere"}}},
    {"answer": "abc", "verifier": "regex", "verifier_parameters": {"pattern": "[0-9]+"}},
    {"answer": "12", "verifier": "composite", "verifier_parameters": {"parts": [
        {"verifier": "exact"}, {"verifier": "regex", "parameters": {"pattern": "[a-z]+"}}]}},
]  # fmt: skip


@pytest.mark.parametrize("is_test", [False, True])
def test_an_answer_that_its_own_verifier_refuses_is_a_fault(
    tmp_path: Path, checkout: Path, is_test: bool
) -> None:
    """Every sample of such a task would be wrong, or an error that no figure counts."""
    lines = [{"question": f"z{n}", **line} for n, line in enumerate(REFUSED)]
    sound = [{"question": f"s{n}", "answer": str(n)} for n in range(20)]
    bad = written(tmp_path / "bad.jsonl", [*LINES, *lines])
    good = written(tmp_path / "good.jsonl", sound)
    path, other = (good, bad) if is_test else (bad, good)
    given = [
        "tasks.dialect=free", "tasks.source=jsonl", "tasks.params={}", f"tasks.path={path}",
        f"tasks.test_path={other}", "tasks.verifier=numeric",
    ]  # fmt: skip
    config = checkout / "configs" / "tiny.toml"
    with pytest.raises(UserError, match="8 of 33 rows are faulty") as refused:
        build_source(load_settings(config, given))
    for number, line in enumerate(REFUSED, start=len(LINES) + 1):
        assert f"{bad}:{number}: its verifier {line['verifier']} does not accept" in str(
            refused.value
        )
    source = build_source(load_settings(config, [*given, "tasks.skip_faulty_rows=true"]))
    (report,) = source.reports()
    assert len(report["faults"]) == 8 and sum(report["num_tasks"].values()) == 25


def test_a_pattern_that_backtracks_on_every_answer_ends_the_reading(
    tmp_path: Path, checkout: Path
) -> None:
    lines = [{"question": f"q{n}", "answer": "a" * 40 + f"!{n}"} for n in range(100)]
    settings = load_settings(checkout / "configs" / "tiny.toml", [
        "tasks.dialect=free", "tasks.source=jsonl", "tasks.params={}", "tasks.verifier=regex",
        f"tasks.path={written(tmp_path / 't.jsonl', lines)}", "rewards.timeout_seconds=0.2",
        "tasks.verifier_parameters={pattern = '(a+)+'}",
    ])  # fmt: skip
    with pytest.raises(UserError, match=r"t\.jsonl:4: .*no verdict within .*so did 3 rows before"):
        build_source(settings)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("tasks.verifier=numeric", "bring their own scorer"),
        ("tasks={source='jsonl', verifier='numerik'}", 'did you mean "numeric"'),
        ("tasks={source='jsonl', verifier_parameters={pattern='x'}}", "has no parameters"),
        (
            "tasks={source='jsonl', verifier='regex', verifier_parameters={pattern='('}}",
            "tasks.verifier_parameters = {'pattern': '('}: parameter pattern",
        ),
    ],
)
def test_a_wrong_setting_names_itself(checkout: Path, override: str, told: str) -> None:
    with pytest.raises(UserError) as refused:
        load_settings(checkout / "configs" / "tiny.toml", [override])
    assert told in str(refused.value)


def test_a_record_keeps_what_its_verifier_needs(tmp_path: Path) -> None:
    for task in jsonl_source(
        written(tmp_path / "t.jsonl", LINES), Fields(verifier="numeric")
    ).tasks:
        verdict = Verdict("correct", task.verifier, "1", 1.0)
        record = make_record(
            task, solution="x", answer=task.reference, verdict=verdict, learner_hash="h", round=0,
            pass_rate=1.0, sampling=SampledWith(temperature=1.0, top_p=1.0, seed=0),
        )  # fmt: skip
        again = task_of(record_from_row(json.loads(json.dumps(record_row(record)))))
        assert (again.verifier, again.entry) == (task.verifier, task.entry)
