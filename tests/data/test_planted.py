"""Recall on planted contamination by kind, and false alarms, with their figures.

The bounds are the figures that the rule gave when they were written, rounded down; the changed
texts are English sentences that no author of the rule chose.
"""

import random
from collections.abc import Callable, Sequence

import pytest
from planted import (
    OTHER_SCRIPTS,
    full_width,
    restyled,
    reworded,
    sentences,
    verbatim,
)

from data.contamination import Contamination

NUM_KNOWN = 300
Plants = Callable[[str, Sequence[str], random.Random], str]


@pytest.fixture(scope="module")
def english() -> tuple[list[str], list[str]]:
    """Evaluation texts of 20 to 60 words, and foreign ones of any length from 3."""
    found = sentences(20, 60)
    random.Random(0).shuffle(found)
    others = set(found[NUM_KNOWN:]) | set(sentences(3, 19))
    assert len(found) > NUM_KNOWN + 200 and len(others) > 1000
    return found[:NUM_KNOWN], sorted(others)


def recall(known: Sequence[str], around: Sequence[str], plants: Plants) -> float:
    index, rng = Contamination(known), random.Random(0)
    return sum(index.overlap(plants(text, around, rng)) != "" for text in known) / len(known)


@pytest.mark.parametrize(
    ("plants", "least", "most"),
    [
        (verbatim, 1.0, 1.0),
        (restyled, 1.0, 1.0),
        (full_width, 1.0, 1.0),
        (reworded(15), 0.97, 1.0),
        (reworded(12), 0.97, 1.0),
        (reworded(8), 0.0, 0.2),  # hardly ten words in a row are left: the rule's limit
    ],
)
def test_planted_texts_are_found(
    english: tuple[list[str], list[str]], plants: Plants, least: float, most: float
) -> None:
    found = recall(*english, plants)
    assert least <= found <= most, f"recall {found:.3f} of {NUM_KNOWN}"


def test_short_texts_are_found_whole(english: tuple[list[str], list[str]]) -> None:
    short = random.Random(1).sample(sentences(4, 9), NUM_KNOWN)
    around = [text for text in english[1] if text not in short]
    assert recall(short, around, verbatim) >= 0.97


def test_other_scripts_are_found() -> None:
    assert recall(OTHER_SCRIPTS, ["So:", "请问", "Frage:"], verbatim) == 1.0
    assert recall(OTHER_SCRIPTS, ["So:", "请问", "Frage:"], restyled) == 1.0


def test_near_copies_in_the_evaluation_set_hide_nothing(
    english: tuple[list[str], list[str]],
) -> None:
    """Each evaluation text stands there five times, with another ending."""
    known, around = english
    index, rng = (
        Contamination([f"{text} Item {n}." for text in known for n in range(5)]),
        random.Random(0),
    )
    found = [index.overlap(verbatim(text, around, rng)) != "" for text in known]
    assert sum(found) >= 0.99 * len(found)


def test_clean_texts_raise_few_alarms(english: tuple[list[str], list[str]]) -> None:
    """Other sentences of the same modules; those that share ten words by convention are alarms."""
    known, others = english
    index = Contamination(known)
    alarms = [text for text in others if index.overlap(text)]
    assert len(alarms) <= 0.02 * len(others), f"{len(alarms)} of {len(others)}: {alarms[:5]}"
    scripts = Contamination(OTHER_SCRIPTS[::2])
    assert not [text for text in OTHER_SCRIPTS[1::2] if scripts.overlap(text)]
