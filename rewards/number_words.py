"""Numbers in words: forty-two, one hundred and fifteen, five eighths, two and a half.

Pure functions that never raise. Leaves out what stands after the number (`quantity.py`).
"""

import re
from collections.abc import Sequence
from fractions import Fraction

_SMALL_NAMES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS_NAMES = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_SMALL_NAMES.split())}
_TENS = {word: 10 * value for value, word in enumerate(_TENS_NAMES.split(), start=2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_PLURALS = {"halves": 2} | {f"{word}s": value for word, value in _PARTS.items()}
_ALL = frozenset({*_SMALL, *_TENS, *_SCALES, *_PARTS, *_PLURALS, "hundred"})
_FIRST = frozenset({*_SMALL, *_TENS, "a", "an", "half"})
_WORD = re.compile(r"[A-Za-z]+")
_GAP = re.compile(r"(?:\s+|-)(?=[A-Za-z])")


def leading_number(text: str) -> tuple[Fraction, int] | None:
    """The number in words that a text begins with, and the index of what follows it.

    None where there is no such number, and where another number word follows: nine nine.
    """
    words, ends = _words(text)
    if not words or words[0] not in _FIRST:
        return None
    value, at = _number(words)
    if not at or (at < len(words) and words[at] in _ALL):
        return None
    return value, ends[at - 1]


def in_words(text: str) -> Fraction | None:
    """The number that a whole text is, such as forty-two; None for any other text."""
    found = leading_number(text)
    return found[0] if found is not None and found[1] == len(text) else None


def _words(text: str) -> tuple[list[str], list[int]]:
    """The words up to the first other sign, in small letters, and where each ends."""
    words, ends, at = list[str](), list[int](), 0
    while word := _WORD.match(text, at):
        words.append(word[0].lower())
        ends.append(word.end())
        gap = _GAP.match(text, word.end())
        if gap is None:
            break
        at = gap.end()
    return words, ends


def _number(words: Sequence[str]) -> tuple[Fraction, int]:
    """Value and length in words of a whole number, a fraction or both."""
    part, at = _fraction(words)
    if at:
        return part, at
    whole, at = _whole(words)
    if at and words[at : at + 1] == ["and"]:
        part, more = _fraction(words[at + 1 :])
        if more and part < 1:
            return whole + part, at + 1 + more
    return Fraction(whole), at


def _fraction(words: Sequence[str]) -> tuple[Fraction, int]:
    """One third, a half, half, five eighths; a twenty-fifth is an ordinal, and none of these."""
    if words[:1] == ["half"]:
        return Fraction(1, 2), 1
    if len(words) < 2:
        return Fraction(0), 0
    top = 1 if words[0] in ("a", "an") else _SMALL.get(words[0], 0)
    bottom = (_PARTS if top == 1 else _PLURALS).get(words[1])
    return (Fraction(top, bottom), 2) if top and bottom else (Fraction(0), 0)


def _whole(words: Sequence[str]) -> tuple[int, int]:
    total, group, at, least = 0, 0, 0, 10**15
    if words[0] == "a":
        if len(words) < 2 or (words[1] != "hundred" and words[1] not in _SCALES):
            return 0, 0
        group, at = 1, 1
    while at < len(words):
        word = words[at]
        small = _SMALL.get(word, _TENS.get(word))
        if small is not None:
            room = 100 if group % 100 == 0 else 10 if group % 10 == 0 and group % 100 >= 20 else 0
            is_first = group == 0 and (at == 0 or words[at - 1] in ("and", *_SCALES))
            if not is_first and not (group and 0 < small < room):
                break
            group += small
        elif word == "hundred" and 0 < group < 100:
            group *= 100
        elif word in _SCALES and group and _SCALES[word] < least:
            least = _SCALES[word]
            total, group = total + group * least, 0
        elif word == "and" and _may_join(words, at):
            pass
        else:
            break
        at += 1
    return total + group, at


def _may_join(words: Sequence[str], at: int) -> bool:
    """Whether "and" stands within a number: one hundred and five, not two and five."""
    follows = words[at + 1] if at + 1 < len(words) else ""
    is_part = words[at + 2 : at + 3] and words[at + 2] in {*_PARTS, *_PLURALS}
    is_small = follows in _SMALL or follows in _TENS
    return is_small and not is_part and (words[at - 1] == "hundred" or words[at - 1] in _SCALES)
