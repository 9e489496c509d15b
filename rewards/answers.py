"""Are two final answers the same? Decided here where reading them is enough, else left to algebra.

    equal spelling                                   same
    a clock time, a base, a quotient with remainder  compared part by part
    choices: C, (C), A and B                         compared as letters
    words: "no solution", BCA, June 20               compared as words; an anagram is another word
    numbers, with at most a unit                     compared exactly (`quantity.py`)
    a number against sums and products               not the same: nobody worked it out
    anything else                                    algebra (math-verify) decides

Pure functions that never raise. Leaves out algebra, and processes that bound its time
(`scoring_process.py`).
"""

import re
from dataclasses import dataclass

from rewards.answer_text import bare, plain
from rewards.quantity import read_quantity, same_quantity

VERSION = "2"  # of this reading: verdicts of another one may differ
LONGEST = 400  # characters of an answer, beyond four times the reference's
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([ap])?\.?\s?(?:m\b\.?)?", re.IGNORECASE)
_BASED = re.compile(r"([0-9A-Za-z]+)_\{?(\d+)\}?")
_QUOTIENT = re.compile(r"(\d+)\s*(?:r|R|rem\.?|remainder)\s*(\d+)")
_LETTERS = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,|&|(?:,\s*)?(?i:and))\s*\(?[A-Z]\)?)*")
_ENDS = re.compile(r"([(\[]).*,.*([)\]])", re.DOTALL)  # of a point or an interval
_CHOICE = re.compile(r"(?:(?:choice|option)\s+)?\(?([A-Za-z])\)?(?:\s*[.):]\s*.*)?", re.DOTALL)
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "log", "ln", "exp", "sqrt", "max", "min", "gcd", "lcm", "mod", "deg", "det", "dim", "lim",
    "inf", "sup", "abs", "pi", "binom", "frac",
})  # fmt: skip
_SHORT_WORDS = frozenset({
    "no", "on", "in", "at", "up", "if", "is", "it", "of", "to", "us", "we", "he", "be", "by", "do",
    "go", "am", "pm", "ok",
})  # fmt: skip

_OPERATORS = re.compile(r"[=<>+*/^_{}\\|\[\]]|(?<=[\w)])\s*-\s*(?=[\d(])")
_ALTERNATIVES = re.compile(r"[-\d., ]+(?:(?:and|or)[-\d., ]+)+")
_UNWORKED = re.compile(
    r"[\d)]\s*(?:\+|-|\*|/\s*\(|\\times(?!\s*10\s*\^)|\\cdot(?!\s*10\s*\^)|\\div|x(?=\s*\d))\s*[\d(.]"
)


@dataclass(frozen=True)
class Pair:
    """A reference and an answer, ready for algebra.

    Attributes:
        same: whether they are the same answer; None where algebra must say.
        reference: in one spelling.
        answer: in one spelling.
    """

    same: bool | None
    reference: str
    answer: str


def compare(reference: str, answer: str) -> Pair:
    """Decide what reading can decide.

    Args:
        reference: the task's, a data set's whole solution included (`#### 7`, or boxed).
        answer: the learner's.
    """
    if len(answer) > LONGEST + 4 * len(reference):
        return Pair(False, reference, "")
    ours, theirs = plain(reference), plain(answer)
    return Pair(_decide(bare(ours), bare(theirs)), ours, theirs)


def _decide(reference: str, answer: str) -> bool | None:
    if not reference or not answer:
        return None
    if _spelled(reference) == _spelled(answer):
        return True
    for pattern in (_TIME, _BASED, _QUOTIENT):
        if (ours := pattern.fullmatch(reference)) is not None:
            return _same_parts(ours, pattern.fullmatch(answer))
    if _LETTERS.fullmatch(reference) and not re.fullmatch("[A-Z]", reference):
        return _same_letters(reference, answer)
    ends = [one.groups() for text in (reference, answer) if (one := _ENDS.fullmatch(text))]
    if len(ends) == 2 and ends[0] != ends[1]:
        return False
    number = read_quantity(reference)
    if number is not None:
        other = read_quantity(answer)
        if other is not None:
            return same_quantity(number, other)
        return False if _UNWORKED.search(answer) else None
    if re.fullmatch("[A-Z]", reference):
        choice = _CHOICE.fullmatch(answer)
        return choice is not None and choice[1].upper() == reference
    if is_words(reference):
        return _words(reference) == _words(answer)
    return None


def is_words(text: str) -> bool:
    """Whether a text is words rather than mathematics: "east", "June 20", "BCA"; not "2ab"."""
    if _OPERATORS.search(text) or _ALTERNATIVES.fullmatch(text):
        return False
    if re.fullmatch(r"\d+(?:st|nd|rd|th)", text):
        return True
    words = [w for w in _WORD.findall(text) if w.lower() not in _FUNCTIONS]
    return any(len(word) > 2 or word.lower() in _SHORT_WORDS or word.isupper() for word in words)


def _same_parts(ours: re.Match[str], theirs: re.Match[str] | None) -> bool:
    """Whether both say the same, where a part that one leaves out is no difference."""
    if theirs is None:
        return False
    pairs = zip(ours.groups(), theirs.groups(), strict=True)
    return all(a is None or b is None or _part(a) == _part(b) for a, b in pairs)


def _part(text: str) -> str:
    return text.casefold().lstrip("0") or "0"


def _same_letters(reference: str, answer: str) -> bool:
    if not _LETTERS.fullmatch(answer.upper()) and not _CHOICE.fullmatch(answer):
        return False
    chosen = _CHOICE.fullmatch(answer)
    if len(re.findall(r"\b[A-Z]\b", reference)) == 1 and chosen is not None:
        return chosen[1].upper() in reference
    return set(re.findall(r"\b[A-Z]\b", reference)) == set(re.findall(r"\b[A-Z]\b", answer.upper()))


def _spelled(text: str) -> str:
    """Without spaces, but for those between digits."""
    return (
        re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
        .replace(r"\dfrac", r"\frac")
        .replace(r"\tfrac", r"\frac")
    )


def _words(text: str) -> list[str]:
    text = re.sub(r"^(?:the|a|an)\s+", "", text.casefold())
    return re.findall(r"\w+(?:[.:/]\d+)*", text.replace("'", ""))
