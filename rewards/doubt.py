"""When a stated equation that looks false may be right all the same.

Prose uses `=` for more than equality of numbers: `60 + 45 = 1 hour 45 minutes`, `5 + 4 = 12` in
base 7, `10 + 5 = 3` on a clock, `17 / 5 = 3` whole boxes, `1.500 + 500 = 2.000` in Germany. Each
function here finds one kind of such readings by words or by numbers. They err on the side of
doubt: a false equation that goes unnoticed costs little, a right one called false costs a right
solution.
Leaves out finding and evaluating equations (`arithmetic`).
"""

import re
from fractions import Fraction

_FLAGS = re.IGNORECASE


def _words(alternatives: str) -> re.Pattern[str]:
    r"""Any of these whole words; `\s` stands for a space inside of one."""
    return re.compile(rf"\b(?:{'|'.join(alternatives.split())})\b", _FLAGS)


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# The operators themselves may mean something else in all of the text.
_OTHER_ARITHMETIC = re.compile(
    r"\bp?mod(?:ulo|ulus|ular)?\b|\\equiv|\u2261|\bcongruen|\bGF\s*\(|\bZ_|\u2124"
    r"|\bbase[\s-]*(?:\d|\(|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|sixteen)"
    r"|\bbases\b|\bin base\b|\b(?:binary|ternary|octal|decimal system|hexadecimal|hex)\b"
    r"|\bclocks?\b|o'clock|\bcyclic|\bcircular|\bwrap(?:s|ping|ped)?\b|\bbitwise\b|\bxor\b"
    r"|\bx?or gate|\bboolean\b|\blogical (?:or|and)\b|[\u2295\u2297\u22c6\u2218@]"
    r"|\bdefin(?:e|ed|es|ition)\b|\b(?:new|special|strange|custom) operat|\bconcatenat"
    r"|\bjoined together\b|\bnim\b|\bdecibel|\bdB\b|\bvectors?\b|\bmatch(?:es|sticks?)\b"
    r"|\bsig(?:nificant)? ?(?:figures|digits|figs?)\b|\btropical\b|\bmultiset|\binnings?\b"
    r"|\bfloating[- ]point|\boverflow",
    _FLAGS,
)
_HEDGED = _words(
    r"""
    approx(?:imate(?:ly)?)? about around roughly nearly almost close\sto estimat\w* round\w* nearest
    truncat\w* floor ceil\w* integer\sdivision integer\spart whole\snumber quotient remainder
    left\s?over convert\w* conversion exchange inclusive including counting ignoring negligible
    wrong\w* incorrect\w* untrue false mistake\w* error\w* typo absurd\w* contradict\w* impossible
    invalid instead cannot (?:is|are|was|does|do|did|can|could|will|would)(?:\snot|n't)
    not\s(?:true|right|correct|equal) upside mirrored version release v\d[\d.]* sections? ratio odds
    """
)
_SUPPOSED = _words(
    r"""
    not \w+n't never cannot if suppos\w* assum\w* imagine pretend unless whether either neither nor
    claim\w* says? said wrote writes? written thinks? thought believ\w* answered told guess\w*
    would\s(?:mean|imply|require|need|give) puzzle pattern no\sway without rather according\sto
    \w+'s\s(?:answer|claim|work|solution|equation) try trying tests? swap\w* replac\w* student
    pupil proposed alleged\w*
    """
)
# A word right before the left side that changes what the side is worth.
_MODIFIERS = _listed(
    "twice thrice double triple quadruple half third quarter dozen hundred thousand million "
    "billion trillion two three four five six seven eight nine ten eleven twelve of by from to "
    "than with over under per into minus plus times less squared cubed power root sqrt log ln exp "
    "sin cos tan gcd lcm min max floor ceil abs round len sum f g h phi mod rem choose percent "
    "first last negative square cube subtract difference index version chapter between nor or "
    "upon without"
)
# A word right after the right side that leaves its value as it is.
_CONNECTIVES = _listed(
    "and so which because but then therefore thus hence since as while giving we i he she it they "
    "you the this that these those for is are was left altogether now after before meaning when "
    "where next finally also again still"
)
_NUMBER_WORDS = _listed(
    "a an one two three four five six seven eight nine ten half quarter quarters third thirds"
)
# Units that others are converted to, and words that stand for numbers.
_UNITS = _words(
    r"""
    hours? hrs? h minutes? mins? seconds? secs? days? weeks? months? years? decades? century
    centuries dollars? cents? euros? pounds? yen pence quarters? dimes? nickels? penn(?:y|ies)
    rupees? yuan k?m cm mm \w*met(?:er|re)s? miles? yards? feet foot inch(?:es)? k?g mg \w*grams?
    kilos? tons? tonnes? ounces? oz lbs? m?l \w*lit(?:er|re)s? gallons? pints? cups? quarts? stones?
    acres? dozens? pairs? degrees? radians? percent percentage tens hundreds? thousands? millions?
    billions? k bytes? bits? [kmg]b packs? packets? box(?:es)? sets? groups? teams? rows? scores?
    """
)
_FACTORS = frozenset(
    {2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 25, 30, 36, 50, 52, 60, 100, 144, 360, 365, 1000}
    | {1024, 1440, 3600, 5280, 10_000, 86_400, 100_000, 1_000_000, 10**9}
)
_CYCLES = (
    (7, _words(r"(?:mon|tues|wednes|thurs|fri|satur|sun)days? weekdays? weeks? days?")),
    (9, _words("digital digits? nines")),
    (10, _words(r"carr\w* borrow\w* digits? ones tens units place column")),
    (12, _words(r"hours? time months? [ap]\.?m noon midnight octaves?")),
    (24, _words(r"hours? time [ap]\.?m noon midnight")),
    (26, _words(r"alphabet letters? cipher shift\w* caesar")),
    (28, _words("dates? february months? days?")),
    (30, _words("dates? april june september november months? days?")),
    (31, _words("dates? january march may july august october december months? days?")),
    (60, _words("hours? minutes? seconds? time")),
    (180, _words("degrees? angles?")),
    (360, _words(r"degrees? angles? bearing heading rotat\w* turn\w*")),
)
_TIMES = _words(r"hours? minutes? time [ap]\.?m midnight noon feet oz")
_DATES = _words(
    "dates? days? weeks? months? deadline due january february march april june july august "
    "september october november december"
)


