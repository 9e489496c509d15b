"""Numbers within a tolerance, JSON by a schema, patterns, and several verifiers of one answer."""

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from verifier_cases import ANY_PERSON, CODE, PERSON, answered, part, task_of

from data.errors import UserError
from data.records import Task
from rewards.composite import combined
from rewards.solution import Solution
from rewards.verdict import Outcome, Verdict
from rewards.verifiers import Verifiers

CATASTROPHE = "(a+)+b"  # backtracks for ever on
HOSTILE = "a" * 60


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(timeout_seconds=20)) as shared:
        yield shared


PERCENT = {"relative_tolerance": 0.01}


@pytest.mark.parametrize(
    ("task", "answer", "outcome"),
    [
        (task_of("numeric", "3.14159", **PERCENT), "3.14", "correct"),
        (task_of("numeric", "3.14159", **PERCENT), "3.2", "incorrect"),
        (task_of("numeric", "3.14159"), "3.14", "incorrect"),
        (task_of("numeric", "100", **PERCENT), "101", "correct"),
        (task_of("numeric", "100", **PERCENT), "101.000001", "incorrect"),
        (task_of("numeric", "-100", **PERCENT), "100", "incorrect"),
        (task_of("numeric", "1,000", **PERCENT), "$995", "correct"),
        (task_of("numeric", "#### 72", **PERCENT), "about 72.5 clips", "correct"),
        (task_of("numeric", "5 km", **PERCENT), "5.01 km", "correct"),
        (task_of("numeric", "5 km", **PERCENT), "5.01 kg", "incorrect"),
        (task_of("numeric", "25%", **PERCENT), "0.251", "correct"),
        (task_of("numeric", "0.25", **PERCENT), "25.1%", "correct"),
        (task_of("numeric", "0.25", **PERCENT), "25.1", "incorrect"),
        (task_of("numeric", "6.02e23", **PERCENT), r"6.022 \times 10^{23}", "correct"),
        (task_of("numeric", "0", absolute_tolerance=0.01), "0.005", "correct"),
        (task_of("numeric", "0", absolute_tolerance=0.01), "0.5", "incorrect"),
        (task_of("numeric", "0", absolute_tolerance=0.01), "0.5%", "correct"),
        (task_of("numeric", "5", **PERCENT), "five", "correct"),
        (task_of("numeric", "5", **PERCENT), "nan", "invalid"),
        (task_of("numeric", "5", **PERCENT), "inf", "invalid"),
        (task_of("numeric", "5", **PERCENT), "5 or 6", "invalid"),
        (task_of("numeric", "15", **PERCENT), "30/2", "invalid"),
        (task_of("numeric", "5", **PERCENT), "9" * 399, "incorrect"),
        (task_of("numeric", "5", **PERCENT), "9" * 9999, "invalid"),
        (task_of("numeric", "5", **PERCENT), "1e999999999", "invalid"),
        (task_of("numeric", "north"), "5", "error"),
    ],
)
def test_numbers_are_right_within_the_tolerance(
    task: Task, answer: str, outcome: str, verifiers: Verifiers
) -> None:
    verdict = verifiers.verify(task, answered(answer))
    assert verdict.outcome == outcome, verdict
    assert (verdict.verifier, verdict.score is None) == ("numeric", outcome == "error")


ANN = '{"name": "Ann", "age": 3}'
VALUE: dict[str, object] = {"schema": PERSON}


