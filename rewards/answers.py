"""Are two final answers the same? Decided here where reading them is enough, else left to algebra.

    equal spelling                                   same
    a time, a date, a ratio, a base, a remainder     compared part by part (`parts.py`)
    names with digits in them: H2O, B2               compared sign by sign
    choices: C, (C), A and B                         compared as letters
    words: "no solution", BCA, June 20               compared as words; an anagram is another word
    numbers, with at most a unit                     compared exactly (`quantity.py`)
    a number against a sum or a product              not the same: nobody worked it out
    mathematics against prose, another relation,
      another name, another number of elements       not the same
    anything else                                    algebra (math-verify) decides

It prefers a right answer refused to a wrong one accepted: what a policy is paid for it learns.
Leaves out algebra, and processes that bound its time (`scoring_process.py`).
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from rewards.answer_text import bare, plain
from rewards.arithmetic import evaluate
from rewards.asides import said_again
from rewards.dates import same_date
from rewards.formulas import same_formula
from rewards.intervals import same_set
from rewards.listings import same_listing
from rewards.parts import same_label, same_parts
from rewards.quantity import MAX_EXPONENT, NAME, Quantity, read_quantity, same_quantity
from rewards.units import known_unit
from rewards.wording import is_known, same_words, worded

VERSION = "7"  # of this reading: verdicts of another one may differ
LONGEST, LONGEST_OF_ALL = 400, 2000  # characters of an answer, beyond four times the reference's
_PICTURE = re.compile("[\U0001f300-\U0001faff]")
_LETTER = r"[(\[]?[A-Z][)\]]?"
_LETTERS = re.compile(rf"{_LETTER}(?:\s*(?:,|&|(?:,\s*)?(?i:and))\s*{_LETTER})*")
_CHOICE = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:choice|option|answer)\s+(?:is\s+)?)?"
    r"(?:[(\[](?P<in>[A-Z])[)\]]|(?P<bare>[A-Z]))(?P<rest>(?:\s*[.):,]\s*|\s+-\s+|\s+because\b|(?<=[)\]])\s+).*)?",
    re.DOTALL | re.IGNORECASE,
)
_WITH_VALUE = re.compile(r"\(([A-J])\)\s*(\S.*)", re.DOTALL)
_TAKEN_BACK = re.compile(
    r"\b(?:not|or|wrong|incorrect|no|nor)\b|n't|(?<![A-Za-z'])[A-J](?![A-Za-z'])"
)
_ENDS = re.compile(r"(\(|\[|\\?\{).*,.*(\)|\]|\\?\})", re.DOTALL)  # of a point, a set, an interval
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "log", "ln", "exp", "sqrt", "max", "min", "gcd", "lcm", "mod", "deg", "det", "dim", "lim",
    "inf", "sup", "abs", "pi", "binom", "frac", "pmatrix", "bmatrix", "vmatrix", "matrix", "array",
})  # fmt: skip
_BARE = "arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|ln|log|exp|pi"
_SHORT_WORDS = frozenset({
    "no", "on", "in", "at", "up", "if", "is", "it", "of", "to", "us", "we", "he", "be", "by", "do",
    "go", "am", "pm", "ok", "so", "as", "an",
})  # fmt: skip
_OPERATORS = re.compile(r"[=<>+*/^_{}\\|\[\]]|(?<=[\w)])\s*-\s*(?=[\d(])")
_ALTERNATIVES = re.compile(r"[-\d., ]+(?:(?:and|or)[-\d., ]+)+")
_RELATION = re.compile(r"<|>|\\(?:leq?|geq?|neq?|lt|gt|approx|sim|in|notin)(?![A-Za-z])|!=")
_SETS = re.compile(r"\\(?:cup|cap|infty|mathbb|setminus)(?![A-Za-z])")
_FUNCTION = re.compile(r"(?:y|[fgh]\(x\))\s*=(?=[^=]+\Z)")
_TWO_NAMES = re.compile(r"\s*[A-Za-z]\s*=\s*(?![ei])[A-Za-z]\s*")  # a = b is not b
_NUMBERED = re.compile(r"(?<![A-Za-z\\])(?:[a-df-z]|(?<!\d)e)\d")  # a3 may be a_3 or a^3
_LONE = re.compile(rf"\s*{NAME}\s*")
_POWER = re.compile(r"\(?(-?\d{1,9})\)?\s*\^\s*\{?\s*(-?\d{1,3})\s*\}?")
_MAGNITUDE = re.compile(r"\|(-?\d+(?:\.\d+)?)\|")
_ROOT = re.compile(r"(?:\\sqrt\s*\{?|sqrt\()\s*(\d{1,30})\s*[})]?")
_UNIT_TEXT = re.compile(
    r"\\(?:text|mathrm|mbox|textrm)\s*\{\s*([^{}]*?)\s*\}\s*(\^\s*\{?\d\}?)?|\^\s*\{?\s*\\circ\s*\}?"
)
_DECIMAL_POWER = re.compile(r"\^\s*\{\s*(\d{0,9}\.\d{1,9})\s*\}")
_UNIT_LAST = re.compile(r"\s([A-Za-z]{2,}(?:/[A-Za-z]+)?(?:\s*\^\s*\{?\d\}?)?)\Z")


@dataclass(frozen=True)
class Pair:
    """A reference and an answer, ready for algebra.

    Attributes:
        same: whether they are the same answer; None where algebra must say.
        reference: in one spelling; as algebra wants it where that must say.
        answer: the same.
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
    if len(answer) > min(LONGEST + 4 * len(reference), LONGEST_OF_ALL):
        return Pair(False, reference, "")
    ours, theirs = plain(reference, is_reference=True), plain(answer)
    theirs = _with_name_of(ours, theirs)
    same = _decide(ours, theirs)
    if ours and reference.strip() == answer.strip():
        same = True  # a reference is read more freely, so that the two readings may differ
    if same is not None:
        return Pair(same, ours, theirs)
    theirs = theirs if "=" in ours else _without_name(theirs)
    return Pair(same, _for_algebra(ours), _for_algebra(theirs))


