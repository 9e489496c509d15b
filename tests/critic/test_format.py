"""Critique formats: total parsers, exact grammars, demonstrations that parse."""

import random

import pytest
from critic_cases import (
    BOX_LIKE,
    CHAIN_TASKS,
    POINTED,
    RIGHT,
    TAGGED_SOLUTION,
    TASK,
    WRONG,
    chain_solution,
    failure,
    product_task,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from critic.critique import Critique, Flaw, ParseFailure
from critic.format import critique_dialect, true_critique
from data.errors import UserError
from data.records import Task
from rewards.dialect import dialect

CHAIN, TAGGED = critique_dialect("chain"), critique_dialect("tagged")
ROUND_TRIPS = settings(deadline=None, max_examples=60)


def test_chain_prompt_shows_problem_and_solution_only() -> None:
    problem = dialect("chain").render_problem(TASK)
    assert CHAIN.render_prompt(problem, RIGHT.text) == (
        "a4b1c7d10\na4=40\nb1=50\nc7=21\nd10=22>22\n!"
    )


def test_chain_critique_of_a_right_solution() -> None:
    critique = CHAIN.parse("a4=40.b1=50.c7=21.d10=22.>22.~9", RIGHT, truncated=False)
    assert isinstance(critique, Critique)
    assert [step.id for step in critique.steps] == ["a", "b", "c", "d", ">"]
    assert (critique.flaws, critique.verdict, critique.p_sound) == ((), "sound", 0.95)


def test_chain_critique_of_a_wrong_step() -> None:
    critique = CHAIN.parse("a4=40.b1=50.c7=21.~9", WRONG, truncated=False)
    assert isinstance(critique, Critique)
    assert critique.flaws == (Flaw("c", "c7=20", "value", "recompute", "12"),)
    assert [step.ok for step in critique.steps] == [True, True, False]
    assert (critique.verdict, critique.p_sound) == ("flawed", 0.05)


def test_chain_low_confidence_is_a_verdict_without_a_claim() -> None:
    critique = CHAIN.parse("a4=40.b1=50.c7=21.d10=22.>22.~4", RIGHT, truncated=False)
    assert isinstance(critique, Critique)
    assert (critique.flaws, critique.verdict) == ((), "flawed")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_confidence"),
        ("a4=40.b1=50.c7=21.d10=22.>22.", "no_confidence"),
        ("a4=40.b1=50.c7=21.d10=22.>22.~", "bad_confidence"),
        ("a4=40.b1=50.c7=21.d10=22.>22.~10", "bad_confidence"),
        ("a4=40.b1=50.c7=21.d10=22.>22.~\u0663", "bad_confidence"),
        ("a4=40.b1=50.c7=21.d10=22.>22.~9\n", "bad_confidence"),
        ("a4=40.b1=50.c7=21.d10=22.~9", "missing_step"),
        ("~0", "missing_step"),
        ("a04=40.~0", "bad_judgement"),
        ("a4=40.b1=50.c7=21.d10=22.>22.e1=22.~9", "unexpected_step"),
        ("a.b1=50.~0", "bad_judgement"),
        ("a4=40?b1=50.~0", "bad_judgement"),
        ("a4=40.b1=50.c7=21~0", "bad_judgement"),
        ("a4=40.b1=50.c7=2.~0", "bad_judgement"),
        ("a4=40.b1=50.c7=210.~0", "bad_judgement"),
        ("a4=40.b1=50.c7=21.d10=22.>22.>22.~0", "unexpected_step"),
    ],
)
def test_chain_failures_are_named(text: str, reason: str) -> None:
    assert failure(text, RIGHT, "chain") == reason


def test_truncated_critiques_fail_even_if_they_would_parse() -> None:
    assert failure("a4=40.b1=50.c7=21.d10=22.>22.~9", RIGHT, "chain", truncated=True) == "truncated"
    assert failure(POINTED, TAGGED_SOLUTION, "tagged", truncated=True) == "truncated"


def test_a_malformed_solution_is_judged_on_the_steps_recovered() -> None:
    cut = chain_solution("a4=40\nb1=50\nc")
    for text in ("~0", "a4=40.~0", "a4=40.b1=50.~0", "a4=40.b1=60.~0"):
        assert isinstance(CHAIN.parse(text, cut, truncated=False), Critique)
    assert failure("a4=40.b1=50.c7=21.~0", cut, "chain") == "unexpected_step"


