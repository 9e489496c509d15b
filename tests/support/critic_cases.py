"""Small chain tasks and solutions that the critic's tests share."""

import math
from functools import reduce

from hypothesis import strategies as st

from critic.critique import ParseFailure
from critic.format import critique_dialect
from data.double_and_add import FAMILY, KEPT, QUESTION
from data.records import Generator, Task, make_task
from rewards.dialect import dialect
from rewards.solution import Solution


def chain_task(terms: list[int]) -> Task:
    """An addition chain, verified by comparing answers."""
    return make_task(
        family="basic_arithmetic",
        question=f"Calculate {' + '.join(map(str, terms))}.",
        reference=str(sum(terms)),
        verifier="exact",
        generator=Generator(name="test", version="0", seed=0, difficulty=""),
    )


def product_task(terms: list[int]) -> Task:
    """A running product, asked as reasoning-gym's `products` asks."""
    return make_task(
        family="products",
        question=f"Solve the following multiplication: {' * '.join(map(str, terms))}. Give only "
        "the result as your final answer.",
        reference=str(math.prod(terms)),
        verifier="exact",
        generator=Generator(name="test", version="0", seed=0, difficulty=""),
    )


def doubling_task(terms: list[int]) -> Task:
    """A number that is doubled before each digit is added to it, and keeps three places."""
    return make_task(
        family=FAMILY,
        question=QUESTION.format(digits=", ".join(map(str, terms))),
        reference=str(reduce(lambda value, digit: (2 * value + digit) % KEPT, terms, 0)),
        verifier="exact",
        generator=Generator(name="test", version="0", seed=0, difficulty=""),
    )


# Tasks of every family: operands of one and two digits, products without a zero.
CHAIN_TASKS = (
    st.lists(st.integers(0, 99), min_size=1, max_size=12).map(chain_task)
    | st.lists(st.integers(1, 9) | st.integers(10, 29), min_size=1, max_size=8).map(product_task)
    | st.lists(st.integers(0, 9), min_size=1, max_size=10).map(doubling_task)
)


def chain_solution(text: str) -> Solution:
    """A complete solution in the chain dialect."""
    return dialect("chain").parse_solution(text, truncated=False)


TASK = chain_task([4, 1, 7, 10])
RIGHT = chain_solution("a4=40\nb1=50\nc7=21\nd10=22>22")
WRONG = chain_solution("a4=40\nb1=50\nc7=20\nd10=21>21")  # the carry of step c is forgotten


TAGGED_SOLUTION = dialect("tagged").parse_solution(
    "<think>\n1. 4 + 1 = 5\n2. 5 + 7 = 13\n3. So 13.\n</think>\n<answer>13</answer>",
    truncated=False,
)
POINTED = "Step 2 is wrong.\n\\boxed{2}\nshould be: 12\nconfidence: 0.9"
BOX_LIKE = st.lists(
    st.sampled_from(
        [
            "\\boxed{",
            "}",
            "-1",
            "2",
            "answer",
            "\n",
            "confidence",
            "should be",
            ": ",
            "0.9",
            "80%",
            ".",
        ]
    ),
    max_size=14,
).map("".join)


def failure(text: str, solution: Solution, name: str, truncated: bool = False) -> str:
    critique = critique_dialect(name).parse(text, solution, truncated=truncated)
    assert isinstance(critique, ParseFailure), critique
    return critique.reason