def _decide(plain_reference: str, plain_answer: str) -> bool | None:
    reference, answer = bare(plain_reference), bare(plain_answer)
    if not reference or not answer:
        return None if not reference else False
    if _spelled(reference) == _spelled(answer):
        return True
    if _PICTURE.search(reference):  # algebra would leave it out: 3 apples are not 3 pears
        return False
    if worded(reference) == worded(answer) and is_known(worded(reference)):
        return True
    if _spelled(reference) == _spelled(_reversed(answer)):
        return True
    if (same := same_set(reference, answer)) is not None:
        return same
    if "=" not in reference:
        answer = _without_name(answer)
    for read in (same_date, same_parts, same_formula):
        if (same := read(reference, answer)) is not None:
            return same
    offered = _WITH_VALUE.fullmatch(reference)
    if offered is not None and _decide(offered[1], plain_answer):
        return True
    if offered is not None and not _OPERATORS.search(offered[2][:1]):
        return _decide(offered[2], plain_answer)
    if _LETTERS.fullmatch(reference):
        return _same_letters(reference, answer)
    number = read_quantity(reference)
    if number is not None:
        return _same_number(number, answer)
    for read in (same_label, same_listing):
        if (same := read(reference, answer)) is not None:
            return same
    if is_words(reference):
        return same_words(reference, answer)
    if _is_other_mathematics(reference, answer) or _other_units(plain_reference, plain_answer):
        return False
    return None


def _without_name(answer: str) -> str:
    """The values of a list that names one variable again and again: x = 1 or x = -2."""
    parts = re.split(r"\s*(?:,|\bor\b|\band\b)\s*", answer)
    sides = [part.split("=") for part in parts]
    is_list = len(parts) > 1 and all(len(pair) == 2 for pair in sides)
    if not is_list or len({pair[0].strip() for pair in sides}) > 1:
        return answer
    return ", ".join(pair[1].strip() for pair in sides)


def _with_name_of(reference: str, answer: str) -> str:
    """An answer's f(x) = as the reference's y =, or the other way round."""
    ours, theirs = (_FUNCTION.match(text) for text in (reference, answer))
    if ours is None or theirs is None or ("y" in ours[0]) == ("y" in theirs[0]):
        return answer
    return ours[0] + answer[theirs.end() :]