def other_arithmetic(text: str) -> bool:
    """Whether the text works in another base, modulo something, or with operators of its own."""
    return _OTHER_ARITHMETIC.search(text) is not None


def hedged(sentence: str, before: str) -> bool:
    """Whether a sentence rounds, denies, supposes or asks what it states.

    Args:
        sentence: all of it.
        before: what comes before the equation.
    """
    asks = sentence.rstrip(" \t$*)").endswith("?")
    return bool(asks or _HEDGED.search(sentence) or _SUPPOSED.search(before))


def modifies(word: str) -> bool:
    """Whether this word before a left side changes the value of it; a lone letter is a variable."""
    lowered = word.lower()
    return lowered in _MODIFIERS or (len(word) == 1 and word not in "aAI")


def connects(after: str) -> bool:
    """Whether what follows a right side goes on without touching its value."""
    words = re.findall(r"[A-Za-z]+|[0-9]+|\S", after.lower())[:3]
    if words[0] in ("in", "at"):
        return words[1:2] in (["total"], ["all"], ["last"])
    if words[0] == "and":
        return not (len(words) > 1 and (words[1][0].isdigit() or words[1] in _NUMBER_WORDS))
    return words[0] in _CONNECTIVES


def same_things(noun: str, after: str, said: str, left: Fraction, right: Fraction) -> bool:
    """Whether a right side counts the things of which the text spoke before: `= 20 apples`.

    A noun may name a unit that the numbers were converted to, hence all of: the noun stands before,
    is no unit, no second number follows, both sides are whole, and about as large.
    """
    stem = noun.lower().rstrip("s")
    known = len(stem) > 1 and re.search(rf"\b{re.escape(stem)}s?\b", said, _FLAGS)
    if not known or _UNITS.fullmatch(noun) or re.match(r"[A-Za-z]+,?\s+(?:and\s+)?[0-9]", after):
        return False
    whole = left.denominator == right.denominator == 1 and left > 0 and right > 0
    return whole and Fraction(2, 3) <= right / left <= Fraction(3, 2)


