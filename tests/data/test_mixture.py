"""Mixtures of sources: reproducible, disjoint, distinct, and in the proportions asked for."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.mixture import MixtureSource, Part
from data.puzzles import ReasoningGymSource
from data.records import SPLITS, Task, split_of
from data.source import draw_held_out
from data.sources import draw_up_to, jsonl_source, make_source
from rewards.dialect import dialect

SHOWN = dialect("chain").shown
SUMS = {
    "operators": ["+"], "allow_parentheses": False, "allow_negation": False,
    "min_terms": 8, "max_terms": 12, "min_digits": 1, "max_digits": 2,
}  # fmt: skip
PRODUCTS = {"min_terms": 8, "max_terms": 12, "max_digits": 1}


def part(family: str, params: dict, weight: float) -> Part:
    return Part(family, ReasoningGymSource(family, params, SHOWN), weight)


PARTS = [part("basic_arithmetic", SUMS, 3.0), part("products", PRODUCTS, 1.0)]


@settings(max_examples=10)
@given(seed=st.integers(0, 2**40), num=st.integers(1, 12), split=st.sampled_from(SPLITS))
def test_draws_are_reproducible_and_in_their_split(seed: int, num: int, split: str) -> None:
    tasks = MixtureSource(PARTS).draw(split, num, seed)
    assert len({task.id for task in tasks}) == num
    assert all(task.split == split == split_of(task.id) for task in tasks)
    assert make_source("mixture", parts=PARTS).draw(split, num + 3, seed)[:num] == tasks


def test_each_task_keeps_its_family_and_families_come_by_weight() -> None:
    tasks = MixtureSource(PARTS).draw("train", 400, 0)
    counts = Counter(task.family for task in tasks)
    assert counts["basic_arithmetic"] == pytest.approx(300, abs=35)  # four standard deviations
    for task in tasks:
        assert task.entry["metadata"]["source_dataset"] == task.family
        assert (SHOWN(task.question) or "").startswith("*") == (task.family == "products")
    first_half = Counter(task.family for task in tasks[:200])
    assert first_half["products"] == pytest.approx(50, abs=25)  # mixed, not one after the other


def test_splits_share_no_problem_even_where_families_overlap() -> None:
    """Both parts ask small sums: what one trains on, the other must not test."""
    natural = {**SUMS, "min_terms": 2, "max_terms": 3, "max_digits": 1}
    parts = [
        part("basic_arithmetic", natural, 1.0),
        part("basic_arithmetic", {**natural, "format_style": "natural"}, 1.0),
    ]
    source = MixtureSource(parts)
    seen = {split: [SHOWN(t.question) for t in source.draw(split, 30, 0)] for split in SPLITS}
    assert all(len(set(shown)) == 30 for shown in seen.values())
    assert len(set.union(*map(set, seen.values()))) == 30 * len(SPLITS)


def test_excluded_tasks_are_passed_over() -> None:
    source = MixtureSource(PARTS)
    tasks = source.draw("probe", 8, 1)
    rest = source.draw("probe", 8, 1, exclude=frozenset(task.id for task in tasks))
    assert {task.id for task in tasks}.isdisjoint(task.id for task in rest)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "at least one source"),
        ([part("products", {}, 0.0)], "weight of products must be above 0"),
    ],
)
def test_mistakes_are_named(parts: list[Part], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_source("mixture", parts=parts)


def listed(path: Path, first: int, num: int) -> Part:
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(first, first + num)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Part(path.name, jsonl_source(path, shown=lambda question: question), 1.0)


def test_lists_and_puzzles_mix_by_weight_each_list_in_epochs(tmp_path: Path) -> None:
    few, many = listed(tmp_path / "few.jsonl", 0, 40), listed(tmp_path / "many.jsonl", 1000, 400)
    source = MixtureSource([few, replace(many, weight=2.0), part("products", PRODUCTS, 1.0)])
    played: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for seed in range(8):
        tasks = source.draw_round(40, seed, frozenset(), played)
        assert tasks == source.draw_round(40, seed, frozenset(), played)
        names.update(task.generator.name for task in tasks)
        played.update(task.id for task in tasks)
    assert names["few.jsonl"] == pytest.approx(80, abs=31)  # four standard deviations
    assert names["many.jsonl"] == pytest.approx(160, abs=36)
    assert names["reasoning_gym/products"] == pytest.approx(80, abs=31)
    often = [played[task_id] for task_id in few.source.ids("train")]
    assert max(often) - min(often) <= 1 < max(often), "the short list began again, and no earlier"
    assert max(played[task_id] for task_id in many.source.ids("train")) == 1


def test_what_one_list_tests_no_other_trains_on(tmp_path: Path) -> None:
    """A short list moves problems between splits, so that two lists may disagree."""
    one, other = listed(tmp_path / "one.jsonl", 0, 30), listed(tmp_path / "two.jsonl", 0, 300)
    source = MixtureSource([one, other])
    seen = {
        split: {task.id for task in draw_up_to(source, split, 300, 0)}
        for split in ("test", "probe", "audit")
    }
    seen["train"] = {task.id for task in source.draw_round(600, 0, frozenset(), {})}
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) > 270
    assert min(map(len, seen.values())) >= 8, "the longer list gives what the shorter one lacks"


def test_the_same_list_twice_does_not_hang(tmp_path: Path) -> None:
    one = listed(tmp_path / "one.jsonl", 0, 30)
    source = MixtureSource([one, one])
    assert len(source.draw_round(100, 0, frozenset(), {})) == 100


def asked(path: Path, questions: Sequence[str], test: Path | None = None) -> Part:
    path.write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in questions))
    source = jsonl_source(path, test_path=test or "", shown=lambda question: question)
    return Part(path.name, source, 1.0)


def bare(tasks: Iterable[Task]) -> set[str]:
    return {"".join(task.question.casefold().split()).rstrip("?") for task in tasks}


def test_a_test_file_stays_whole_and_no_other_list_trains_on_it_in_any_spelling(
    tmp_path: Path,
) -> None:
    tests, spelled = [f"What is {n}+{n}?" for n in range(50)], tmp_path / "test.jsonl"
    asked(spelled, tests)
    one = asked(tmp_path / "one.jsonl", [f"Alpha {n}?" for n in range(100)], spelled)
    other = asked(
        tmp_path / "two.jsonl",
        [f"what is {n} + {n} ?" for n in range(50)] + [f"Beta {n}" for n in range(100)],
    )
    for parts in ([one, other], [other, one]):
        source = MixtureSource(parts)
        held = draw_held_out(source, "test", 400)
        assert set(tests) <= {task.question for task in held}
        trained = bare(source.draw_round(600, 0, frozenset(), {}))
        assert trained.isdisjoint(bare(held)) and len(trained) > 100
        both = bare(task for task in other.source.tasks if task.split == "train") & bare(held)
        assert f'leaves out {len(both)} "train" tasks' in "".join(source.remarks())


def test_two_spellings_of_a_problem_are_in_one_split_of_a_mixture(tmp_path: Path) -> None:
    one = asked(tmp_path / "one.jsonl", [f"What is {n}+{n}?" for n in range(60)])
    other = asked(tmp_path / "two.jsonl", [f"what is {n} + {n} ?" for n in range(90)])
    source = MixtureSource([one, other])
    seen = [bare(draw_up_to(source, split, 200, 0)) for split in ("test", "probe", "audit")]
    seen.append(bare(source.draw_round(600, 0, frozenset(), {})))
    assert sum(map(len, seen)) == len(set.union(*seen)) == 90


def test_puzzles_ask_nothing_that_a_list_has_in_another_split(tmp_path: Path) -> None:
    """A puzzle's split follows from its own text, a list's from its spelling."""
    params = {**SUMS, "min_terms": 2, "max_terms": 2, "max_digits": 1}
    puzzles = ReasoningGymSource("basic_arithmetic", params, lambda question: question)
    questions = [task.question for task in draw_up_to(puzzles, "train", 60, 0)]
    assert len(questions) > 40
    other = asked(tmp_path / "t.jsonl", [f"{question.upper()} " for question in questions])
    source = MixtureSource([other, Part("sums", puzzles)])
    tested = {other.source.key(t.question) for t in draw_held_out(other.source, "test", 60)}
    trained = {other.source.key(t.question) for t in draw_up_to(source, "train", 400, 1)}
    assert tested and tested.isdisjoint(trained)


def test_overlapping_lists_repeat_no_problem_within_a_round(tmp_path: Path) -> None:
    one, other = listed(tmp_path / "one.jsonl", 0, 60), listed(tmp_path / "two.jsonl", 0, 60)
    source, played = MixtureSource([one, other]), Counter[str]()
    for seed in range(50):
        ids = [task.id for task in source.draw_round(16, seed, frozenset(), played)]
        assert len(set(ids)) == 16
        played.update(ids)
    assert max(played.values()) - min(played[i] for i in source.ids("train")) <= 4
