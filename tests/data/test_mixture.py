"""Mixtures of families: reproducible, disjoint, distinct, and in the proportions asked for."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.mixture import MixtureSource, Part
from data.puzzles import ReasoningGymSource
from data.records import SPLITS, split_of
from data.sources import make_source
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
