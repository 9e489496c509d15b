"""Duplicates within the corpus, and overlap with evaluation texts."""

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data.contamination import Contamination
from data.dedup import DuplicateIndex, minhash

WORDS = [f"word{number}" for number in range(400)]
NUMBERS = st.lists(st.integers(0, 99), min_size=1, max_size=14)


def prose(seed: int, num_words: int = 200) -> list[str]:
    return random.Random(seed).choices(WORDS, k=num_words)


@given(NUMBERS, NUMBERS)
def test_exact_duplicates_are_found_up_to_whitespace(left: list[int], right: list[int]) -> None:
    index = DuplicateIndex()
    solution = "\n".join(map(str, left))
    assert index.find("q", solution) == ""
    index.add("q", solution)
    assert index.find(" q", "  ".join(map(str, left))) == "duplicate"
    assert index.find("another q", solution) == ""
    assume(left != right)
    assert index.find("q", "\n".join(map(str, right))) == ""


@given(st.integers(0, 2**32), st.integers(0, 199))
def test_prose_with_one_word_changed_is_a_near_duplicate(seed: int, place: int) -> None:
    words = prose(seed)
    index = DuplicateIndex()
    index.add("q", " ".join(words))
    changed = " ".join([*words[:place], "elsewhere", *words[place + 1 :]])
    assert index.find("q", changed) == "near_duplicate"
    assert index.find("q", " ".join(prose(seed + 1))) == ""


def test_minhash_estimates_the_jaccard_similarity() -> None:
    for num_shared in (50, 100, 200, 300):
        left = prose(1, 400)
        right = left[:num_shared] + prose(2, 400 - num_shared)
        triples = [set(zip(text, text[1:], text[2:], strict=False)) for text in (left, right)]
        exact = len(triples[0] & triples[1]) / len(triples[0] | triples[1])
        sketches = [minhash(" ".join(text)) for text in (left, right)]
        assert sketches[0] is not None and sketches[1] is not None
        assert abs(sketches[0].jaccard(sketches[1]) - exact) < 0.13


def test_short_texts_are_no_prose() -> None:
    assert minhash(" ".join(prose(0, 50))) is None
    assert minhash(" ".join(prose(0, 51))) is not None


def test_a_near_duplicate_answers_the_same_question() -> None:
    index, solution = DuplicateIndex(), " ".join(prose(0))
    index.add("How many pencils are on the left shelf?", solution)
    assert index.find("What is the colour of the third box, and why?", solution) == ""
    assert index.find("How many pencils are on the left shelf", solution + " so") == ""
    asked = "So how many pencils are on the left shelf?"
    assert index.find(asked, solution + " so") == "near_duplicate"


def test_near_duplicates_without_spaces_between_words_are_found() -> None:
    chinese = "".join(chr(0x4E00 + (n * 37) % 2000) for n in range(300))
    index = DuplicateIndex()
    index.add("q", chinese)
    assert index.find("q", chinese + "好") == "near_duplicate"
    assert index.find("q", chinese[::-1]) == ""
    assert minhash(chinese[:101]) is None and minhash(chinese[:102]) is not None


@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(0, 20))
def test_ten_words_in_a_row_are_an_overlap(seed: int, start: int, cut: int) -> None:
    evaluation = prose(seed, 40)
    index = Contamination([" ".join(evaluation), " ".join(prose(seed + 1, 40))])
    mine = [f"mine{number}" for number in range(20)]
    shared = evaluation[start : start + 10]
    leaked = " ".join([*mine[:cut], *shared, *mine[cut:]])
    assert index.overlap(leaked.upper()) == " ".join(shared)
    clean = " ".join([*mine[:cut], *shared[:9], *mine[cut:]])
    assert index.overlap(clean) == ""


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8), st.integers(0, 50))
def test_short_texts_match_as_a_whole(terms: list[int], other: int) -> None:
    question = f"Calculate {' + '.join(map(str, terms))}."
    index = Contamination([question])
    assert index.overlap(f"  {question.lower()} ") == question.lower()
    for around in ("Now: {} Easy", "Now: {}", "{} Easy"):
        assert index.overlap(around.format(question)) == question.lower()
    assert index.overlap(question.replace("+", "-")) == ""
    assert index.overlap(f"Calculate {' + '.join(map(str, [*terms, other]))}.") == ""