@pytest.mark.parametrize(
    ("task", "answer", "outcome"),
    [
        (task_of("json_schema", ANN, **VALUE), '{"age":3.0,"name":"Ann"}', "correct"),
        (task_of("json_schema", ANN, **VALUE), f"```json\n{ANN}\n```", "correct"),
        (task_of("json_schema", ANN, **VALUE), f"```json\r\n{ANN}\r\n```\r\n", "correct"),
        (task_of("json_schema", ANN, **VALUE), '{"name": "Bob", "age": 3}', "incorrect"),
        (task_of("json_schema", ANN, **VALUE), '{"name": "Ann", "age": true}', "incorrect"),
        (task_of("json_schema", ANN, **VALUE), f"The answer is {ANN}", "invalid"),
        (task_of("json_schema", ANN, **VALUE), '{"name": "Ann", "age": 4, "age": 3}', "invalid"),
        (task_of("json_schema", ANN, **VALUE), "[" * 99_000, "invalid"),
        (task_of("json_schema", ANN, **VALUE), '{"a":' * 900 + "1" + "}" * 900, "incorrect"),
        (task_of("json_schema", ANN, **VALUE), "1" * 5000, "invalid"),
        (task_of("json_schema", ANN, **ANY_PERSON), '{"name": "Bob", "age": 0}', "correct"),
        (task_of("json_schema", ANN, **ANY_PERSON), '{"name": "Bob", "age": -1}', "incorrect"),
        (task_of("json_schema", ANN, **ANY_PERSON), '{"name": "Bob", "age": NaN}', "invalid"),
        (task_of("json_schema", ANN, **ANY_PERSON), '{"name": "Bob", "age": 1e999}', "invalid"),
        (task_of("json_schema", ANN, **ANY_PERSON), "{}", "incorrect"),
        (task_of("json_schema", "Ann", **VALUE), ANN, "error"),
        (task_of("json_schema", ANN, schema={"$ref": "http://localhost:1/x"}), ANN, "error"),
        (task_of("json_schema", "1", schema={"multipleOf": 0.5}), "1", "correct"),
        (
            task_of("json_schema", "1", schema={"multipleOf": 0.5}, equals_reference=False),
            "1" * 400,
            "invalid",
        ),
    ],
)
def test_json_is_right_by_its_schema_and_its_value(
    task: Task, answer: str, outcome: str, verifiers: Verifiers
) -> None:
    verdict = verifiers.verify(task, answered(answer))
    assert verdict.outcome == outcome, verdict


@pytest.mark.parametrize(
    ("task", "answer", "outcome"),
    [
        (task_of("regex", "ABC-1234", pattern=CODE), " XYZ-0000\n", "correct"),
        (task_of("regex", "ABC-1234", pattern=CODE), "XYZ-0000 or so", "incorrect"),
        (task_of("regex", "ABC-1234", pattern=CODE), "xyz-0000", "incorrect"),
        (task_of("regex", "abc", pattern=f"(?i){CODE}"), "xyz-0000", "correct"),
        (task_of("regex", "x1", pattern=r"\d", search=True), "as 7 says", "correct"),
        (task_of("regex", "x1", pattern=r"\d", search=True), "as it says", "incorrect"),
        (task_of("regex", "x", pattern="x+"), "x" * 100_001, "invalid"),
    ],
)
def test_a_pattern_is_matched_whole_unless_it_is_searched(
    task: Task, answer: str, outcome: str, verifiers: Verifiers
) -> None:
    assert verifiers.verify(task, answered(answer)).outcome == outcome


def test_a_catastrophic_answer_costs_its_own_deadline_only() -> None:
    hostile = task_of("regex", "aab", pattern=CATASTROPHE)
    nested = {"type": "string", "pattern": f"^{CATASTROPHE}$"}
    schema = task_of("json_schema", '"aab"', schema=nested, equals_reference=False)
    with closing(Verifiers(timeout_seconds=2, workers=3)) as verifiers:
        warm = [(hostile, answered(f"{'a' * n}b")) for n in range(1, 7)]
        assert all(verdict.passed for verdict in verifiers.verify_all(warm))
        started = time.monotonic()
        pairs = [(hostile, answered(HOSTILE)), (schema, answered(f'"{HOSTILE}"')), *warm]
        verdicts = verifiers.verify_all(pairs)
        spent = time.monotonic() - started
    assert [v.outcome for v in verdicts[:2]] == ["timeout"] * 2
    assert all(v.passed for v in verdicts[2:])
    assert spent < 30, f"{spent:.1f} s for two deadlines of 2 s, beside each other"


def test_a_malformed_solution_is_invalid_to_all_of_them(verifiers: Verifiers) -> None:
    malformed = Solution("x", (), None, "no_answer")
    for task in (
        task_of("numeric", "1"),
        task_of("regex", "1", pattern=".*"),
        task_of("json_schema", "1", schema={}),
        task_of("composite", "1", parts=[part("exact"), part("numeric")]),
    ):
        verdict = verifiers.verify(task, malformed)
        assert (verdict.outcome, verdict.score) == ("invalid", 0.0)
        assert "no_answer" in verdict.detail and verdict.verifier == task.verifier