def rounded(left_text: str, left: Fraction, right: Fraction, right_text: str) -> bool:
    """Whether a whole right side may be a rounded left side that is not, or is of decimals."""
    digits = right_text.strip().lstrip("-")
    exact = left.denominator == 1 and "." not in left_text
    if exact or not digits.replace(",", "").isdigit():
        return False
    zeros = len(digits) - len(digits.rstrip("0,"))
    return abs(left - right) < 1 or abs(left - right) <= Fraction(10**zeros, 2)


def imprecise(left_text: str, left: Fraction, right: Fraction) -> bool:
    """Whether a product of rounded decimals, such as 3.14 or 0.333, explains the difference."""
    if not re.search(r"[*/]", left_text):
        return False
    share = Fraction(0)
    for whole, digits in re.findall(r"([0-9]+)\.([0-9]{2,})", left_text):
        if len((whole + digits).lstrip("0")) >= 3 and int(whole + digits):
            share += Fraction(1, 2 * int(whole + digits))
    return abs(left - right) <= share * abs(left)


def span(left_text: str, right: Fraction) -> bool:
    """Whether `10-15 = 6` may count pages, days or years from one number to another."""
    found = re.fullmatch(r"\s*([0-9]+)-([0-9]+)\s*", left_text)
    if found is None:
        return False
    return right in (int(found[2]) - int(found[1]), int(found[2]) - int(found[1]) + 1)


def running(right_text: str, left: Fraction) -> bool:
    """Whether the right side goes on from the left side's value: `3 + 4 = 7 + 2 = 9`."""
    found = re.match(r"\s*\(*([0-9][0-9,]*(?:\.[0-9]+)?)\s*\)*\s*[-+*/]", right_text)
    return found is not None and Fraction(found[1].replace(",", "")) == left


def wrapped(left: Fraction, right: Fraction, text: str) -> bool:
    """Whether the sides differ by whole weeks, clocks, alphabets or turns, in a text on these."""
    gap = left - right
    return gap.denominator == 1 and any(
        gap % cycle == 0 and 0 <= right <= cycle and words.search(text) for cycle, words in _CYCLES
    )


def converted(left: Fraction, right: Fraction, text: str) -> bool:
    """Whether the right side is the left one in another unit, in a text of units or percents."""
    if left <= 0 or right <= 0 or not (_UNITS.search(text) or "%" in text):
        return False
    ratio = max(left / right, right / left)
    return ratio in _FACTORS


def clock_or_date(sides: str, text: str) -> bool:
    """Whether `10.45 + 0.30 = 11.15` may be times, or `12/5 + 3 = 12/8` dates."""
    if _TIMES.search(text) and re.search(r"[0-9]\.[0-9]{1,2}(?![0-9])", sides):
        return True
    return bool(_DATES.search(text) and re.search(r"[0-9][/-][0-9]", sides))


def other_reading(side: str) -> str | None:
    """The side with points for thousands and decimal commas, None where it has neither."""
    swapped = re.sub(r"[0-9][0-9.,]*", lambda m: _swapped(m[0]), side)
    return None if swapped == side else swapped


def _swapped(number: str) -> str:
    if re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]{3})+(?:,[0-9]+)?", number):
        return number.replace(".", "").replace(",", ".")
    return number.replace(",", ".") if re.fullmatch(r"[0-9]+,[0-9]+", number) else number
