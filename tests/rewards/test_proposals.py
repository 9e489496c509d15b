"""Proposed tasks: what is written is read again, and code answers what it has a rule for."""

import pytest
from critic_cases import doubling_task
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from rewards.dialect import dialect
from rewards.proposals import (
    proposal_key,
    proposal_prompt,
    read_proposal,
    worked_answer,
    written_proposal,
)

CHAIN, FREE = dialect("chain"), dialect("free")
OPERANDS = st.lists(st.integers(0, 999), min_size=2, max_size=20)


@given(OPERANDS)
def test_a_sum_that_is_written_is_read_as_itself(operands: list[int]) -> None:
    question = f"Calculate {' + '.join(map(str, operands))}."
    written = written_proposal(CHAIN, question)
    assert read_proposal(CHAIN, written) == question
    assert read_proposal(FREE, written_proposal(FREE, question)) == question
    for one in (CHAIN, FREE):
        assert worked_answer(one, question) == str(sum(operands))


def test_a_product_is_one_too() -> None:
    question = read_proposal(CHAIN, "*a4b12c3")
    assert question == "Calculate 4 * 12 * 3." and worked_answer(CHAIN, question) == "144"


@given(st.text(max_size=60) | st.text(alphabet="ab12*\n<problem>/", max_size=60))
def test_reading_never_raises(text: str) -> None:
    for one in (CHAIN, FREE):
        question = read_proposal(one, text)
        assert question is None or worked_answer(one, question) is None or question


@pytest.mark.parametrize("text", ["", "a4c1", "b4a1", "a04b1", "a4b1?", "a4b1=50", "*", "a4b1\n\n"])
def test_what_is_no_chain_proposes_nothing(text: str) -> None:
    assert read_proposal(CHAIN, text) is None


def test_the_last_problem_after_the_thinking_counts() -> None:
    text = (
        "<think><problem>no</problem></think><problem>one</problem> or <problem> two\n2 </problem>"
    )
    assert read_proposal(FREE, text) == "two 2"
    assert read_proposal(FREE, "<problem> </problem>") is None
    assert read_proposal(FREE, f"<problem>{'x' * 3000}</problem>") is None


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 3 * (4 + 1)?", "15"),
        ("Calculate 7 - 9 + 2.", "0"),
        ("Evaluate: 1 / 8", "0.125"),
        ("What is 12/25/2024?", None),  # a date
        ("What is 1-800-555?", None),
        ("What is 10.000 + 5.000?", None),  # ten thousand, elsewhere
        ("What is 1,000?", None),
        ("What is 2/3?", None),
        ("What is 5?", None),  # asks for nothing
        ("What is 4 + x?", None),
        ("How many apples are 3 + 4 apples?", None),
        ("What is 1 / 0?", None),
        ("Calculate 2 ^ 3.", None),
    ],
)
def test_code_answers_plain_arithmetic_alone(question: str, answer: str | None) -> None:
    assert worked_answer(FREE, question) == answer


@pytest.mark.parametrize(
    "question", ["Calculate 4.", "Calculate 4 - 1.", "Calculate 3 * 0.", "Add 4, 5."]
)
def test_a_chain_that_asks_for_nothing_is_not_valid(question: str) -> None:
    assert worked_answer(CHAIN, question) is None


def test_what_the_chain_dialect_cannot_propose_is_refused() -> None:
    with pytest.raises(UserError, match="sums and products can"):
        written_proposal(CHAIN, doubling_task([3, 4]).question)


def test_a_prompt_shows_its_examples() -> None:
    asked = proposal_prompt(FREE, ["What is 1 + 1?", "What is 2 + 3?"])
    assert "1. What is 1 + 1?" in asked and "2. What is 2 + 3?" in asked
    assert proposal_prompt(CHAIN, []) == "?\n"


def test_spellings_of_one_task_have_one_key() -> None:
    spelled = ["What is 3 + 4?", "WHAT IS 3 + 4 ?", "calculate: 03 + 4.0", "What is (3 + 4)?"]
    assert len({proposal_key(FREE, question) for question in spelled}) == 1
    others = ["What is 4 + 3?", "What is 3 + 5?", "How much is 3 + 4?", "What is 3 - 4?"]
    assert len({proposal_key(FREE, question) for question in [spelled[0], *others]}) == 5
    assert proposal_key(CHAIN, "Calculate 3 * 0.") is None
    assert proposal_key(CHAIN, f"Calculate {'9' * 16} + {'9' * 16}.") is None
