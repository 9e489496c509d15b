"""A number as it is written, read exactly: 1,234.50, 3 1/2, 6.02e23, 25%, 2.5 million, $18, 12 cm.

Pure functions on `answer_text.bare` text that never raise; what is not wholly a number with at most
a unit is not read. Leaves out sums and powers, which algebra has to work out (`answers.py`).
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_EXPONENT = 400
_SURE_DIGITS = 10  # of a decimal that stands for a fraction: 0.3333333333 for 1/3, not 0.333

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d+)?|\.\d+"
_POWER = r"(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*[{(]?\s*(?P<power>[+-]?\d+)\s*[})]?"
_TOP = r"(?:\{\s*(?P<top>-?\d+)\s*\}|(?P<top1>\d))"
_BOTTOM = r"(?:\{\s*(?P<bottom>-?\d+)\s*\}|(?P<bottom1>\d))"
_FRACTION = rf"\\[dt]?frac\s*{_TOP}\s*{_BOTTOM}"
_NUMBERS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?P<whole>\d+)\s*{_FRACTION}",
        _FRACTION,
        r"(?P<whole>\d+)\s+(?P<top>\d+)\s*/\s*(?P<bottom>\d+)(?![\d.])",
        r"(?P<top>\d+)\s*/\s*(?P<bottom>-?\d+)(?![\d.])",
        r"(?P<before>\d*)\.(?P<fixed>\d*)\\overline\s*\{?(?P<repeated>\d+)\}?",
        rf"(?P<number>{_PLAIN})\s*{_POWER}",
        rf"(?P<number>{_PLAIN})[eE](?P<power>[+-]?\d+)(?![\w.])",
        r"(?P<number>1(?P<ten>0))\s*(?:\^|\*\*)\s*[{(]?\s*(?P<power>[+-]?\d+)\s*[})]?",
        rf"(?P<number>{_PLAIN})(?![\d])",
    )
)
_SCALES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
_ABOUT = re.compile(r"^(?:\\approx|~|approximately|approx\.?|about|around|roughly|=)\s*")
_CURRENCIES = {
    "$": "usd", "\\$": "usd", "us$": "usd", "usd": "usd", "dollar": "usd", "buck": "usd",
    "€": "eur", "eur": "eur", "euro": "eur", "£": "gbp", "gbp": "gbp", "pound": "gbp",
    "¥": "jpy", "yen": "jpy", "₹": "inr", "rupee": "inr", "rs": "inr", "cent": "cent", "¢": "cent",
}  # fmt: skip
_MONEY = re.compile(r"^(US\$|\\?\$|€|£|¥|₹|¢|USD|EUR|GBP|Rs\.?)\s*")
_UNITS = {
    "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
    "mm": "millimeter millimetre", "in": "inch inche", "ft": "foot feet", "yd": "yard",
    "mi": "mile", "g": "gram", "kg": "kilogram kilo", "mg": "milligram", "oz": "ounce",
    "l": "liter litre L", "ml": "milliliter millilitre", "s": "second sec", "min": "minute",
    "h": "hour hr", "d": "day", "wk": "week", "mo": "month", "yr": "year", "°": "degree deg",
    "c": "celsius C", "f": "fahrenheit F", "mph": "mi/h", "n": "newton N", "j": "joule J",
    "w": "watt W", "v": "volt V", "hz": "hertz Hz", "pa": "pascal Pa", "k": "kelvin K",
}  # fmt: skip
_CANONICAL = {w: unit for unit, words in _UNITS.items() for w in [unit, *words.split()]}
_CANONICAL |= {word.casefold(): unit for word, unit in _CANONICAL.items()}
# After a number these make another number of it, or another statement.
_NO_UNITS = frozenset({
    "or", "and", "not", "times", "plus", "minus", "over", "divided", "multiplied", "to", "x", "r",
    "remainder", "mod", "modulo", "base", "squared", "cubed", "factorial", "half", "halves",
    "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth", "fifths", "if", "when",
    "unless", "but", "except", "point", "negative", "positive", "than", "less", "more", "of", "the",
    "st", "nd", "rd", "th",
})  # fmt: skip
_UNIT = re.compile(r"[A-Za-zµ°$€£%'/.^\d{}() \\-]*\Z")
_AFTERWARDS = re.compile(
    r"\s*(?:[,;(\u2013\u2014-]\s*)?\b(?:since|because|as|so|for|where|which|hence|thus)\b.*\Z"
    r"|\s*\([A-Za-z][A-Za-z -]*\)\Z",
    re.DOTALL,
)
_NAMED = re.compile(r"^(?P<name>\\?[A-Za-z][A-Za-z_]{0,2}(?:_?\{?\w\}?)?)\s*=\s*(?P<value>[^=]+)\Z")
_NAMED_LAST = re.compile(r"^(?P<value>[^=]+?)\s*=\s*(?P<name>[A-Za-z])\Z")


@dataclass(frozen=True)
class Quantity:
    """A number with its unit.

    Attributes:
        value: exactly what is written; a percentage's number, not a hundredth of it.
        unit: in one spelling; "" without one.
        is_percent: whether it is a percentage.
        decimals: written after the point; None where it is no plain decimal.
        name: of the variable that it is the value of; "" without one.
    """

    value: Fraction
    unit: str = ""
    is_percent: bool = False
    decimals: int | None = None
    name: str = ""


def read_quantity(text: str) -> Quantity | None:
    """Read a number with at most a name before it and a unit after it; None for anything else."""
    name = ""
    named = _NAMED.match(text) or _NAMED_LAST.match(text)
    if named is not None:
        name, text = named["name"], named["value"].strip()
    found = _read(text)
    if found is None:
        shorter = _AFTERWARDS.sub("", text)
        found = _read(shorter) if shorter != text else None
    if found is None:
        return None
    return Quantity(found.value, found.unit, found.is_percent, found.decimals, name)


def same_quantity(reference: Quantity, answer: Quantity) -> bool:
    """Whether both are one number of one thing.

    A unit that one of them leaves out is no difference, and a percentage is its number or its
    hundredth.
    """
    if reference.name and answer.name and reference.name != answer.name:
        return False
    if reference.unit and answer.unit and not _same_unit(reference.unit, answer.unit):
        return False
    if reference.is_percent == answer.is_percent:
        return _same_number(reference, answer)
    percent, other = sorted((reference, answer), key=lambda one: not one.is_percent)
    if other.unit:
        return False
    if percent.value / 100 == other.value:
        return True
    # "25" is often meant as 25%, and "0.5" hardly ever as 0.5%.
    return percent.value == other.value and (reference.is_percent or abs(other.value) > 1)


def _read(text: str) -> Quantity | None:
    text = _ABOUT.sub("", text.strip())
    negative, text = _sign(text)
    money = _MONEY.match(text)
    text = text[money.end() :] if money else text
    if not negative:
        negative, text = _sign(text)
    for pattern in _NUMBERS:
        found = pattern.match(text)
        if found is None:
            continue
        read = _value(found)
        rest = _after(text[found.end() :])
        if read is None or rest is None:
            continue
        scale, is_percent, unit = rest
        if money:
            unit = _CURRENCIES[money[1].lower().rstrip(".")]
        value, decimals = read
        value = (-value if negative else value) * scale
        return Quantity(value, unit, is_percent, decimals if scale == 1 else None)
    return None


def _sign(text: str) -> tuple[bool, str]:
    signed = re.match(r"([+-])\s*(?=[\d.\\$€£])", text)
    return (signed[1] == "-", text[signed.end() :]) if signed else (False, text)


def _value(found: re.Match[str]) -> tuple[Fraction, int | None] | None:
    """The number, and its decimals where it is a plain one."""
    parts = {name: part for name, part in found.groupdict().items() if part is not None}
    top, bottom = (parts.get(n, parts.get(f"{n}1")) for n in ("top", "bottom"))
    if top is not None and bottom is not None:
        if int(bottom) == 0:
            return None
        fraction = Fraction(int(top), int(bottom))
        return Fraction(parts.get("whole", 0)) + fraction, None
    if "repeated" in parts:
        fixed, repeated = parts["fixed"], parts["repeated"]
        nines = (10 ** len(repeated) - 1) * 10 ** len(fixed)
        tail = Fraction(int(fixed or 0), 10 ** len(fixed)) + Fraction(int(repeated), nines)
        return int(parts["before"] or 0) + tail, None
    number = re.sub("[, ]", "", parts["number"])
    power = int(parts.get("power", 0))
    if abs(power) > MAX_EXPONENT:
        return None
    if "ten" in parts:
        return Fraction(10) ** power, None
    value = Fraction(number if number[0] != "." else f"0{number}") * Fraction(10) ** power
    return value, (len(number.partition(".")[2]) if "power" not in parts else None)


def _after(text: str) -> tuple[int, bool, str] | None:
    """Scale, percentage and unit of what follows a number; None where that is something else."""
    text = text.strip()
    scaled = re.match(r"(dozen|hundred|thousand|million|billion|trillion)s?\b\s*", text, re.I)
    scale = _SCALES[scaled[1].lower()] if scaled else 1
    text = text[scaled.end() :] if scaled else text
    percent = re.match(r"(?:\\?%|percent\b|per cent\b|pct\b)\s*", text, re.I)
    if percent is not None:
        text = text[percent.end() :]
        return (scale, True, "") if not text or _is_unit(text) else None
    if not text:
        return scale, False, ""
    return (scale, False, _canonical(text)) if _is_unit(text) else None


def _is_unit(text: str) -> bool:
    if text in ("$", "€", "£", "¥", "¢"):
        return True
    if not _UNIT.match(text) or not re.match(r"[A-Za-zµ°]|\^\s*\{?\s*\\circ", text):
        return False
    without = re.sub(r"\^\s*\{?\s*(?:\\circ|-?\d)\s*\}?", " ", text)
    words = re.findall(r"[A-Za-zµ°']+", without)
    if re.search(r"[\d\\{}^]", without) or len(words) > 6:
        return False
    if any(word.lower() in _NO_UNITS for word in words):
        return False
    return all(len(word) > 1 or word in _CANONICAL or word == "a" for word in words)


def _canonical(text: str) -> str:
    """One spelling of a unit: known words shortened, a plural's s and spaces left out."""
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", "°", text)
    text = re.sub(r"\bper\b", "/", text).replace("{", "").replace("}", "")
    square = re.search(r"\b(square|sq|cubic|cu)\b\.?\s*", text)
    power = {"s": "^2", "c": "^3"}[square[1][0]] if square else ""
    text = text.replace(square[0], "") if square else text
    words = re.findall(r"[A-Za-zµ°']+|\^\d|/", text)
    known = "".join(_known(word) for word in words if word not in ("a", "an"))
    return {"mi/h": "mph", "km/hr": "km/h"}.get(known, known) + power


def _known(word: str) -> str:
    for spelled in (word, word.casefold(), word.casefold().removesuffix("s")):
        if spelled in _CANONICAL:
            return _CANONICAL[spelled]
        if spelled in _CURRENCIES:
            return _CURRENCIES[spelled]
    return word.casefold().removesuffix("s")


def _same_unit(one: str, other: str) -> bool:
    return one == other or (one in ("°",) and other in ("°c", "°f", "°"))


def _same_number(reference: Quantity, answer: Quantity) -> bool:
    if reference.value == answer.value:
        return True
    for decimal, other in ((reference, answer), (answer, reference)):
        if decimal.decimals is None or other.decimals is not None:
            continue
        digits = len(str(abs(int(decimal.value * 10**decimal.decimals))))
        if digits >= _SURE_DIGITS:
            return abs(decimal.value - other.value) < Fraction(1, 10**decimal.decimals)
    return False
