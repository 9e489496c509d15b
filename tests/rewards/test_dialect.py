"""The learner's dialects: parsing is total, demonstrations are right, slips are found."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.records import Generator, Task
from rewards.arithmetic import equations_in, evaluate
from rewards.chain import MAX_TERMS, chain_of, decode_value, due_value, encode_value
from rewards.dialect import dialect
from rewards.solution import Solution

CHAIN = dialect("chain")
TAGGED = dialect("tagged")

RESULT_ONLY = "Give only the result as your final answer."
chain_like = st.text(alphabet="abcz0123456789=>\n ", max_size=60)
tagged_like = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<answer>", "</answer>", "\n", "1. ", "2. ", "3 + 4 = 7", "x", " "]
    ),
    max_size=14,
).map("".join)


def chain_task(terms: list[int]) -> Task:
    expression = " + ".join(str(term) for term in terms)
    question, answer = f"Calculate {expression}.", str(sum(terms))
    entry: dict[str, object] = {
        "question": question,
        "answer": answer,
        "metadata": {"source_dataset": "basic_arithmetic"},
    }
    return Task(
        id="0",
        family="basic_arithmetic",
        question=question,
        reference=answer,
        verifier="puzzle",
        split="train",
        entry=entry,
        generator=Generator(name="test", version="1", seed=0, difficulty=""),
    )


def assert_spans(solution: Solution) -> None:
    ids = [step.id for step in solution.steps]
    assert len(set(ids)) == len(ids)
    assert all(solution.text[step.start : step.end] == step.text for step in solution.steps)
    assert (solution.answer is None) == (solution.defect is not None)


def read(text: str) -> Solution:
    return CHAIN.parse_solution(text, truncated=False)


@given(text=st.one_of(st.text(), chain_like), truncated=st.booleans())
def test_chain_parsing_is_total(text: str, truncated: bool) -> None:
    solution = CHAIN.parse_solution(text, truncated=truncated)
    assert_spans(solution)
    flags = CHAIN.check_steps(chain_task([4, 1, 7, 10]), solution)
    assert flags is not None and len(flags) == len(solution.steps)
    assert not (truncated and solution.well_formed)


@given(text=st.one_of(st.text(), tagged_like), truncated=st.booleans())
def test_tagged_parsing_is_total(text: str, truncated: bool) -> None:
    solution = TAGGED.parse_solution(text, truncated=truncated)
    assert_spans(solution)
    flags = TAGGED.check_steps(chain_task([1, 2]), solution)
    assert flags is None or len(flags) == len(solution.steps)


def test_chain_writes_the_documented_example() -> None:
    task = chain_task([4, 1, 7, 10])
    assert CHAIN.render_problem(task) == "a4b1c7d10\n"
    text = CHAIN.write_solution(task, random.Random(0), 0.0)
    assert text == "a4=40\nb1=50\nc7=21\nd10=22>22"
    assert [step.id for step in read(text).steps] == ["a", "b", "c", "d", ">"]


@pytest.mark.parametrize(
    ("text", "defect"),
    [
        ("", "no_answer"),
        ("a4=40\nb1=50", "no_answer"),
        (">50", "bare_answer"),
        ("a4=40\nb1=50\n>50", "bad_steps"),
        ("a4=40\nb1=50>50\n", "bad_steps"),
        ("a4=40\nc1=50>50", "bad_steps"),
        ("b4=40>40", "bad_steps"),
        ("a04=40>40", "bad_steps"),
        ("a4=4>40", "bad_steps"),
        ("a4=400>40", "bad_steps"),
        ("the answer is >50", "bad_steps"),
        ("a\u0664=40>40", "bad_steps"),
        ("a4=" + "1" * 9000 + ">40", "bad_steps"),
    ],
)
def test_chain_names_the_defect(text: str, defect: str) -> None:
    assert read(text).defect == defect
    assert CHAIN.parse_solution(text, truncated=True).defect == "truncated"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("a4=40\nb1=50>50", (True, True, False)),  # the last term is left out
        ("a4=40\nb1=50\nc7=21>31", (True, True, True, False)),
        ("a4=40\nb2=60\nc7=31>31", (True, False, True, True)),
        ("a4=40\nb1=60\nc7=31>31", (True, False, True, True)),  # goes on from the wrong sum
        ("a4=40\nb1=50\nc7=21\nd0=21>21", (True, True, True, False, False)),
    ],
)
def test_chain_checks_each_step_against_what_was_stated(text: str, flags: tuple[bool, ...]) -> None:
    assert CHAIN.check_steps(chain_task([4, 1, 7]), read(text)) == flags


def test_the_due_value_is_the_repair_of_a_step() -> None:
    task, solution = chain_task([4, 1, 7]), read("a4=40\nb1=60\nc8=41>41")
    assert [due_value(task, solution, index) for index in range(4)] == [4, 5, None, 14]
    repaired = [CHAIN.right_step(task, solution, index) for index in range(4)]
    assert repaired == ["a4=40", "b1=50", "c7=31", ">41"]


@given(value=st.integers(0, 10**8 - 1))
def test_values_have_one_spelling(value: int) -> None:
    assert decode_value(encode_value(value)) == value


def test_reversed_digits_are_normalised() -> None:
    assert read("a10=01\nb10=02\nc10=03>03").answer == "30"


@pytest.mark.parametrize(
    "question",
    [
        "",
        "Calculate 4 - 1.",
        "Calculate 4 + .",
        "Calculate (4 + 1).",
        "How many?",
        "1 + " * 9,
        "Calculate 4 + 1 * 3.",
        f"Calculate 4 + 1. Then take 2. {RESULT_ONLY}",
    ],
)
def test_chain_refuses_other_tasks(question: str) -> None:
    task = chain_task([1])
    foreign = Task(**{**vars(task), "question": question})
    with pytest.raises(UserError, match="operators"):
        chain_of(foreign)


def test_chain_refuses_more_terms_than_labels() -> None:
    assert len(chain_of(chain_task([1] * MAX_TERMS)).operands) == MAX_TERMS
    for terms in ([1] * (MAX_TERMS + 1), [10**15] * 11):
        with pytest.raises(UserError, match="max_terms"):
            chain_of(chain_task(terms))


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        ("What is 4 + 1?", "a4b1"),
        ("Evaluate: 4 + 1.", "a4b1"),
        ("Calculate 04+1.", "a4b1"),
        ("Calculate 4 * 1.", "*a4b1"),
        ("Calculate 4.", "a4"),
        (f"Solve the following multiplication: 4. {RESULT_ONLY}", "*a4"),
        ("Calculate 4 + 0.", "a4b0"),
        ("Calculate 4 * 0 * 7.", None),  # a zero swallows every mistake before it
    ],
)
def test_what_the_model_sees_is_the_identity_of_a_question(
    question: str, shown: str | None
) -> None:
    assert CHAIN.shown(question) == shown
    assert TAGGED.shown(f" {question}\n") == question


def test_slip_rate_is_a_probability() -> None:
    with pytest.raises(ValueError, match=r"slip_rate.*1\.5"):
        CHAIN.write_solution(chain_task([1]), random.Random(0), 1.5)


def test_tagged_reads_steps_and_answer() -> None:
    text = "<think>\n1. 4 + 1 = 5\n2. 5 + 7 = 13\n   as shown\n</think>\n<answer> 13 </answer>\n"
    solution = TAGGED.parse_solution(text, truncated=False)
    assert_spans(solution)
    assert (solution.answer, solution.defect) == ("13", None)
    assert [step.text for step in solution.steps] == ["4 + 1 = 5", "5 + 7 = 13\n   as shown"]
    assert TAGGED.check_steps(chain_task([4, 1, 7]), solution) == (True, False)
    assert TAGGED.kind_of_mistake(chain_task([4, 1, 7]), solution, 1) == "other"


@pytest.mark.parametrize(
    ("body", "steps"),
    [
        ("1. The year is\n2024. So it ends\n2. Done", ["The year is\n2024. So it ends", "Done"]),
        ("1. Cases:\n  1. a\n  2. b\n2. Sum", ["Cases:\n  1. a\n  2. b", "Sum"]),
        ("**1.** 2 + 3 = 5\n**2.** 5 + 4 = 9", ["2 + 3 = 5", "5 + 4 = 9"]),
        ("  1. a\n  2. b", ["a", "b"]),
    ],
)
def test_a_line_that_begins_with_a_number_need_not_be_a_step(body: str, steps: list[str]) -> None:
    solution = TAGGED.parse_solution(
        f"<think>\n{body}\n</think>\n<answer>9</answer>", truncated=False
    )
    assert solution.well_formed and [step.text for step in solution.steps] == steps


def test_tagged_has_nothing_to_check_without_arithmetic() -> None:
    text = "<think>1. Think hard\n2. Decide</think><answer>yes</answer>"
    solution = TAGGED.parse_solution(text, truncated=False)
    assert solution.well_formed
    assert TAGGED.check_steps(chain_task([1]), solution) is None


@pytest.mark.parametrize(
    ("text", "defect"),
    [
        ("", "no_answer"),
        ("<think>\n1. a\n</think>", "no_answer"),
        ("<think>\n1. a\n</think><answer> </answer>", "no_answer"),
        ("<answer>3</answer>", "bare_answer"),
        ("<think> </think><answer>3</answer>", "bare_answer"),
        ("<think>\n1. a</think><answer>3</answer><answer>4</answer>", "bad_tags"),
        ("<think>\n1. a</think><answer>3</answer> or 4", "bad_tags"),
        ("<think>\n1. a</think> so <answer>3</answer>", "bad_tags"),
        ("<think>\n1. a<answer>3</answer></think>", "bad_tags"),
        ("<think>\nsomehow\n</think><answer>3</answer>", "bad_steps"),
        ("<think>\n1. a\n1. b\n</think><answer>3</answer>", "bad_steps"),
        ("<think>\n1. a\n3. b\n</think><answer>3</answer>", "bad_steps"),
        ("<think>\n2. a\n</think><answer>3</answer>", "bad_steps"),
    ],
)
def test_tagged_names_the_defect(text: str, defect: str) -> None:
    assert TAGGED.parse_solution(text, truncated=False).defect == defect
    assert TAGGED.parse_solution(text, truncated=True).defect == "truncated"


def test_tagged_prompt_shows_the_form_it_parses() -> None:
    prompt = TAGGED.render_problem(chain_task([4, 1]))
    assert prompt.startswith("Calculate 4 + 1.\n")
    assert TAGGED.parse_solution(prompt[prompt.index("<think>") :], truncated=False).well_formed


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("so 3 + 4 = 8.", [False]),
        ("3 + 4 = 7 + 2 = 9", [True]),  # goes on from the value, which is bad form but right
        ("3 + 4 = 8 + 2 = 10", [False, True]),
        ("3 * (4 + 1) = 15 apples", [True]),
        ("-3 + 4 = 1, 1,234 + 1 = 1,235", [True, True]),
        ("10 / 3 = 3.33", [True]),
        ("10 / 3 = 3.4", [False]),
        ("10 / 3 = 3 remainder 1", []),
        ("7 + 8 = 3 (mod 12)", []),
        ("2x + 3 = 7, x + 3 = 5, f(3) + 1 = 9", []),
        ("2^3 + 1 = 9, 3 + 1 = 2^2", []),
        ("4 / 0 = 0", []),
        ("x = 5 and 5 >= 3 + 1", []),
        ("9" * 40 + " + 1 = 2", []),
    ],
)
def test_only_plain_arithmetic_is_re_evaluated(text: str, holds: list[bool]) -> None:
    assert [equation.holds for equation in equations_in(text)] == holds


@given(st.text(alphabet="0123456789+-*/()=. ,x", max_size=40))
def test_re_evaluation_is_total(text: str) -> None:
    equations_in(text)


@given(left=st.integers(0, 999), right=st.integers(1, 999), symbol=st.sampled_from("+-*"))
def test_evaluation_agrees_with_python(left: int, right: int, symbol: str) -> None:
    value = {"+": left + right, "-": left - right, "*": left * right}[symbol]
    assert evaluate(f"{left} {symbol} ({right})") == value
    assert [e.holds for e in equations_in(f"{left} {symbol} {right} = {value}")] == [True]
    assert [e.holds for e in equations_in(f"{left} {symbol} {right} = {value + 1}")] == [False]


def test_deep_nesting_is_left_unchecked() -> None:
    assert evaluate("(" * 900 + "1" + ")" * 900) is None


def test_unknown_dialect_names_the_nearest() -> None:
    with pytest.raises(UserError, match='unknown dialect "chian": did you mean "chain"'):
        dialect("chian")


@pytest.mark.parametrize("text", [
    ":", "Thought process:", "Let's solve this problem step by step.", "Solution",
    "<answer>7</answer>", "<think></think>\n<answer>7</answer>", "the answer is 7",
])  # fmt: skip
def test_an_answer_without_steps_is_never_well_formed(text: str) -> None:
    """Such openings win over a judge that only reads (arXiv:2507.08794)."""
    assert not TAGGED.parse_solution(text, truncated=False).well_formed
    assert not CHAIN.parse_solution(text, truncated=False).well_formed


@given(guess=st.integers(0, 10**6))
def test_a_bare_sum_is_not_a_chain(guess: int) -> None:
    assert not CHAIN.parse_solution(f">{str(guess)[::-1]}", truncated=False).well_formed
