"""Units as they are written after a number, in one spelling: km/h, kilometers per hour, m s^{-1}.

Leaves out conversion: 50 mm and 5 cm are two answers, and the numbers before them (`quantity.py`).
"""

import re

Unit = frozenset[tuple[str, int]]
# Symbols keep their case: a milliwatt is no megawatt.
_SYMBOLS = frozenset({
    "cm", "m", "km", "mm", "nm", "ft", "yd", "mi", "kg", "g", "mg", "lb", "oz", "ml", "s", "ms",
    "h",
    "min", "N", "J", "kJ", "W", "kW", "MW", "mW", "V", "A", "Hz", "kHz", "MHz", "Pa", "kPa", "MPa",
    "K", "C", "F", "mol", "kWh", "°", "l",
})  # fmt: skip
_WORDS = {
    "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
    "mm": "millimeter millimetre", "in": "inch inche", "ft": "foot feet", "yd": "yard",
    "mi": "mile", "g": "gram", "kg": "kilogram kilo kgs", "mg": "milligram", "lb": "lbs",
    "oz": "ounce", "l": "liter litre L", "ml": "milliliter millilitre mL", "s": "second sec",
    "min": "minute mins", "h": "hour hr hrs", "d": "day", "wk": "week", "mo": "month",
    "yr": "year", "°": "degree deg", "C": "celsius", "F": "fahrenheit", "N": "newton",
    "J": "joule", "W": "watt", "V": "volt", "A": "amp ampere", "Hz": "hertz", "Pa": "pascal",
    "K": "kelvin", "ohm": "ohm \u03a9", "usd": "dollar buck USD", "eur": "euro EUR", "gbp": "GBP",
    "jpy": "yen", "inr": "rupee", "cent": "cent", "pound": "pound", "unit": "unit",
    "gal": "gallon", "mol": "mole",
}  # fmt: skip
_KNOWN = {symbol: symbol for symbol in _SYMBOLS} | {
    word: unit for unit, words in _WORDS.items() for word in words.split()
}
_PREFIXED = {
    "kilo": "kg km kJ kW kHz kPa", "mega": "MW MHz MPa", "milli": "ms mW", "nano": "nm",
}  # fmt: skip
_NAMES = {
    "g": "gram", "m": "meter metre", "J": "joule", "W": "watt", "Hz": "hertz", "Pa": "pascal",
    "s": "second",
}  # fmt: skip
_KNOWN |= {
    prefix + name: unit
    for prefix, units in _PREFIXED.items()
    for unit in units.split()
    for name in _NAMES[unit[1:]].split()
}
_COMPOUND = {"mph": {"mi": 1, "h": -1}, "kph": {"km": 1, "h": -1}, "mpg": {"mi": 1, "gal": -1}}
# What may follow a number without a space: "2mg" and "3m" are products of letters as well.
ATTACHED = frozenset({
    "cm", "km", "kg", "mm", "mph", "lb", "lbs", "hr", "hrs", "mins", "Hz", "kHz", "MHz", "kWh",
})  # fmt: skip
# Behind a power below 0 these are products: "ms^{-1}" says m/s, though "ms" alone is milliseconds.
_RUN_TOGETHER = re.compile(
    r"\b(m|km|mi|N|kg|J|cm)(s|h|kg|K|(?<=[gNJ])m|(?<=J)mol)(?=\s*\^\s*\{?\s*-)"
)
_TIMES = re.compile(r"(?<=[A-Za-z\d}])\s*(?:\\cdot(?![A-Za-z])|\*)\s*(?=[A-Za-z])")
_TOKEN = re.compile(
    r"(?P<per>\bper\b|/|\ban?\b(?=\s(?:second|minute|hour|day|week|month|year)\Z))|\^\s*\{?\s*(?P<circ>\\circ)\s*\}?|\^\s*\{?\s*(?P<power>-?\d)\s*\}?"
    r"|\b(?P<size>square|sq|cubic|cu)\b\.?|\b(?P<sized>squared|cubed)\b|(?P<word>[A-Za-z\u00b5\u03a9]+|°)|(?P<space>[\s.]+)"
)


def known_unit(text: str) -> Unit | None:
    """Units with their powers; None where a word of the text is no known unit."""
    found: dict[str, int] = {}
    sign, size, last, at = 1, 1, "", 0
    text = _TIMES.sub(" ", _RUN_TOGETHER.sub(r"\1 \2", text))
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        at = token.end()
        if token["per"]:
            sign = -1
        elif token["power"] or token["sized"]:
            if not last:
                return None
            power = int(token["power"] or (2 if token["sized"] == "squared" else 3))
            found[last] += sign * (power - 1)
        elif token["size"]:
            size = 2 if token["size"].startswith("s") else 3
        elif token["word"] or token["circ"]:
            named = _named("°" if token["circ"] else token["word"])
            if not named:
                return None
            for last, power in named.items():
                found[last] = found.get(last, 0) + sign * size * power
            size = 1
    if "°" in found and ("C" in found or "F" in found):
        del found["°"]
    return frozenset((unit, power) for unit, power in found.items() if power) or None


def _named(word: str) -> dict[str, int]:
    """The unit that a word names, with its power; empty if none."""
    if word in _COMPOUND:
        return _COMPOUND[word]
    if word in _KNOWN:
        return {_KNOWN[word]: 1}
    if len(word) < 3:  # symbols, which keep their case
        return {}
    lower = word.casefold()
    for spelled in (lower, lower.removesuffix("s")):
        if len(spelled) > 2 and spelled in _KNOWN:
            return {_KNOWN[spelled]: 1}
    return {}