def is_words(text: str) -> bool:
    """Whether a text is words rather than mathematics: "east", "June 20", "BCA"; not "2ab"."""
    if _OPERATORS.search(text) or _ALTERNATIVES.fullmatch(text):
        return False
    if re.fullmatch(r"\d+(?:st|nd|rd|th)", text):
        return True
    words = [w for w in _WORD.findall(text) if w.lower() not in _FUNCTIONS]
    return any(len(word) > 2 or word.lower() in _SHORT_WORDS or word.isupper() for word in words)


def _same_number(number: Quantity, answer: str) -> bool:
    """A number against an answer: read, in words, the end of a sum, or one power or root."""
    sides = [side.strip() for side in answer.split("=")]
    values = [evaluate(side) for side in sides[:-1]]
    if len(sides) > 1 and values[0] is not None and len(set(values)) == 1:  # 3 + 4 = 7
        other = read_quantity(sides[-1], number.unit)
        if other is not None:
            return other.value == values[0] and same_quantity(number, other)
    other = read_quantity(answer, number.unit)
    if other is not None:
        return same_quantity(number, other)
    if (forms := said_again(answer)) is not None:
        read = [read_quantity(form.strip(" $"), number.unit) for form in forms]
        found = [one for one in read if one is not None and same_quantity(number, one)]
        return len(found) == 2 and same_quantity(*found)
    value = _worked_out(answer)
    return value is not None and same_quantity(number, Quantity(value))


def _worked_out(answer: str) -> Fraction | None:
    """The value of a power, a magnitude or a whole root of integers, in or without parentheses."""
    inner = re.fullmatch(r"(-?)\s*\(([^(),]+)\)", answer)
    if inner is not None:
        found = read_quantity(inner[2])
        is_plain = found is not None and found.name == "" and not (inner[1] and found.value < 0)
        return (-found.value if inner[1] else found.value) if found and is_plain else None
    if (power := _POWER.fullmatch(answer)) is not None:
        base, exponent = int(power[1]), int(power[2])
        fits = abs(exponent) <= MAX_EXPONENT and (base or exponent > 0)
        return Fraction(base) ** exponent if fits else None
    if (magnitude := _MAGNITUDE.fullmatch(answer)) is not None:
        return abs(Fraction(magnitude[1]))
    if (root := _ROOT.fullmatch(answer)) is not None:
        whole = int(int(root[1]) ** 0.5)
        return next(
            (Fraction(n) for n in (whole - 1, whole, whole + 1) if n * n == int(root[1])), None
        )
    return None


def _is_other_mathematics(reference: str, answer: str) -> bool:
    """Whether what stands around the formula makes the answer another statement."""
    words = _prose(answer) - _prose(reference)
    if "=" in reference:  # F = am, for F = ma
        products = {"".join(sorted(word.lower())) for word in _WORD.findall(reference)}
        words = {word for word in words if "".join(sorted(word)) not in products}
    if words or (_NUMBERED.search(answer) and not _NUMBERED.search(reference)):
        return True
    ends = [one.groups() for text in (reference, answer) if (one := _ENDS.fullmatch(text))]
    if len(ends) == 2 and _brackets(ends[0]) != _brackets(ends[1]):
        return True
    if _TWO_NAMES.fullmatch(reference) and "=" not in answer:
        return True
    if reference.count("'") != answer.count("'") or _other_case(reference, answer):
        return True
    is_set = (bool(ends) and _ENDS.fullmatch(reference) is not None) or _SETS.search(reference)
    if _RELATION.search(answer) and not _RELATION.search(reference) and not is_set:
        return True
    if "=" in answer.replace("!=", "") and not is_set:
        ours, theirs = _sides(reference), _sides(answer)
        if len(ours) == 1 and not (len(theirs) == 2 and _LONE.fullmatch(theirs[0])):
            return True
        lone = [len(s) == 2 and _LONE.fullmatch(s[0]) is not None for s in (ours, theirs)]
        if all(lone) and ours[0].strip() != theirs[0].strip():
            return True
    num = [_elements(text) for text in (reference, answer)]
    return len(ends) != 1 and None not in num and num[0] != num[1]


