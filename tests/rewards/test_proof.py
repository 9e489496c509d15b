"""Before a run each verifier passes right answers and refuses planted wrong ones, or is refused."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from verifier_cases import ANY_PERSON, CODE, PERSON, part, task_of

from data.errors import UserError
from data.records import Task
from data.sources import ReasoningGymSource
from rewards.proof import Proof, changed, has_one_answer, planted, prove, require, table
from rewards.verifiers import Verifiers

PEOPLE = ['{"name": "Ann", "age": 3}', '{"name": "Bob", "age": 70}', '{"name": "Cem", "age": 41}']
SOUND = {
    "math": [task_of("math", r"\frac{1}{2}"), task_of("math", "72"), task_of("math", "east")],
    "whole solutions": [
        task_of("math", f"There are {n} of them, as 3 + 4 = 7. {'So it goes. ' * 200}\n#### {n}")
        for n in (7, 12)
    ],
    "exact": [task_of("exact", "Paris"), task_of("exact", "Rome"), task_of("exact", "Oslo")],
    "numeric": [task_of("numeric", n, relative_tolerance=0.1) for n in ("3.14", "250", "-7%", "0")],
    "json_schema": [task_of("json_schema", one, schema=PERSON) for one in PEOPLE],
    "forms": [task_of("json_schema", one, **ANY_PERSON) for one in PEOPLE],
    "regex": [task_of("regex", one, pattern=CODE) for one in ("ABC-1234", "XYZ-0000")],
    "composite": [
        task_of("composite", n, parts=[part("numeric"), part("regex", pattern=r"\d+")])
        for n in ("12", "350")
    ],
}


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(timeout_seconds=20)) as shared:
        yield shared


def in_family(name: str, tasks: list[Task]) -> list[Task]:
    return [replace(task, family=name) for task in tasks]


def test_sound_verifiers_prove_themselves(verifiers: Verifiers) -> None:
    tasks = [task for name, group in SOUND.items() for task in in_family(name, group)]
    proofs = prove(verifiers, tasks, 8)
    assert [proof.family for proof in proofs] == list(SOUND)
    for proof in proofs:
        assert (proof.tpr, proof.tnr, proof.faults) == (1.0, 1.0, ()), proof
        assert proof.num_right == len(SOUND[proof.family]) and proof.num_wrong >= 6
    require(proofs, 1.0, 1.0)
    shown = table(proofs).splitlines()
    assert shown[0].split() == ["verifier", "family", "right", "TPR", "wrong", "TNR"]
    assert shown[4].split()[:4] == ["numeric", "numeric", "4", "1.000"]


def json_tasks(schema: dict[str, object], equals_reference: bool, *texts: str) -> list[Task]:
    given = {"schema": schema, "equals_reference": equals_reference}
    return [task_of("json_schema", text, **given) for text in texts]


YEARS = ("1990", "1985", "1999", "2001", "1993", "2010", "2005", "1978")
# Each task's neighbours, or an empty value, are right by definition.
NEAR = {
    "years within two percent": [task_of("numeric", n, relative_tolerance=0.02) for n in YEARS],
    "shares within a quarter": [
        task_of("numeric", f"0.{n}", absolute_tolerance=0.25) for n in (3, 9, 5, 7, 2, 6, 8, 4)
    ],
    "shares and percentages": [
        task_of("numeric", n, relative_tolerance=0.1) for n in ("50%", "0.52", "47%", "0.9")
    ],
    "fractions": [
        task_of("math", n)
        for n in ("1/2", "0.5", r"\frac{1}{2}", "50%", "3/4", "0.75", "1/4", "0.25")
    ],
    "no solution": [task_of("math", n) for n in ("no solution", r"\emptyset", "DNE", "{}")],
    "objects spelled twice": json_tasks(
        {}, True, '{"label":"pos"}', '{"label": "pos"}', '{"label":"neg"}', '{"label": "neg"}'
    ),
    "any array": json_tasks({"type": "array"}, False, '["a"]', '["b"]', '["c"]'),
    "any object": json_tasks({"type": "object"}, False, '{"a": 1}', '{"a": 2}'),
    "an object or null": json_tasks(
        {
            "anyOf": [{"type": "null"}, {"$ref": "#/$defs/any"}],
            "$defs": {"any": {"type": "object"}},
        },
        False,
        '{"a": 1}',
        '{"a": 2}',
    ),
    "Unicode's compatibility forms": [
        task_of("exact", n) for n in ("\uff11", "\u2460", "a b", "a  b")
    ],
    "both parts compare": [
        task_of(
            "composite",
            n,
            parts=[part("numeric", relative_tolerance=0.02), part("regex", pattern=r"\d+")],
        )
        for n in YEARS
    ],
}


@pytest.mark.parametrize("name", NEAR)
def test_what_is_right_by_definition_is_not_planted(name: str, verifiers: Verifiers) -> None:
    (proof,) = prove(verifiers, NEAR[name], 8)
    assert (proof.tpr, proof.tnr, proof.faults) == (1.0, 1.0, ())
    assert proof.num_wrong >= 4 * len(NEAR[name]), "there is enough left that is wrong"


ANY_INTEGER = {"require": "any", "parts": [part("math"), part("regex", pattern=r"-?\d+")]}


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (NEAR["years within two percent"], "for 8 of 8 tasks every other task's answer is right"),
        ([task_of("composite", n, **ANY_INTEGER) for n in ("5", "7")], "the reference decides"),
        (NEAR["shares within a quarter"], ""),
        (NEAR["any array"], ""),
        (SOUND["composite"], ""),
    ],
)
def test_what_the_rates_do_not_say_is_said(
    tasks: list[Task], told: str, verifiers: Verifiers
) -> None:
    (proof,) = prove(verifiers, tasks, 8)
    assert proof.tnr == 1.0 and bool(proof.remark) == bool(told) and told in proof.remark
    assert proof.row()["remark"] == proof.remark
    last = table([proof]).splitlines()[-1]
    assert (last == f"verifier {proof.verifier} of test: {proof.remark}") == bool(told)


BAD = {
    "a pattern that takes anything": [task_of("regex", "x", pattern="(?s).*")],
    "a pattern that does not take the reference": [task_of("regex", "abc", pattern=CODE)],
    "a schema that takes anything": [
        task_of("json_schema", one, schema={}, equals_reference=False) for one in PEOPLE
    ],
    "a schema that takes any value in words": json_tasks(
        {"type": ["array", "object", "null"]}, False, *PEOPLE
    ),
    "a schema that refuses the references": [
        task_of("json_schema", one, schema={"type": "array"}) for one in PEOPLE
    ],
    "a tolerance wider than the answers differ": [
        task_of("numeric", n, absolute_tolerance=50) for n in ("3", "5", "9")
    ],
    "a tolerance for any number, of one task": [task_of("numeric", "5", absolute_tolerance=1000)],
    "references that are not numbers": [task_of("numeric", n) for n in ("north", "south")],
    "a composite with a loose part": [
        task_of("composite", n, require="any", parts=[part("exact"), part("regex", pattern=".*")])
        for n in ("3", "5")
    ],
    "a scorer of 24 that does not look at the numbers": ReasoningGymSource("puzzle24").draw(
        "train", 8, 1
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_verifier_that_cannot_tell_is_refused(name: str, verifiers: Verifiers) -> None:
    proofs = prove(verifiers, in_family(name, BAD[name]), 8)
    with pytest.raises(UserError) as refused:
        require(proofs, 0.95, 0.95)
    told = str(refused.value)
    assert f"of {name}" in told and ("tpr" in told or "tnr" in told) and " where " in told
    assert "lower the threshold" in told
    require(proofs, 0.0, 0.0)


def test_a_verifier_that_says_nothing_has_not_refused() -> None:
    task = task_of("regex", "aab", pattern="(a+)+b|\0garbage")
    hangs = replace(task, reference="a" * 60)
    with closing(Verifiers(timeout_seconds=1)) as verifiers:
        (proof,) = prove(verifiers, [hangs], 8)
    assert proof.num_passed == 0 and proof.num_refused < proof.num_wrong
    assert any("timeout" in fault for fault in proof.faults)


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        (task_of("math", "72"), "82"),
        (task_of("math", r"\frac{1}{2}"), r"\frac{1}{3}"),
        (task_of("exact", "0.09"), "0.08"),
        (task_of("exact", "0"), "1"),
        (task_of("exact", "Paris"), None),
        (task_of("numeric", "100", relative_tolerance=0.9), "280"),
        (task_of("numeric", "0", absolute_tolerance=3), "6"),
        (task_of("numeric", "0"), "1"),
        (task_of("numeric", "0.5"), "1"),
    ],
)
def test_a_number_is_changed_beyond_any_tolerance(task: Task, wrong: str | None) -> None:
    assert changed(task) == wrong


def test_nothing_right_is_planted() -> None:
    zeros = [task_of("math", n) for n in ("0", "0.0", "1", "True")]
    for place, task in enumerate(zeros):
        wrong = planted(task, zeros, place)
        assert task.reference not in wrong and "" in wrong and len(wrong) >= 4
    assert "0" not in planted(zeros[1], zeros, 1)
    either = task_of("composite", "12", require="any", parts=[part("exact"), part("exact", "1")])
    assert "1" not in planted(either, [either, task_of("composite", "1")], 0)
    forms = SOUND["regex"][0]
    assert SOUND["regex"][1].reference not in planted(forms, SOUND["regex"], 0)
    assert [has_one_answer(SOUND[name][0]) for name in ("regex", "forms", "composite")] == [
        False, False, True
    ]  # fmt: skip


def test_families_have_a_row_each_and_a_limit(verifiers: Verifiers) -> None:
    tasks = [task_of("exact", str(n), family="even" if n % 2 == 0 else "odd") for n in range(40)]
    proofs = prove(verifiers, tasks, 3)
    assert [(p.verifier, p.family, p.num_right) for p in proofs] == [
        ("exact", "even", 3), ("exact", "odd", 3)
    ]  # fmt: skip
    row = proofs[0].row()
    assert row["tpr"] == 1.0 and row["family"] == "even" and row["num_wrong"] == 18


def test_a_family_without_references_is_judged_by_what_it_refuses() -> None:
    proof = Proof("puzzle", "rush_hour", 0, 0, 10, 9, ("'0' is correct",))
    assert proof.tpr is None and proof.tnr == 0.9
    with pytest.raises(UserError, match=r"tnr 0\.90 is below"):
        require([proof], 0.95, 0.95)


def test_the_demo_proves_itself_in_less_than_a_second(verifiers: Verifiers) -> None:
    params = {"min_terms": 8, "max_terms": 12, "min_digits": 1, "max_digits": 1, "operators": ["+"],
              "allow_parentheses": False, "allow_negation": False}  # fmt: skip
    tasks = ReasoningGymSource("basic_arithmetic", params).draw("test", 32, 0)
    started = time.process_time()
    (proof,) = prove(verifiers, tasks, 8)
    assert time.process_time() - started < 1
    assert (proof.num_right, proof.tpr, proof.tnr) == (8, 1.0, 1.0)
