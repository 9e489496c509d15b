"""Critique formats: total parsers, exact grammars, demonstrations that parse."""

import json
import random

import pytest
from critic_cases import CHAIN_TASKS, RIGHT, TASK, WRONG, chain_solution, product_task
from hypothesis import given, settings
from hypothesis import strategies as st

from critic.critique import Critique, Flaw, ParseFailure
from critic.format import critique_dialect, true_critique
from data.errors import UserError
from data.records import Task
from rewards.dialect import dialect
from rewards.solution import Solution

CHAIN, TAGGED = critique_dialect("chain"), critique_dialect("tagged")
ROUND_TRIPS = settings(deadline=None, max_examples=60)


TAGGED_SOLUTION = dialect("tagged").parse_solution(
    "<think>\n1. 4 + 1 = 5\n2. 5 + 7 = 13\n</think>\n<answer>13</answer>", truncated=False
)


def tagged_text(**changes: object) -> str:
    flaw = {
        "step": "2",
        "quote": "5 + 7 = 13",
        "type": "arithmetic",
        "evidence": {"kind": "recompute", "payload": "12"},
    }
    steps = [{"id": "1", "ok": True}, {"id": "2", "ok": False}]
    whole: dict[str, object] = {"steps": steps, "flaws": [flaw]}
    return json.dumps({**whole, "verdict": "flawed", "p_sound": 0.1, **changes})


def failure(text: str, solution: Solution, name: str, truncated: bool = False) -> str:
    critique = critique_dialect(name).parse(text, solution, truncated=truncated)
    assert isinstance(critique, ParseFailure), critique
    return critique.reason


def test_chain_prompt_shows_problem_and_solution_only() -> None:
    problem = dialect("chain").render_problem(TASK)
    assert CHAIN.render_prompt(problem, RIGHT.text) == (
        "a4b1c7d10\na4=40\nb1=50\nc7=21\nd10=22>22\n!"
    )


def test_chain_critique_of_a_right_solution() -> None:
    critique = CHAIN.parse("a40.b50.c21.d22.>22.~9", RIGHT, truncated=False)
    assert isinstance(critique, Critique)
    assert [step.id for step in critique.steps] == ["a", "b", "c", "d", ">"]
    assert (critique.flaws, critique.verdict, critique.p_sound) == ((), "sound", 0.95)


def test_chain_critique_of_a_wrong_step() -> None:
    critique = CHAIN.parse("a40.b50.c21x~0", WRONG, truncated=False)
    assert isinstance(critique, Critique)
    assert critique.flaws == (Flaw("c", "c7=20", "value", "recompute", "12"),)
    assert [step.ok for step in critique.steps] == [True, True, False]
    assert (critique.verdict, critique.p_sound) == ("flawed", 0.05)


def test_chain_low_confidence_is_a_verdict_without_a_claim() -> None:
    critique = CHAIN.parse("a40.b50.c21.d22.>22.~4", RIGHT, truncated=False)
    assert isinstance(critique, Critique)
    assert (critique.flaws, critique.verdict) == ((), "flawed")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_confidence"),
        ("a40.b50.c21.d22.>22.", "no_confidence"),
        ("a40.b50.c21.d22.>22.~", "bad_confidence"),
        ("a40.b50.c21.d22.>22.~10", "bad_confidence"),
        ("a40.b50.c21.d22.>22.~\u0663", "bad_confidence"),
        ("a40.b50.c21.d22.>22.~9\n", "bad_confidence"),
        ("a40.b50.c21.d22.~9", "missing_step"),
        ("~0", "missing_step"),
        ("b50.~0", "unexpected_step"),
        ("a40.b50.c21.d22.>22.e22.~9", "unexpected_step"),
        ("a.b50.~0", "bad_judgement"),
        ("a40?b50.~0", "bad_judgement"),
        ("a40.b50.c21~0", "bad_judgement"),
        ("a40.b50.c2x~0", "bad_judgement"),
        ("a40.b50.c210x~0", "bad_judgement"),
        ("a40.b50.c31.~0", "contradiction"),
        ("a40.b50.c31xd22.~0", "trailing_text"),
    ],
)
def test_chain_failures_are_named(text: str, reason: str) -> None:
    assert failure(text, RIGHT, "chain") == reason


def test_truncated_critiques_fail_even_if_they_would_parse() -> None:
    assert failure("a40.b50.c21.d22.>22.~9", RIGHT, "chain", truncated=True) == "truncated"
    assert failure(tagged_text(), TAGGED_SOLUTION, "tagged", truncated=True) == "truncated"


def test_a_malformed_solution_is_judged_on_the_steps_recovered() -> None:
    cut = chain_solution("a4=40\nb1=50\nc")
    for text in ("~0", "a40.~0", "a40.b50.~0", "a40.b60x~0"):
        assert isinstance(CHAIN.parse(text, cut, truncated=False), Critique)
    assert failure("a40.b50.c21.~0", cut, "chain") == "unexpected_step"


