"""Answers of several parts that are no arithmetic: times of day, dates, scores, ratios, labels.

Algebra reads `1:2:3` as a quotient, `2024-03-15` as a difference, `6 p.m.` as a product of letters
and `H2O` as one whose factors may change places. Here they are compared part by part, in order.
Pure functions that never raise. Leaves out what a number is (`quantity.py`).
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from rewards.number_words import leading_number
from rewards.units import Unit, known_unit

_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\s*(?:([ap])\.?\s?m\b\.?)?", re.IGNORECASE)
_HALVES = (
    (re.compile(r"\s*\bin the morning\Z"), " am"),
    (re.compile(r"\s*\bin the (?:afternoon|evening)\Z"), " pm"),
    (re.compile(r"(?<=\d)\s*o['\u2019]?clock\b"), ":00"),
    (re.compile(r"\A(?:12(?::00)?\s+)?noon\Z"), "12:00 pm"),
    (re.compile(r"\A(?:12(?::00)?\s+)?midnight\Z"), "12:00 am"),
    (re.compile(r"(?<=\d)\.(?=\d\d\s*[ap]\.?\s?m\b)"), ":"),
)
_BASED = re.compile(r"([0-9][0-9A-Za-z]*|[A-Fa-f][0-9A-Fa-f]*(?=_\{?16\b))_\{?(\w+)\}?")
_BASE_NAMES = "two three four five six seven eight nine ten eleven twelve"
_BASES = {word: str(base) for base, word in enumerate(_BASE_NAMES.split(), start=2)}
_BASES["sixteen"] = "16"
_IN_BASE = re.compile(r"\(?\s*(\w+)\s*\)?\s*(?:_|(?:in\s+)?base\s*)\s*\{?\s*(\w+)\s*\}?")
_QUOTIENT = re.compile(r"(\d+)\s*(?:r|R|rem\.?|remainder)\s*(\d+)")
_DASHED = re.compile(r"(\d+)(?:\s*[-\u2010-\u2014]\s*\d+)+")
_DATE = re.compile(r"\d{1,4}(?:\s*/\s*\d{1,4}){2}")
_TERM = r"(?:\d+(?:\.\d+)?[A-Za-z]?|[A-Za-z]|\d*\s*\\sqrt\s*\{?\d+\}?)"
_RATIO = re.compile(rf"{_TERM}(?:\s*:\s*{_TERM})+")
_QUOTED = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_LABEL = re.compile(r"(?=[0-9]*[A-Z])[A-Za-z0-9]*[A-Za-z][0-9][A-Za-z0-9]*")
_SUM = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\.?(?:,?\s*(?:and\s+)?(?=\d)|\Z)")
_PRIMES = re.compile(r"\A(\d{1,3})'\s*(\d{1,2}(?:\.\d+)?)(?:\"|'')\Z")  # of feet
_LONGEST_TIME = 80  # characters
_Time = tuple[int, int, int, str | None]


def same_parts(reference: str, answer: str) -> bool | None:
    """Whether two answers of several parts are one; None where the reference is not of this kind.

    Args:
        reference: as `answer_text.bare` has it.
        answer: the same.
    """
    reference, answer = _in_digits(reference), _in_digits(answer)
    if (time := _time(reference)) is not None:
        return _same_time(time, answer, has_minutes=":" in reference)
    reference, answer = _based(reference), _based(answer)
    for pattern in (_BASED, _QUOTIENT):
        if (ours := pattern.fullmatch(reference)) is not None:
            theirs = pattern.fullmatch(answer)
            return theirs is not None and _all_same(ours.groups(), theirs.groups())
    for pattern, between in ((_DASHED, r"[-\u2010-\u2014]"), (_DATE, "/")):
        if pattern.fullmatch(reference) is not None:
            return bool(pattern.fullmatch(answer)) and _all_same(
                re.split(between, reference), re.split(between, answer)
            )
    if (amounts := _amounts(reference)) is not None:
        return amounts == _amounts(answer)
    if _RATIO.fullmatch(reference) is not None:
        return _all_same(reference.split(":"), _terms(answer))
    return None


def same_label(reference: str, answer: str) -> bool | None:
    """The same of names with digits in them, such as H2O and B2; None for any other reference."""
    if _LABEL.fullmatch(reference) is None:
        return None
    return reference == re.sub(r"[_{}\s]", "", answer)


def _in_digits(text: str) -> str:
    """Noon, six o'clock and parts of the day as 12:00 pm, 6:00, am and pm; all else as it is."""
    said = text.casefold() if len(text) <= _LONGEST_TIME else ""
    if not re.search(r"clock|noon|night|morning|evening|\d\.\d\d\s*[ap]", said):
        return text
    for pattern, digits in _HALVES:
        said = pattern.sub(digits, said)
    return said if _time(said) is not None else text


