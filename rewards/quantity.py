"""A number as it is written, read exactly: 1,234.50, 3 1/2, 6.02e23, 25%, 2.5 million, $18, 12 cm.

Pure functions on `answer_text.bare` text. What is not wholly a number, with at most a known unit or
a plural noun after it, is not read: `2ab`, `7 is wrong` and `3 tenths` are other things. Leaves out
how texts are spelled (`answer_text.py`) and what else an answer may be (`answers.py`).
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from rewards.number_words import in_words, leading_number
from rewards.units import ATTACHED, Unit, known_unit

MAX_EXPONENT = 400
_SURE_DECIMALS = 9  # of a decimal that stands for a fraction: 0.3333333333 for 1/3, not 0.333

_PLAIN = (
    r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?"  # 1.234.567,89; one point alone is a decimal's
    r"|(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d{1,3}(?:['\u2019_]\d{3})+"
    r"|\d{1,2}(?:,\d{2})+,\d{3}|\d+)(?:\.\d+)?|\.\d+"
)
_POWER = r"(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*[{(]?\s*(?P<power>[+-]?\d+)(?:\s*[})])?"
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
        r"(?P<number>1(?P<ten>0))\s*(?:\^|\*\*)\s*[{(]?\s*(?P<power>[+-]?\d+)(?:\s*[})])?",
        rf"(?P<number>{_PLAIN})(?![\d])",
    )
)
_SCALES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
_SCALE = re.compile(rf"({'|'.join(_SCALES)})s?\b\s*", re.IGNORECASE)
_SUFFIXES = {"k": 10**3, "M": 10**6}  # of an answer: a reference's 2k may be a product
_PERCENT = re.compile(r"(?:\\?%|percent\b|per cent\b|pct\b)\s*", re.IGNORECASE)
_ABOUT = re.compile(r"^(?:\\approx|~|approximately|approx\.?|about|around|roughly|=)\s*")
_MONEY = re.compile(r"^(US\$|\\?\$|€|£|¥|₹|¢|USD|EUR|GBP|Rs\.?)\s*")
_CURRENCIES = {
    "$": "usd", "\\$": "usd", "us$": "usd", "usd": "usd", "€": "eur", "eur": "eur", "£": "gbp",
    "gbp": "gbp", "¥": "jpy", "₹": "inr", "rs": "inr", "¢": "cent",
}  # fmt: skip
_COUNTED = re.compile(r"[a-z]+(?:[ -][a-z]+){0,2}\Z")
_IRREGULAR = frozenset({"people", "children", "men", "women", "fish", "sheep", "mice", "feet"})
# They look like plurals, or make another number or another statement of what is before them.
_NO_NOUNS = frozenset({
    "is", "was", "fails", "works", "seems", "looks", "has", "does", "exceeds", "equals", "remains",
    "becomes", "halves", "times", "plus", "minus", "less", "or", "and", "not", "never", "if", "to",
    "of", "as", "so", "too", "versus", "thus", "unless", "this", "crores", "lakhs", "wrong",
    "raised", "below", "above", "than", "squares", "cubes", "isn", "cannot", "at", "in", "thirds",
    "quarters",
})  # fmt: skip
_BECAUSE = re.compile(r"\s*[,;(]?\s*\b(?:since|because)\b(?P<why>.*)\Z", re.DOTALL | re.IGNORECASE)
_NEARLY = re.compile(r"(?P<exact>.+?)\s*\\approx\s*(?P<rounded>-?[\d.]+)", re.DOTALL)
_TURN = re.compile(r"\b(?:so|thus|hence|therefore|but|not|wrong|however|actually)\b|n't", re.I)
_ASIDE = re.compile(r"\s*\((?P<word>[a-z-]+(?: [a-z]+)*)\)\Z", re.IGNORECASE)
NAME = (
    r"(?:[fghpqFGHPQ]\(-?\d+\)|\\(?:angle|triangle|overline|vec|hat|bar)\s*\{?\s*[A-Z]{1,3}\s*\}?|\\[a-z]+|[A-Z]{2}|[A-Za-z]"
    r"(?:_\{?\w+\}?)?(?:\^\{-1\})?(?:\([A-Za-z]\))?)"
)
_NAMED = re.compile(rf"^(?P<name>{NAME}|[a-z](?:\s*\+\s*[a-z]){{1,3}})\s*=\s*(?P<value>[^=]+)\Z")
_NEGATIVE = re.compile(r"^(?:negative|minus)\s+(?=[\d.\\$€£a-z])", re.IGNORECASE)
_TOTAL = re.compile(
    r"(?<=[\w%])\s+(?:(?:in\s+)?(?:total|altogether|all(?<=in all))"
    r"|each|apiece|left(?:\s*over)?|remaining)\Z",
    re.IGNORECASE,
)
_CHANCE = re.compile(r"(?<=[\d%])\s+(?:chance|probability)\Z", re.IGNORECASE)
_ONE_IN = re.compile(r"^(\d+)\s+(?:in|out\s+of)\s+(\d+)\Z")
_ACIDITY = re.compile(r"^pH\s*(?:=|is|of)?\s*(?=\d)")
_AND_CENTS = re.compile(
    r"(?P<whole>\d[\d,]*)\s+(?:(?P<usd>dollars?)|(?P<eur>euros?)|(?P<gbp>pounds?))\s+(?:and\s+)?"
    r"(?P<cents>\d{1,2})\s+(?:cents?|(?P<pence>pence|p))"
)
_AND_PART = re.compile(r"^(?P<whole>-?\d+)\s+and\s+(?P<part>.+)\Z", re.DOTALL)
_YEAR = re.compile(r"^(?:in\s+)?(?:the\s+year\s+)?(?=\d{4}\Z)", re.IGNORECASE)
_POUND, _LB, _GBP, _CENT, _USD = (
    frozenset({(u, 1)}) for u in ("pound", "lb", "gbp", "cent", "usd")
)
_NAMED_LAST = re.compile(r"^(?P<value>[^=]+?)\s*=\s*(?P<name>[A-Za-z])\Z")


@dataclass(frozen=True)
class Quantity:
    """A number with its unit.

    Attributes:
        value: exactly what is written; a percentage's number, not a hundredth of it.
        unit: known units with their powers; empty without one.
        noun: what is counted; "" without one.
        is_percent: whether it is a percentage.
        decimals: written after the point; None where it is no plain decimal.
        is_quotient: whether it is written as a fraction.
        name: of the variable that it is the value of; "" without one.
    """

    value: Fraction
    unit: Unit = frozenset()
    noun: str = ""
    is_percent: bool = False
    decimals: int | None = None
    is_quotient: bool = False
    name: str = ""


def read_quantity(text: str, like: Unit | None = None) -> Quantity | None:
    """Read a number with at most a name before it and a unit after it; None for anything else.

    An integer that is left as a quotient, such as 30/2, is none: nobody worked it out.

    Args:
        text: as `answer_text.bare` has it.
        like: of an answer, the unit of its reference, empty without one; None for a reference.
            An answer is read more freely: 2h where hours are asked for, 50k, 2 and 3/4.
    """
    name = ""
    named = _NAMED.match(text) or _NAMED_LAST.match(text)
    if named is not None:
        name, text = re.sub(r"\s", "", named["name"]), named["value"].strip()
    found = _read(text, like) or _read(_respelled(text, like), like)
    if found is None or (found.is_quotient and found.value.denominator == 1):
        return None
    return replace(found, name=name)


def same_quantity(reference: Quantity, answer: Quantity) -> bool:
    """Whether both are one number of one thing.

    A unit that one of them leaves out is no difference, and a percentage is its number or its
    hundredth.
    """
    if reference.name and answer.name and reference.name != answer.name:
        return False
    reference, answer = _in_dollars(reference, answer), _in_dollars(answer, reference)
    if not _same_thing(reference, answer):
        return False
    if reference.is_percent == answer.is_percent:
        return _same_number(reference, answer)
    percent, other = sorted((reference, answer), key=lambda one: not one.is_percent)
    if other.unit or other.noun:
        return False
    if percent.value / 100 == other.value:
        return True
    # "25" is often meant as 25%, and "0.5" hardly ever as 0.5%.
    return percent.value == other.value and (reference.is_percent or abs(other.value) > 1)


def _same_thing(reference: Quantity, answer: Quantity) -> bool:
    if bool(reference.unit) != bool(answer.unit) and (reference.noun or answer.noun):
        return not (reference.unit and answer.noun) and not (answer.unit and reference.noun)
    if reference.unit and answer.unit and reference.unit != answer.unit:
        # A pound is money or weight; £ for what a reference calls pounds may be neither.
        pounds = (reference.unit, answer.unit) in ((_GBP, _POUND), (_LB, _POUND), (_POUND, _LB))
        return pounds or _is_price_of_each(reference.unit, answer.unit)
    ours, theirs = set(reference.noun.split()), set(answer.noun.split())
    return not ours or not theirs or ours <= theirs or theirs <= ours


def _is_price_of_each(one: Unit, other: Unit) -> bool:
    """Whether one is money and the other the same money per something."""
    less, more = sorted((one, other), key=len)
    return less < more and all(unit in _CURRENCIES.values() for unit, _ in less)


def _in_dollars(money: Quantity, other: Quantity) -> Quantity:
    """Cents as dollars, where the other amount is in dollars."""
    if money.unit != _CENT or other.unit != _USD:
        return money
    return replace(money, value=money.value / 100, unit=_USD, decimals=None)


def _respelled(text: str, like: Unit | None) -> str:
    """Signs and sums of money in words as digits, and without what says nothing more."""
    text = _NEGATIVE.sub("-", _TOTAL.sub("", text))
    text = text.replace("pounds sterling", "GBP").replace("pound sterling", "GBP")
    if (money := _AND_CENTS.fullmatch(text)) is not None and (
        money["pence"] is None or money["gbp"]
    ):
        unit = "dollars" if money["usd"] else "euros" if money["eur"] else "GBP"
        return f"{money['whole']}.{int(money['cents']):02} {unit}"
    if like is not None:
        text = _ONE_IN.sub(r"\1/\2", _CHANCE.sub("", _ACIDITY.sub("", text)))
        text = _with_part(_YEAR.sub("", text))
    return _without_aside(text)


def _with_part(text: str) -> str:
    """2 and 3/4, and 2 and a half, as a mixed number."""
    found = _AND_PART.match(text)
    if found is None:
        return text
    said = leading_number(found["part"])
    if said is not None and said[0] < 1:
        return f"{found['whole']} {said[0]}{found['part'][said[1] :]}"
    part = _read(found["part"], None)
    is_part = part is not None and part.is_quotient and 0 < part.value < 1
    return f"{found['whole']} {found['part']}" if is_part else text


def _without_aside(text: str) -> str:
    """Without a reason, or the number in words once more, after it."""
    nearly = _NEARLY.fullmatch(text)
    if nearly is not None:
        exact, rounded = _read(nearly["exact"], None), _read(nearly["rounded"], None)
        if exact and rounded and abs(exact.value - rounded.value) <= abs(exact.value) / 100:
            return nearly["exact"]
    because = _BECAUSE.search(text)
    if because is not None and not _TURN.search(because["why"]):
        return text[: because.start()]
    aside = _ASIDE.search(text)
    return text[: aside.start()] if aside and in_words(aside["word"]) is not None else text


def _read(text: str, like: Unit | None) -> Quantity | None:
    text = _ABOUT.sub("", text.strip())
    negative, text = _sign(text)
    money = _MONEY.match(text)
    text = text[money.end() :] if money else text
    text = re.sub(r"(?<=\d)K\Z", "k", text) if money else text  # $70K; 70 K are kelvin
    if not negative:
        negative, text = _sign(text)
    for pattern in _NUMBERS:
        found = pattern.match(text)
        read = None if found is None else _value(found)
        rest = None if found is None else _after(text[found.end() :], like)
        if found is None or read is None or rest is None:
            continue
        unit = rest.unit
        if money:
            unit = unit | {(_CURRENCIES[money[1].lower().rstrip(".")], 1)}
        value, decimals = read
        return Quantity(
            (-value if negative else value) * rest.value, unit, rest.noun, rest.is_percent,
            decimals if rest.value == 1 else None, "whole" not in found.groupdict() and (
                "top" in found.groupdict()
            ),
        )  # fmt: skip
    return _read_words(text, negative, like)


def _read_words(text: str, negative: bool, like: Unit | None) -> Quantity | None:
    """A number in words; of a reference without what it counts, for that may be a title."""
    text = re.sub(r"^a(?=\s+dozen\b)", "one", text)
    found = leading_number(text) if text[:1].isalpha() else None
    rest = None if found is None else _after(text[found[1] :], like)
    if found is None or rest is None or (like is None and rest.noun):
        return None
    return replace(rest, value=(-found[0] if negative else found[0]) * rest.value)


def _sign(text: str) -> tuple[bool, str]:
    signed = re.match(r"([+-])\s*(?=[\d.\\$€£a-z])", text)
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
    number = parts["number"]
    if number.count(".") > 1:
        number = number.replace(".", "").replace(",", ".")
    number = re.sub("[, '\u2019_]", "", number)
    if len(parts.get("power", "")) > 4 or abs(int(parts.get("power", 0))) > MAX_EXPONENT:
        return None
    power = int(parts.get("power", 0))
    if "ten" in parts:
        return Fraction(10) ** power, None
    value = Fraction(number if number[0] != "." else f"0{number}") * Fraction(10) ** power
    return value, (len(number.partition(".")[2]) if "power" not in parts else None)


def _after(text: str, like: Unit | None) -> Quantity | None:
    """What follows a number, with the scale as its value; None where it is something else."""
    suffix = _SUFFIXES.get(text[:1], 1) if like is not None and not text[1:2].strip() else 1
    text = text[1:] if suffix > 1 else text
    attached, text = not text[:1].isspace(), text.strip()
    scaled = _SCALE.match(text)
    scale = Fraction(_SCALES[scaled[1].lower()] if scaled else 1) * suffix
    text = text[scaled.end() :] if scaled else text
    percent = _PERCENT.match(text)
    text = text[percent.end() :] if percent else text
    if not text:
        return Quantity(scale, is_percent=percent is not None)
    if percent is not None:
        return None
    if text in ("$", r"\$", "€", "£", "¥", "¢"):
        return Quantity(scale, frozenset({(_CURRENCIES[text], 1)}))
    unit = known_unit(re.sub(r"\b(years?) old\Z", r"\1", text))
    if unit is not None:
        word = re.match(r"[A-Za-zµΩ]+", text)
        is_apart = not attached or scaled is not None or word is None or word[0] in ATTACHED
        return Quantity(scale, unit) if is_apart or unit == like else None
    counted, of, _ = text.partition(" of ")
    words = counted.split()
    is_noun = (
        _COUNTED.match(counted) is not None
        and not attached
        and (not of or re.fullmatch(r"[a-z ]+", text) is not None)
    )
    if not is_noun or any(word in _NO_NOUNS for word in words):
        return None
    is_plural = re.search(r"\w{3}(?<!th)(?<![sui])s\Z", words[-1]) is not None
    return Quantity(scale, noun=counted) if is_plural or words[-1] in _IRREGULAR else None


def _same_number(reference: Quantity, answer: Quantity) -> bool:
    if reference.value == answer.value:
        return True
    for decimal, other in ((reference, answer), (answer, reference)):
        if decimal.decimals is None or other.decimals is not None:
            continue
        if decimal.decimals >= _SURE_DECIMALS and other.value.denominator > 1:
            return abs(decimal.value - other.value) < Fraction(1, 10**decimal.decimals)
    return False
