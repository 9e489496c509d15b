"""The chain dialect's families: demonstrations, slips, and the names of mistakes."""

import random
from collections import Counter
from contextlib import closing

import pytest
from critic_cases import CHAIN_TASKS, chain_task, doubling_task, product_task
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.puzzles import ReasoningGymSource
from data.records import Task
from rewards.chain import ChainDialect, read_chain
from rewards.dialect import dialect
from rewards.mistakes import MISTAKES
from rewards.puzzle_verifier import PuzzleVerifier
from rewards.solution import Solution, first_bad_step

CHAIN = dialect("chain")
FAMILIES = {"sum": chain_task, "product": product_task, "doubling": doubling_task}
SUMS = {
    "operators": ["+"], "allow_parentheses": False, "allow_negation": False,
    "min_terms": 8, "max_terms": 12, "min_digits": 1, "max_digits": 2,
}  # fmt: skip


def read(text: str) -> Solution:
    return CHAIN.parse_solution(text, truncated=False)


def test_a_product_differs_in_its_problem_alone() -> None:
    task = product_task([6, 3, 7])
    assert CHAIN.render_problem(task) == "*a6b3c7\n"
    text = CHAIN.write_solution(task, random.Random(0), 0.0)
    assert text == "a6=60\nb3=81\nc7=621>621"
    assert CHAIN.check_steps(task, read(text)) == (True,) * 4
    assert CHAIN.check_steps(task, read("a6=60\nb3=90\nc7=36>36")) == (True, False, True, True)


def test_doubling_differs_in_its_problem_alone() -> None:
    task = doubling_task([6, 3, 0, 7])
    assert CHAIN.render_problem(task) == "2a6b3c0d7\n"
    text = CHAIN.write_solution(task, random.Random(0), 0.0)
    assert text == "a6=60\nb3=51\nc0=03\nd7=76>76"
    assert CHAIN.check_steps(task, read("a6=60\nb3=90\nc0=81\nd7=34>34")) == (
        True, False, True, True, True,
    )  # fmt: skip


@pytest.mark.parametrize("question", ["Add these: 4, 5, 7.", "Calculate 1,000.", "Sort 4, 5, 7."])
def test_a_list_of_numbers_is_no_doubling(question: str) -> None:
    """It was played as one, and right solutions of it were called wrong step by step."""
    with pytest.raises(UserError, match="the chain dialect reads sums"):
        read_chain(question)


@given(task=CHAIN_TASKS, seed=st.integers(0, 99))
def test_a_demonstration_without_slips_is_valid_and_scores_full(task: Task, seed: int) -> None:
    solution = read(CHAIN.write_solution(task, random.Random(seed), 0.0))
    assert solution.well_formed
    flags = CHAIN.check_steps(task, solution)
    assert flags is not None and all(flags)
    assert solution.answer == task.reference


@given(task=CHAIN_TASKS, seed=st.integers(0, 99), rate=st.floats(0.1, 1))
def test_the_first_bad_step_is_the_first_slip(task: Task, seed: int, rate: float) -> None:
    """The steps before it are the gold ones; where there is none, so are all."""
    gold = read(CHAIN.write_solution(task, random.Random(seed), 0.0))
    solution = read(CHAIN.write_solution(task, random.Random(seed), rate))
    assert solution.well_formed and len(solution.steps) == len(gold.steps)
    pairs = zip(gold.steps, solution.steps, strict=True)
    wrong = [right.text != said.text for right, said in pairs]
    expected = wrong.index(True) if any(wrong) else None
    assert first_bad_step(CHAIN.check_steps(task, solution)) == expected
    if expected is not None:
        assert CHAIN.kind_of_mistake(task, solution, expected) in MISTAKES
        assert CHAIN.right_step(task, solution, expected) == gold.steps[expected].text


@pytest.mark.parametrize(
    "source",
    [
        ReasoningGymSource("basic_arithmetic", SUMS),
        ReasoningGymSource("products", {"min_terms": 8, "max_terms": 12, "max_digits": 1}),
        ReasoningGymSource("double_and_add", {}),
    ],
)
def test_the_familys_own_scorer_judges_demonstrations(source: ReasoningGymSource) -> None:
    rng = random.Random(0)
    with closing(PuzzleVerifier(20)) as verifier:
        for task in source.draw("train", 5, 0):
            right = CHAIN.write_solution(task, rng, 0.0)
            assert verifier.verify(task, read(right)).passed
            wrong = right[:-1] + ("8" if right.endswith("9") else "9")
            assert verifier.verify(task, read(wrong)).outcome == "incorrect"