def _prose(text: str) -> set[str]:
    """Words of a text that belong to no formula."""
    text = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+|[_^]\s*\{[^{}]*\}|_\w+", " ", text)
    words = (
        {word.lower() for word in _WORD.findall(text)}
        - _FUNCTIONS
        - {"and", "or", "square", "cubic"}
    )
    return {w for w in words if (len(w) > 2 or w in _SHORT_WORDS) and known_unit(w) is None}


def _other_case(reference: str, answer: str) -> bool:
    """Whether both have the same letters, but for capitals."""
    ours, theirs = (
        set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+|\b(?i:and|or)\b", " ", one)))
        for one in (reference, answer)
    )
    return ours != theirs and {v.lower() for v in ours} == {v.lower() for v in theirs}


def _brackets(ends: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(end.lstrip("\\") for end in ends)


def _sides(text: str) -> list[str]:
    return text.split("=")


def _elements(text: str) -> int | None:
    """How many there are in a list without brackets; None where there may be more than appear."""
    if "\\pm" in text or "\\mp" in text:
        return None
    text = re.sub(r"\\?[{}]", "", text) if _ENDS.fullmatch(text) and "{" in text[:2] else text
    depth, num = 0, 1
    for part in re.split(r"([(\[{,)\]}]|\band\b|\bor\b)", text):
        depth += (part in ("(", "[", "{")) - (part in (")", "]", "}"))
        num += depth == 0 and part in (",", "and", "or")
    return num


def _other_units(reference: str, answer: str) -> bool:
    """Whether both set a unit as text, and not the same one."""
    ours, theirs = _units(reference), _units(answer)
    return bool(ours) and bool(theirs) and ours != theirs


def _units(text: str) -> set[object]:
    said = re.findall(r"\\(?:text|mathrm|mbox|textrm)\s*\{\s*([^{}]*?)\s*\}", text)
    return {unit for one in said if one and (unit := known_unit(one))}


def _same_letters(reference: str, answer: str) -> bool:
    ours = re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", reference)
    if len(ours) > 1 and re.fullmatch("[A-J]{2,}", answer):  # BD for B, D
        return list(answer) == sorted(ours)
    if _LETTERS.fullmatch(answer) is not None:
        return sorted(ours) == sorted(re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", answer))
    choice = _CHOICE.fullmatch(answer)
    if choice is None or len(ours) > 1:
        return False
    said = choice["in"] or choice["bare"]
    is_choice = ours[0] in "ABCDEFGHIJ"
    if _TAKEN_BACK.search(choice["rest"] or "") or (said.islower() and len(answer) > 3):
        return False
    return bool((said.upper() if is_choice else said) == ours[0])


def _spelled(text: str) -> str:
    """Without spaces, but for those between digits or letters."""
    text = re.sub(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])", "", text)
    text = re.sub(r"(?<=[\^_])\{([\w+-])\}", r"\1", text)
    return text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")


def _reversed(equation: str) -> str:
    """An equation with its sides changed; any other text as it is."""
    left, sign, right = equation.partition("=")
    is_one = bool(sign) and "=" not in right and left[-1:] not in ("!", ":", "<", ">")
    return f"{right.strip()}={left.strip()}" if is_one else equation


def _for_algebra(text: str) -> str:
    """Without units, and without dollar signs that delimit mathematics."""
    signs = re.findall(r"(?<!\\)\$", text)
    text = re.sub(r"(?<!\\)\$", "", text) if len(signs) % 2 == 0 else text
    text = _UNIT_TEXT.sub(_without_unit, text)
    last = _UNIT_LAST.search(text)
    text = text[: last.start()] if last is not None and known_unit(last[1]) else text
    text = re.sub(r"\s(?:square|sq\.?|cubic)\Z", "", text)
    text = re.sub(rf"(?<![A-Za-z\\])({_BARE})(?![A-Za-z])", r"\\\1 ", text)
    text = re.sub(r"(?<=\d)(?:\s+|\s*(?:\\cdot|\*)\s*)i\b", "i", text)  # 3 \cdot i as 3i
    text = re.sub(r"(?<![\w.])1i\b", "i", text)
    text = _DECIMAL_POWER.sub(lambda found: f"^{{{Fraction(found[1])}}}", text)
    return text.replace("**", "^")


def _without_unit(found: re.Match[str]) -> str:
    is_unit = found[1] is None or known_unit(found[1] + (found[2] or "")) is not None
    return "" if is_unit else found[0]