def test_very_short_texts_match_only_alone() -> None:
    index = Contamination(["7", "", "two words"])
    assert index.overlap("7") == "7" and index.overlap("Two  words") == "two words"
    assert index.overlap("7 and two words") == "" and index.overlap("") == ""


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ("What is 17 + 25?", "What is 17+25?"),
        ("What is 17 + 25?", "What is $17 + 25$?"),
        ("What is 17 + 25?", 'He asked "What is 17 + 25?" and left.'),
        ("Find the area of a circle", "Find the area of a circle, please."),
        ("2 + 3 = x", "Solve: 2+3=x"),
        ("2 + 3 = x", "**2 + 3 = x**"),
        ("What is 17 + 25?", "**What is 17 + 25?**"),
        ("What is 17 + 25?", "- What is 17 + 25?\n- What is 8?"),
        ("What is 17 + 25?", "> What is 17 + 25?"),
        ("What is 17 + 25?", "<question>What is 17 + 25?</question>"),
        ("What is 17 + 25?", "What is 17 + 25 = ?"),
        ("Calculate 17 + 25.", "Calculate 17 + 25 = 42"),
        ("Calculate 17 + 25.", "Calculate 17 + 25 + 3. Then calculate 17 + 25."),
        ("Calculate 17 - 25.", "Now calculate 17 \u2212 25"),
        ("Calculate 17 \u00d7 25.", "Now calculate 17*25"),
        ("Is a well-known fact true?", "Is a well known fact true"),
        ("What is 17 + 25?", "What is \uff11\uff17 \uff0b \uff12\uff15\uff1f"),
        ("太阳有多大的直径", "- 太阳有多大的直径"),
        (
            "一个农夫有17只羊现在他一共有多少只羊",
            "请回答一个农夫有17只羊现在他一共有多少只羊谢谢",
        ),
        ("太阳有多大的直径", "请问太阳有多大的直径"),
    ],
)
def test_spaces_and_punctuation_hide_no_leak(known: str, text: str) -> None:
    assert Contamination([known]).overlap(text)


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ("What is 17 + 25?", "What is 17 - 25?"),
        ("What is 17 + 25?", "What is 17 + 25 + 3?"),
        ("What is 17 + 25?", "What is 17 + 253?"),
        ("What is 17 + 25?", "What is 17 + 25.5?"),
        ("What is 1.5 + 25?", "What is 1 5 + 25?"),
        ("17 + 25 = x", "Solve 3 + 17 + 25 = x"),
        ("17 + 25 = x", "Solve -17 + 25 = x"),
        ("17 + 25 = x", "Solve 17 + 25 = x - y"),
        ("What is 17 + 25?", "What is the capital of a country?"),
        ("太阳有多大的直径", "月亮有多大的直径"),
        ("多少钱", "这本书多少钱"),
    ],
)
def test_another_problem_is_no_leak(known: str, text: str) -> None:
    assert Contamination([known]).overlap(text) == ""


def test_a_template_is_no_leak_but_its_filling_is() -> None:
    template = "Sort these words in ascending order and give them as a comma-separated list: "
    texts = [template + " ".join(prose(seed, 12)) for seed in range(5)]
    index = Contamination(texts)
    assert index.overlap(template + " ".join(prose(9, 12))) == ""
    assert index.overlap(template + " ".join(prose(3, 12))) != ""
    assert index.overlap("Words: " + " ".join(prose(3, 12))) != ""


@pytest.mark.parametrize("num_copies", [2, 3, 10])
def test_near_copies_of_one_problem_do_not_exempt_each_other(num_copies: int) -> None:
    problem = " ".join(prose(1, 30))
    marks = "?!.,;:-()*"
    for copies in (
        [f"{problem} (version {n} of it)" for n in range(num_copies)],
        [f"{problem}{marks[n]}" for n in range(num_copies)],
    ):
        assert Contamination(copies).overlap(f"Solve this: {problem} Thanks.") != ""
    written = [f"{problem} {n} of {n + 7} apples" for n in range(num_copies)]  # a generator's
    found = Contamination([], written).overlap(f"{problem} 70 of 90 apples")
    assert (found == "") == (num_copies >= 3)


@pytest.mark.parametrize(
    ("listed", "leak"),
    [
        ("0, 1, 2, 3, 4, 5, 6, 7, 8, 9", False),
        ("9, 8, 7, 6, 5, 4, 3, 2, 1, 0", False),
        ("1, 2, 3, 4, 5, 6, 1, 2, 3, 4", False),
        ("0, 0, 0, 0, 0, 0, 0, 0, 0, 0", False),
        ("1, 2, 3, 4, 5, 1, 2, 4, 3, 5", True),
        ("12, 7, 31, 5, 8, 9, 4, 40, 2, 6", True),
    ],
)
def test_counting_is_no_leak_and_other_numbers_are(listed: str, leak: bool) -> None:
    """Seven of MBPP's 974 tasks count as tasks of HumanEval do, and share nothing else."""
    index = Contamination([f"Sort a list that was shuffled. >>> f([{listed}]) gives it back"])
    assert (index.overlap(f"Push values on a heap: {listed}") != "") == leak
    assert index.overlap(f">>> f([{listed}]) gives it back"), "with words around it says something"
    assert Contamination([f"{listed}, 11"]).overlap(f"So: {listed}, 11, done"), "it says no more"