def test_every_step_slips_at_rate_one_in_the_ways_it_is_given() -> None:
    forgetful = ChainDialect({"forgotten_carry": 1})
    text = forgetful.write_solution(chain_task([9, 9, 1, 2]), random.Random(0), 1.0)
    assert text == "a9=90\nb9=80\nc1=90\nd2=10>10"
    text = forgetful.write_solution(product_task([6, 3, 7]), random.Random(0), 1.0)
    assert text == "a6=60\nb3=80\nc7=60>60"
    text = forgetful.write_solution(doubling_task([6, 3, 7]), random.Random(0), 1.0)
    assert text == "a6=60\nb3=50\nc7=70>70"


def test_a_forgotten_carry_is_the_commonest_slip() -> None:
    task, rng = chain_task([19, 28, 37, 46, 55]), random.Random(0)
    kinds = Counter[str]()
    for _ in range(300):
        solution = read(CHAIN.write_solution(task, rng, 0.3))
        flags = CHAIN.check_steps(task, solution) or ()
        kinds.update(
            CHAIN.kind_of_mistake(task, solution, i) for i, holds in enumerate(flags) if not holds
        )
    assert kinds.most_common(1)[0][0] == "forgotten_carry"
    assert set(kinds) <= set(MISTAKES) and len(kinds) > 6


@pytest.mark.parametrize("family", FAMILIES)
def test_success_can_be_rare_at_the_start(family: str) -> None:
    """Of a solver that slips at 0.55 of the steps, pass@8 on 8 to 12 terms is far below 10%."""
    rng, solved = random.Random(0), 0
    for _ in range(100):
        task = FAMILIES[family]([rng.randint(1, 9) for _ in range(rng.randint(8, 12))])
        tries = [read(CHAIN.write_solution(task, rng, 0.55)).answer for _ in range(8)]
        solved += task.reference in tries
    assert solved <= 10


@pytest.mark.parametrize(
    ("family", "text", "index", "kind"),
    [
        ("sum", "a4=40\nb8=20\nc7=90>90", 1, "forgotten_carry"),
        ("sum", "a4=40\nb8=31\nc7=02>02", 1, "off_by_one"),
        ("sum", "a4=40\nb8=80\nc7=51>51", 1, "wrong_operand"),  # adds a's 4
        ("sum", "a4=40\nb9=31\nc7=02>02", 1, "miscopied_operand"),
        ("sum", "a4=40\nb8=40\nc7=11>11", 1, "skipped_term"),
        ("sum", "a4=40\nb8=23\nc7=93>93", 1, "wrong_operation"),
        ("sum", "a4=40\nb8=12\nc7=82>82", 1, "swapped_digits"),
        ("sum", "a4=40\nb8=21\nc7=91>92", 3, "miscopied_answer"),
        ("sum", "a4=40\nb8=21>21", 2, "early_answer"),
        ("sum", "a4=40\nb8=21\nc7=91\nd1=02>02", 3, "extra_term"),
        ("sum", "a4=40\nb8=99\nc7=601>601", 1, "other"),
        ("sum", "a4=40\nb8=21>31", 2, "other"),
        ("product", "a4=40\nb8=20\nc7=41>41", 1, "forgotten_carry"),
        ("product", "a4=40\nb8=21\nc7=48>48", 1, "wrong_operation"),
        ("product", "a4=40\nb8=82\nc7=691>691", 1, "wrong_operand"),
        ("product", "a4=40\nb3=21\nc7=48>48", 1, "miscopied_operand"),
        ("product", "a4=40\nb8=32\nc7=161>161", 1, "swapped_digits"),
        ("doubling", "a4=40\nb8=60\nc7=91>91", 1, "forgotten_carry"),
        ("doubling", "a4=40\nb8=21\nc7=13>13", 1, "wrong_operation"),  # adds without doubling
        ("doubling", "a4=40\nb8=40\nc7=51>51", 1, "skipped_term"),
        ("doubling", "a4=40\nb7=51\nc7=73>73", 1, "miscopied_operand"),
    ],
)
def test_mistakes_are_named(family: str, text: str, index: int, kind: str) -> None:
    task, solution = FAMILIES[family]([4, 8, 7]), read(text)
    assert solution.well_formed
    assert first_bad_step(CHAIN.check_steps(task, solution)) == index
    assert CHAIN.kind_of_mistake(task, solution, index) == kind