def test_tagged_critique_after_thinking_uses_the_last_object() -> None:
    text = f'First {{x}}, then {{"p_sound": 1}}.\n{tagged_text(p_sound=0.25)} done'
    critique = TAGGED.parse(text, TAGGED_SOLUTION, truncated=False)
    assert isinstance(critique, Critique)
    assert critique.p_sound == 0.25
    assert critique.flaws == (Flaw("2", "5 + 7 = 13", "arithmetic", "recompute", "12"),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no object", "no_json"),
        ("{" * 100, "too_many_braces"),
        ('{"a":' * 15 + "[" * 10_000, "too_deep"),
        ("x" * 30_000, "too_long"),
        (tagged_text(steps=3), "bad_steps"),
        (tagged_text(steps=[3]), "bad_steps"),
        (tagged_text(steps=[{"id": "9", "ok": True}]), "unknown_step"),
        (tagged_text(steps=[{"id": "2", "ok": "no"}]), "bad_ok"),
        (tagged_text(steps=[{"id": "1", "ok": True}] * 2), "repeated_step"),
        (tagged_text(steps=[{"id": "2", "ok": True}]), "flaw_on_ok_step"),
        (tagged_text(flaws=[{"step": "2"}]), "bad_evidence"),
        (tagged_text(flaws=[{}] * 9), "too_many_flaws"),
        (tagged_text(verdict="perhaps"), "bad_verdict"),
        (tagged_text(verdict="sound"), "sound_with_flaws"),
        (tagged_text(p_sound=1.01), "bad_p_sound"),
        (tagged_text(p_sound=10**400), "bad_p_sound"),
        (tagged_text(p_sound=float("nan")), "bad_p_sound"),
        (tagged_text(p_sound=True), "bad_p_sound"),
        (tagged_text(p_sound=None), "bad_p_sound"),
    ],
)
def test_tagged_failures_are_named(text: str, reason: str) -> None:
    assert failure(text, TAGGED_SOLUTION, "tagged") == reason


def test_a_true_claim_cannot_be_repeated() -> None:
    flaws = json.loads(tagged_text())["flaws"]
    assert failure(tagged_text(flaws=flaws * 2), TAGGED_SOLUTION, "tagged") == "repeated_flaw"


def test_an_unknown_dialect_names_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "chain"'):
        critique_dialect("chian")


def test_tagged_has_no_demonstrations() -> None:
    with pytest.raises(UserError, match="no procedural critiques"):
        true_critique(TASK, TAGGED_SOLUTION, dialect("tagged"), random.Random(0))


CRITIQUE_LIKE = st.text(alphabet="abcd>.x~0123456789\n", max_size=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["1", "2", "sound"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "ok", "step", "quote", "type", "evidence", "kind", "payload"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@ROUND_TRIPS
@given(text=st.text() | CRITIQUE_LIKE, solution_text=st.text() | st.just(WRONG.text))
def test_parsing_never_raises(text: str, solution_text: str) -> None:
    for name in ("chain", "tagged"):
        solution = dialect(name).parse_solution(solution_text, truncated=False)
        parsed = critique_dialect(name).parse(text, solution, truncated=False)
        assert isinstance(parsed, Critique | ParseFailure)


@ROUND_TRIPS
@given(steps=JSON_VALUES, flaws=JSON_VALUES, verdict=JSON_VALUES, p_sound=JSON_VALUES)
def test_parsing_json_never_raises(
    steps: object, flaws: object, verdict: object, p_sound: object
) -> None:
    text = tagged_text(steps=steps, flaws=flaws, verdict=verdict, p_sound=p_sound)
    critique = TAGGED.parse(text, TAGGED_SOLUTION, truncated=False)
    assert isinstance(critique, Critique | ParseFailure)


@ROUND_TRIPS
@given(task=CHAIN_TASKS, seed=st.integers(0, 1000), slip_rate=st.sampled_from([0.0, 0.3, 1.0]))
def test_demonstrations_parse_and_say_what_is_true(task: Task, seed: int, slip_rate: float) -> None:
    """A step that does not hold is marked; the confidence is that of the answer alone."""
    solver, rng = dialect("chain"), random.Random(seed)
    solution = chain_solution(solver.write_solution(task, rng, slip_rate))
    critique = CHAIN.parse(true_critique(task, solution, solver, rng), solution, truncated=False)
    assert isinstance(critique, Critique)
    assert bool(critique.flaws) == (not all(solver.check_steps(task, solution) or ()))
    right = solution.answer == task.reference
    assert critique.p_sound > 0.7 if right else critique.p_sound < 0.3


@ROUND_TRIPS
@given(text=st.text(alphabet="abc>=\n0123456789", max_size=24))
def test_demonstrations_parse_whatever_the_solution(text: str) -> None:
    solution = chain_solution(text)
    demonstration = true_critique(TASK, solution, dialect("chain"), random.Random(0))
    assert isinstance(CHAIN.parse(demonstration, solution, truncated=False), Critique)


@pytest.mark.parametrize("terms", [[4, 1], [10**15, 9]])
def test_the_largest_values_can_be_recomputed(terms: list[int]) -> None:
    solver, task = dialect("chain"), product_task(terms)
    solution = chain_solution(f"a{terms[0]}={'9' * 16}\nb{terms[1]}={'9' * 16}>{'9' * 16}")
    assert solution.well_formed
    critique = true_critique(task, solution, solver, random.Random(0), sound=False)
    assert isinstance(CHAIN.parse(critique, solution, truncated=False), Critique)


def test_a_critique_is_written_without_asking_whether_a_step_holds() -> None:
    """The caller's word counts: here it calls a right step wrong, and a wrong answer right."""
    rng = random.Random(0)
    assert CHAIN.write_critique(RIGHT, "b", "b1=60", True, rng)[:-1] == "a40.b60x~"
    assert CHAIN.write_critique(WRONG, None, None, False, rng)[:-1] == "a40.b50.c20.d21.>21.~"
    assert CHAIN.write_critique(WRONG, "c", "c7=21", False, random.Random(0)) == "a40.b50.c21x~1"


@pytest.mark.parametrize(("first_bad", "right_step"), [("c", None), ("e", "e1=22"), ("c", "c")])
def test_a_flaw_that_cannot_be_shown_is_an_error(first_bad: str, right_step: str | None) -> None:
    with pytest.raises(ValueError, match=f"step '?{first_bad}"):
        CHAIN.write_critique(WRONG, first_bad, right_step, False, random.Random(0))
