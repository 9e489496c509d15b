"""Task sources: deterministic, distinct, split by hash, and clear about bad input."""

import json
import random
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reasoning_gym.arithmetic import basic_arithmetic
from reasoning_gym.factory import DATASETS, create_dataset

from data.errors import UserError
from data.puzzles import ReasoningGymSource
from data.records import SPLITS, Split, split_of
from data.sources import make_source
from rewards.dialect import dialect
from rewards.solution import Solution
from rewards.verifiers import Verifiers

ONE_DIGIT_SUMS = {
    "operators": ["+"],
    "allow_parentheses": False,
    "min_digits": 1,
    "max_digits": 1,
    "min_terms": 3,
    "max_terms": 8,
}
FAMILIES = ["basic_arithmetic", "chain_sum", "gsm_symbolic", "countdown", "word_sorting", "maze"]


def write_jsonl(path: Path, num: int) -> Path:
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(num)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@settings(max_examples=15)
@given(st.integers(0, 2**40), st.integers(1, 12), st.sampled_from(SPLITS))
def test_draws_are_deterministic_distinct_and_in_their_split(
    seed: int, num: int, split: Split
) -> None:
    source = ReasoningGymSource(params=ONE_DIGIT_SUMS)
    tasks = source.draw(split, num, seed)
    assert len({task.id for task in tasks}) == num
    assert all(task.split == split == split_of(task.id) for task in tasks)
    assert ReasoningGymSource(params=ONE_DIGIT_SUMS).draw(split, num + 3, seed)[:num] == tasks
    again = source.draw(split, num, seed, exclude=frozenset(task.id for task in tasks[:2]))
    assert again[: num - 2] == tasks[2:]


def test_splits_share_no_task_and_seeds_share_few() -> None:
    source = ReasoningGymSource(params={"min_terms": 5})
    drawn = {split: {task.id for task in source.draw(split, 60, 0)} for split in SPLITS}
    assert len(set.union(*drawn.values())) == 60 * len(SPLITS)
    neighbour = {task.id for task in source.draw("train", 60, 1)}
    assert len(neighbour & drawn["train"]) < 5  # entry i of seed 1 is not entry i+1 of seed 0


@pytest.mark.parametrize("family", FAMILIES)
def test_gold_answers_score_full_marks(family: str) -> None:
    scorer = create_dataset(family, seed=0, size=1)
    for task in ReasoningGymSource(family).draw("probe", 3, 5):
        entry = json.loads(json.dumps(task.entry))
        assert scorer.score_answer(task.reference, entry) == pytest.approx(1.0)
        assert entry["question"] == task.question and task.verifier == "puzzle"
        assert entry["metadata"]["source_dataset"] == family
        assert task.generator.name == f"reasoning_gym/{family}"


def test_a_generator_makes_the_task_again() -> None:
    source = ReasoningGymSource(params=ONE_DIGIT_SUMS)
    task = source.draw("test", 3, 9)[-1]
    params = json.loads(task.generator.difficulty)
    chunk = create_dataset(task.family, seed=task.generator.seed, size=1024, **params)
    assert chunk[task.entry["metadata"]["source_index"]]["question"] == task.question


def test_two_thousand_test_tasks_take_seconds() -> None:
    started = time.process_time()
    tasks = ReasoningGymSource("basic_arithmetic").draw("test", 2_000, 1)
    assert len({task.id for task in tasks}) == 2_000
    assert time.process_time() - started < 10


def test_drawing_leaves_the_process_as_it_was() -> None:
    find_divisors = basic_arithmetic.find_common_divisors
    random.seed(1)
    np.random.seed(1)
    expected = random.Random(1).random(), np.random.RandomState(1).random()
    first = ReasoningGymSource("list_functions").draw("train", 20, 3)  # uses the global generator
    assert (random.random(), np.random.random()) == expected
    assert ReasoningGymSource("list_functions").draw("train", 20, 3) == first
    assert basic_arithmetic.find_common_divisors is find_divisors


def test_entries_that_a_wrong_answer_solves_are_passed_over() -> None:
    family = "polynomial_multiplication"  # a product of 0 is solved by "False"
    scorer = create_dataset(family, seed=0, size=1)
    for task in ReasoningGymSource(family).draw("train", 40, 1):
        assert scorer.score_answer("False", task.entry) < 1


@pytest.mark.parametrize("family", ["codeio", "bf"])
def test_drawing_prints_nothing(family: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert ReasoningGymSource(family).draw("train", 5, 2)
    print("shown")
    assert capfd.readouterr().out == "shown\n"


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(DATASETS.keys() - {"composite"}))
def test_no_family_gives_nonsense_full_marks(family: str) -> None:
    """Every family is refused, or judges three of its tasks as it should."""
    try:
        tasks = ReasoningGymSource(family).draw("train", 3, 2)
    except UserError as error:
        assert "cannot be used" in str(error)
        return
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        for task in tasks:
            gold = verifiers.verify(task, Solution("", (), task.reference, None))
            assert gold.passed or not task.reference, gold
            for answer in ("\0garbage", "no idea", "[[1", "{", "x" * 3000):
                verdict = verifiers.verify(task, Solution("", (), answer, None))
                assert verdict.outcome in ("incorrect", "invalid"), (answer, verdict)


def test_an_exhausted_family_says_so() -> None:
    source = ReasoningGymSource(params={**ONE_DIGIT_SUMS, "min_terms": 2, "max_terms": 2})
    with pytest.raises(UserError, match=r"only \d+ of 50 distinct \"test\" tasks.*widen"):
        source.draw("test", 50, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "basic_aritmetic"}, 'did you mean "basic_arithmetic"'),
        ({"params": {"min_term": 3}}, 'did you mean "min_terms"'),
        ({"params": {"min_terms": 0}}, "min_terms must be positive"),
        ({"params": {"min_terms": "a"}}, "refuses params"),
        ({"params": {"seed": 3}}, "the draw sets it"),
        ({"family": "rearc"}, "do not score 1.0 .*choose another family"),
        ({"family": "game_of_life_halting"}, r"full marks to the answer '\\x00garbage'"),
        ({"family": "coin_flip"}, "full marks to the answer '0'"),
        ({"family": "complex_arithmetic"}, "full marks to the answer 'nan'"),
        ({"famly": "x"}, 'did you mean "family"'),
    ],
)
def test_reasoning_gym_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_source("reasoning_gym", **arguments)


def test_an_unknown_kind_or_split_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='did you mean "jsonl"'):
        make_source("json", path="x")
    with pytest.raises(UserError, match='needs "path"'):
        make_source("jsonl")
    source = make_source("jsonl", path=write_jsonl(tmp_path / "t.jsonl", 40))
    for each in (source, ReasoningGymSource()):
        with pytest.raises(ValueError, match='did you mean "train"'):
            each.draw("trian", 1, 0)


@pytest.mark.parametrize("style", ["simple", "natural"])
def test_no_two_splits_show_the_same_problem(style: str) -> None:
    """Four spellings of a question are one problem to a dialect that shows the operands only."""
    solver = dialect("chain")
    source = ReasoningGymSource(
        params={**ONE_DIGIT_SUMS, "max_terms": 3, "format_style": style}, shown=solver.shown
    )
    shown = {
        split: {solver.render_problem(task) for task in source.draw(split, num, 0)}
        for split, num in (("train", 800), ("test", 40), ("probe", 40), ("audit", 40))
    }
    assert [len(problems) for problems in shown.values()] == [800, 40, 40, 40]
    assert len(set.union(*shown.values())) == 920
