"""Right answers pass in whatever form people and models write them; wrong ones never do."""

import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from data.records import Generator, Task
from rewards.answers import compare, is_words
from rewards.math_verifier import MathVerifier
from rewards.solution import Solution


def _pairs(name: str) -> list[tuple[str, str, bool]]:
    """Reference, answer, whether it is right."""
    path = Path(__file__).with_name(f"{name}_pairs.txt")
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("# "):
            continue
        reference, *groups = line.replace("⏎", "\n").split(" ||")
        for answers, is_right in zip(groups, (True, False), strict=True):
            said = [answer for answer in answers.strip().split(" ;; ") if answer]
            found += [(reference, answer, is_right) for answer in said]
    return found


PAIRS = [pair for name in ("answer", "attacker", "fresh") for pair in _pairs(name)]


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with closing(MathVerifier(timeout_seconds=20)) as verifier:
        yield verifier


def _outcome(verifier: MathVerifier, reference: str, answer: str) -> str:
    task = Task(
        id="0", family="test", question="?", reference=reference, verifier="math", split="train",
        entry={}, generator=Generator(name="test", version="1", seed=0, difficulty=""),
    )  # fmt: skip
    verdict = verifier.verify(task, Solution("", (), answer, None))
    assert verdict.counted, (reference, answer, verdict)
    return verdict.outcome


def test_every_pair_is_judged_rightly(verifier: MathVerifier) -> None:
    judged = [(r, a, _outcome(verifier, r, a) == "correct", right) for r, a, right in PAIRS]
    assert len(PAIRS) > 4000
    assert [(r, a) for r, a, found, right in judged if found and not right] == []
    assert [(r, a) for r, a, found, right in judged if right and not found] == []


def test_the_pairs_that_are_left_are_still_judged_otherwise(verifier: MathVerifier) -> None:
    """One that is judged by its label belongs among the others."""
    left = _pairs("left")
    assert len(left) > 10
    assert [one for one in left if (_outcome(verifier, *one[:2]) == "correct") == one[2]] == []


@pytest.mark.parametrize(
    "answer", ["9" * 5000, "x" * 20000, "{" * 2000, "(" * 3000, "1+" * 4000 + "1", "\\frac" * 900]
)
def test_a_runaway_answer_is_wrong_at_once(verifier: MathVerifier, answer: str) -> None:
    """How a collapsing policy writes: masked, it would leave the accuracy as it was."""
    assert _outcome(verifier, "1", "1") == "correct"
    started = time.monotonic()
    assert _outcome(verifier, "5", answer) == "incorrect"
    assert time.monotonic() - started < 2


def test_an_answer_at_which_algebra_stumbles_is_wrong(verifier: MathVerifier) -> None:
    for answer in ("\\frac{0}{0}", "1/0", "\\infty - \\infty", "0^{-1}", "\\log 0"):
        assert _outcome(verifier, "5", answer) != "correct"


def test_reading_never_raises_and_is_quick() -> None:
    """Random texts of what answers are made of, and the pairs' own answers cut and joined."""
    rng = random.Random(0)
    pieces = [
        *"0123456789.,:;()[]{}$%^_=+-*/\\ xyABab√½π²\u2212\n\"'`<>",
        "\\frac",
        "\\boxed",
        "\\text{",
    ]
    pieces += ["\\overline", "answer is ", " and ", " or ", "10^", "####", "million", "**", " cm"]
    pieces += [answer for _, answer, _ in PAIRS]
    slowest = 0.0
    for _ in range(20_000):
        reference, answer = ("".join(rng.choices(pieces, k=rng.randint(0, 40))) for _ in range(2))
        started = time.process_time()
        compare(reference, answer)
        slowest = max(slowest, time.process_time() - started)
    assert slowest < 0.5, "no expression backtracks for long"


@pytest.mark.parametrize(
    "text", ["(" * 900, "A, " * 300, "1 234" * 150, "a1" * 400, "\\text{" * 150]
)
def test_a_long_text_does_not_backtrack(text: str) -> None:
    started = time.process_time()
    compare(text, text + "!")
    compare("x" * 300, text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("text", ["east", "June 20", "BCA", "no", "all real numbers", "1st", "DNE"])
def test_words_are_no_products_of_letters(text: str) -> None:
    assert is_words(text)


@pytest.mark.parametrize(
    "text", ["x", "2ab", "xy", "\\sin x", "4 or 9", "x^2", "a+b", "ln 2", "n!"]
)
def test_mathematics_is_left_to_algebra(text: str) -> None:
    assert not is_words(text)