@pytest.mark.parametrize(
    "text",
    [
        "a4=40.b1=50.c7=21.~0",
        "a4=40.b1=50.c7=21.~0",
        "a4=40.b1=50.c7=21.d10=22.>22.~0",
        "a4=40.b1=50.c7=21.d10=9~0",
    ],
)
def test_the_due_step_is_the_claim_whatever_the_mark(text: str) -> None:
    critique = CHAIN.parse(text, WRONG, truncated=False)
    assert isinstance(critique, Critique)
    assert [(flaw.step, flaw.payload) for flaw in critique.flaws] == [("c", "12")]
    assert critique.verdict == "flawed" and [step.ok for step in critique.steps] == [
        True, True, False
    ]  # fmt: skip


@pytest.mark.parametrize("due", ["c8=20", "d10=20", ">20"])
def test_another_operand_or_another_step_is_a_claim_too(due: str) -> None:
    """A misread operand has the value that follows from it."""
    critique = CHAIN.parse(f"a4=40.b1=50.{due}.~0", WRONG, truncated=False)
    assert isinstance(critique, Critique)
    assert [(flaw.step, flaw.payload) for flaw in critique.flaws] == [("c", "2")]


def test_an_unknown_dialect_names_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "chain"'):
        critique_dialect("chian")


CRITIQUE_LIKE = st.text(alphabet="abcd>.x~0123456789\n", max_size=20)


@ROUND_TRIPS
@given(
    text=st.text() | CRITIQUE_LIKE | BOX_LIKE,
    solution_text=st.text() | st.sampled_from([WRONG.text, TAGGED_SOLUTION.text]),
)
def test_parsing_never_raises(text: str, solution_text: str) -> None:
    for name in ("chain", "tagged"):
        solution = dialect(name).parse_solution(solution_text, truncated=False)
        parsed = critique_dialect(name).parse(text, solution, truncated=False)
        assert isinstance(parsed, Critique | ParseFailure)


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
    assert CHAIN.write_critique(RIGHT, "b", "b1=60", True, rng)[:-1] == "a4=40.b1=60.~"
    assert (
        CHAIN.write_critique(WRONG, None, None, False, rng)[:-1] == "a4=40.b1=50.c7=20.d10=21.>21.~"
    )
    assert (
        CHAIN.write_critique(WRONG, "c", "c7=21", False, random.Random(0)) == "a4=40.b1=50.c7=21.~8"
    )


def test_a_critique_goes_on_past_the_first_flaw_where_the_rest_is_known() -> None:
    """Only the first difference counts when it is read."""
    known = (WRONG, "c", "c7=21", False)

    def walks(later: dict[str, str | None]) -> set[str]:
        written = [CHAIN.write_critique(*known, random.Random(seed), later) for seed in range(40)]
        read = [CHAIN.parse(text[:-1] + "1", WRONG, truncated=False) for text in written]
        assert all(one == read[0] for one in read) and isinstance(read[0], Critique)
        assert [flaw.step for flaw in read[0].flaws] == ["c"]
        return {text.partition("~")[0] for text in written}

    assert walks({}) == {"a4=40.b1=50.c7=21.", "a4=40.b1=50.c7=21.d10=21.>21."}
    whole = "a4=40.b1=50.c7=21.d1=31.>21."
    assert walks({"d": "d1=31"}) == {"a4=40.b1=50.c7=21.", "a4=40.b1=50.c7=21.d1=31.", whole}
    with pytest.raises(ValueError, match="no step 'z'"):
        CHAIN.write_critique(*known, random.Random(0), {"z": "z1=31"})


@pytest.mark.parametrize(("first_bad", "right_step"), [("c", None), ("e", "e1=22"), ("c", "c")])
def test_a_flaw_that_cannot_be_shown_is_an_error(first_bad: str, right_step: str | None) -> None:
    with pytest.raises(ValueError, match=f"step '?{first_bad}"):
        CHAIN.write_critique(WRONG, first_bad, right_step, False, random.Random(0))
