"""Stated arithmetic: right sentences of every kind are not called wrong, plain errors are found."""

import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.arithmetic import equations_in, equations_of_steps, evaluate, plain_number

HERE = Path(__file__).parent
# One sentence per line: units, clocks, dates, ranges, bases, rounding, percentages, LaTeX,
# currencies, ratios, versions, indices, powers, other locales' numbers, suppositions, quotations.
RIGHT = (HERE / "right_sentences.txt").read_text(encoding="utf-8").splitlines()
WRONG = (HERE / "wrong_sentences.txt").read_text(encoding="utf-8").splitlines()


def called_wrong(text: str, context: str = "") -> bool:
    return any(not equation.holds for equation in equations_in(text, context))


@pytest.mark.parametrize("sentence", RIGHT)
def test_a_right_sentence_is_not_called_wrong(sentence: str) -> None:
    assert not called_wrong(sentence)


@pytest.mark.parametrize("sentence", WRONG)
def test_a_plain_error_is_found(sentence: str) -> None:
    assert called_wrong(sentence)


@pytest.mark.parametrize(
    ("question", "steps"),
    [
        ("Compute 5 + 4 in base 7.", ["5 + 4 = 12"]),
        ("What is 5 + 4 modulo 7?", ["Add them.", "5 + 4 = 2"]),
        ("It is day 6 of the week. Which day is it in 5 days?", ["6 + 5 = 4"]),
        ("If 2 + 3 = 10 and 7 + 2 = 63, what is 6 + 5?", ["2 * 5 = 10", "6 + 5 = 66"]),
        ("5 + 5 = 50, 3 + 4 = 21 and 6 + 5 = ?", ["6 + 5 = 66"]),
        ("Let a # b be defined as a * b + 1.", ["3 + 4 = 13"]),
        ("A film starts at 10 pm and lasts 3 hours.", ["10 + 3 = 1"]),
        ("How many minutes is a lesson of 45 and a break of 15?", ["45 + 15 = 1 hour"]),
    ],
)
def test_the_question_decides_what_a_step_means(question: str, steps: list[str]) -> None:
    found = equations_of_steps(question, steps)
    assert all(equation.holds for step in found for equation in step)


def test_ordinary_questions_leave_errors_in_sight() -> None:
    question = "Ann picks 12 apples and then 7 apples. She sells half of 20. How many are left?"
    found = equations_of_steps(question, ["12 + 7 = 20 apples", "20 - 10 = 10 apples"])
    assert [[equation.holds for equation in step] for step in found] == [[False], [True]]


def test_a_noun_that_was_not_named_before_may_be_a_unit() -> None:
    assert not called_wrong("12 + 7 = 20 apples")
    assert called_wrong("12 + 7 = 20 apples", "Ann has 12 apples.")
    assert not called_wrong("12 + 7 = 20 cents", "Ann has 12 cents.")


@given(left=st.integers(0, 99), right=st.integers(0, 99), off=st.integers(1, 9))
def test_any_wrong_sum_is_found_in_numbered_steps_and_latex(
    left: int, right: int, off: int
) -> None:
    value = left + right + off
    for text in (f"3. So {left} + {right} = {value}.", f"Thus ${left} + {right} = {value}$ holds."):
        assert called_wrong(text) and not called_wrong(
            text.replace(f"= {value}", f"= {value - off}")
        )


@given(st.text(alphabet="0123456789+-*/()=. ,x$\\{}ab%:!?\n", max_size=60), st.text(max_size=20))
def test_reading_is_total(text: str, context: str) -> None:
    equations_in(text, context)
    evaluate(text)


def test_hostile_lines_take_no_time() -> None:
    started = time.process_time()
    for piece in ("1 = ", "(", "1 and ", "9,999", "\\frac{1}{", "a 1+1=", "$", "1 x ", "**"):
        equations_in((piece * 2000)[:2000], piece * 500)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("stated", "worked_out"),
    [
        ("So 9 - 1 = 9.", ["9 - 1 = 8, not 9"]),
        ("9 - 1 = 8", ["9 - 1 = 8"]),
        ("2 / 3 = 0.67", ["2 / 3 = 0.67"]),  # rounded as it should be
        ("2 / 3 = 1.5", ["2 / 3 = 2/3, not 1.5"]),
        ("10 / 4 = 3.1", ["10 / 4 = 2.5, not 3.1"]),
        ("3 - 5 = 2", ["3 - 5 = -2, not 2"]),
        ("3 + 4 = 8 + 2 = 10", ["3 + 4 = 7, not 8 + 2", "8 + 2 = 10"]),
        ("Nothing is stated.", []),
    ],
)
def test_an_equation_is_worked_out(stated: str, worked_out: list[str]) -> None:
    assert [equation.worked_out() for equation in equations_in(stated)] == worked_out


@given(st.fractions())
def test_a_number_that_is_written_out_is_read_as_itself(value: Fraction) -> None:
    assert evaluate(plain_number(value)) == value


def test_a_vast_number_is_written_out() -> None:
    assert plain_number(Fraction(10**400 + 1)) == str(10**400 + 1)
    assert plain_number(Fraction(-1, 10**6)) == "-0.000001"