def _based(text: str) -> str:
    """(101)_2, 101 base 2, 101_{\\text{two}} and 0xAF as 101_2 and AF_16; all else as it is."""
    if re.fullmatch(r"0x[0-9A-Fa-f]+", text):
        return f"{text[2:]}_16"
    found = _IN_BASE.fullmatch(text) if len(text) <= _LONGEST_TIME else None
    base = "" if found is None else _BASES.get(found[2].casefold(), found[2])
    return f"{found[1]}_{base}" if found is not None and base.isdecimal() else text


def _time(text: str) -> _Time | None:
    found = _TIME.fullmatch(text)
    if found is None or (found[2] is None and found[4] is None):
        return None
    hour, minute, second = (int(found[part] or 0) for part in (1, 2, 3))
    return hour, minute, second, found[4].lower() if found[4] else None


def _same_time(ours: _Time, answer: str, *, has_minutes: bool) -> bool:
    """Half of the day may be left out; so may the minutes of a full hour, where it is said."""
    theirs = _time(answer)
    if theirs is None:
        return not has_minutes and answer.isdecimal() and int(answer) == ours[0]
    if ours[3] == theirs[3] or None not in (ours[3], theirs[3]):
        return ours == theirs
    return ours[:3] == theirs[:3] or _of_24_hours(ours) == _of_24_hours(theirs)


def _of_24_hours(time: _Time) -> tuple[int, int, int]:
    hour, minute, second, half = time
    return (hour if half is None else hour % 12 + 12 * (half == "p")), minute, second


def _amounts(text: str) -> list[tuple[Fraction, Unit]] | None:
    """1 hour 20 minutes, part by part; None for anything but several numbers with units."""
    found, at = [], 0
    text = _PRIMES.sub(r"\1 feet \2 inches", text)
    text = _counted(text) if len(text) <= _LONGEST_TIME else text
    while part := _SUM.match(text, at):
        unit = known_unit("inch" if part[2] == "in" else part[2])
        if unit is None:
            return None
        found.append((Fraction(part[1]), unit))
        at = part.end()
    return found if at == len(text) and len(found) > 1 else None


def _counted(text: str) -> str:
    """With whole numbers in words, but for "a", as digits."""
    for word in reversed(list(re.finditer(r"(?<![\w-])[A-Za-z]{3,}", text))):
        said = leading_number(text[word.start() :])
        if said is not None and said[0].denominator == 1:
            text = f"{text[: word.start()]}{said[0]}{text[word.start() + said[1] :]}"
    return text


def _terms(answer: str) -> list[str]:
    """A ratio's terms: 3:4, 3 to 4, and 3/4 as a fraction."""
    answer = _QUOTED.sub(r"\1:\2", re.sub(r"(?<=\w)\s+to\s+(?=\w)", ":", answer))
    return (answer if ":" in answer else answer.replace("/", ":")).split(":")


def _all_same(ours: Sequence[str | None], theirs: Sequence[str | None]) -> bool:
    return [_part(part) for part in ours] == [_part(part) for part in theirs]


def _part(text: str | None) -> str | Fraction:
    """A number as its value, anything else without braces and spaces."""
    text = re.sub(r"[{}\s]", "", text or "0").casefold()
    return Fraction(text) if re.fullmatch(r"\d{1,400}(?:\.\d{1,400})?", text) else text