FORMED = task_of("composite", "12", parts=[part("numeric"), part("regex", pattern=r"\d+")])
EITHER = task_of("composite", "12", require="any", parts=[part("exact"), part("exact", "twelve")])
NESTED = task_of(
    "composite", "12",
    parts=[part("regex", pattern=".{2,6}"), part("composite", require="any", parts=[
        part("exact"), part("exact", "twelve")
    ])],
)  # fmt: skip


@pytest.mark.parametrize(
    ("task", "answer", "outcome"),
    [
        (FORMED, "12", "correct"),
        (FORMED, "12.0", "incorrect"),
        (FORMED, "13", "incorrect"),
        (FORMED, "a dozen or so", "invalid"),
        (EITHER, "12", "correct"),
        (EITHER, "Twelve", "correct"),
        (EITHER, "13", "incorrect"),
        (NESTED, "twelve", "correct"),
        (NESTED, "thirteen", "incorrect"),
    ],
)
def test_a_composite_asks_its_parts(
    task: Task, answer: str, outcome: str, verifiers: Verifiers
) -> None:
    verdict = verifiers.verify(task, answered(answer))
    assert (verdict.outcome, verdict.verifier) == (outcome, "composite"), verdict


PASS = Verdict("correct", "exact", "1", 1.0)
FAIL = Verdict("incorrect", "exact", "1", 0.0)
SILENT = Verdict("timeout", "regex", "1", None, "no verdict within 1 s")


@pytest.mark.parametrize(
    ("verdicts", "all_of_them", "any_of_them"),
    [
        ([PASS, PASS], "correct", "correct"),
        ([PASS, FAIL], "incorrect", "correct"),
        ([FAIL, FAIL], "incorrect", "incorrect"),
        ([SILENT, PASS], "timeout", "correct"),
        ([SILENT, FAIL], "incorrect", "timeout"),
        ([SILENT, SILENT], "timeout", "timeout"),
    ],
)
def test_a_part_that_says_nothing_leaves_the_whole_open_unless_another_decides(
    verdicts: list[Verdict], all_of_them: Outcome, any_of_them: Outcome
) -> None:
    for order in (verdicts, verdicts[::-1]):
        for require, outcome in (("all", all_of_them), ("any", any_of_them)):
            found = combined(order, require)  # type: ignore[arg-type]
            assert found.outcome == outcome
            assert found.counted == (outcome != "timeout"), "never a silent 0"


def test_a_batch_keeps_tasks_apart_that_differ_in_their_parameters_alone(
    verifiers: Verifiers,
) -> None:
    tasks = [task_of("numeric", "10", absolute_tolerance=allowed) for allowed in (0, 5)]
    verdicts = verifiers.verify_all([(task, answered("12")) for task in tasks * 2])
    assert [verdict.passed for verdict in verdicts] == [False, True] * 2


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (task_of("numeric", "1", tolerance=1), 'did you mean "relative_tolerance"'),
        (task_of("numeric", "1", relative_tolerance="much"), "relative_tolerance of verifier"),
        (task_of("numeric", "1", absolute_tolerance=-1), "greater than or equal to 0"),
        (task_of("numeric", "1", absolute_tolerance=True), "should be a valid number"),
        (task_of("numeric", "1", relative_tolerance="0.1"), "should be a valid number"),
        (task_of("json_schema", "1", schema={}, equals_reference="no"), "should be a valid bool"),
        (task_of("regex", "1"), 'needs the parameter "pattern"'),
        (task_of("regex", "1", pattern="("), "is not a regular expression"),
        (task_of("json_schema", "1"), 'needs the parameter "schema"'),
        (task_of("json_schema", "1", schema={"type": "strin"}), "not a JSON schema"),
        (task_of("composite", "1", parts=[part("exact")]), "at least 2 items"),
        (task_of("composite", "1", parts=[part("exact"), part("puzzle")]), 'verifier "puzzle"'),
        (task_of("composite", "1", parts=[part("exact"), part("regex")]), "part 1: verifier"),
    ],
)
def test_wrong_parameters_name_themselves(task: Task, told: str, verifiers: Verifiers) -> None:
    with pytest.raises(UserError) as refused:
        verifiers.verify(task, answered("1"))
    assert told in str(refused.value)
