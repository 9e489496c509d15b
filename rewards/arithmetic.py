"""Re-evaluation of plain arithmetic stated in prose, such as `so 3 * (4 + 1) = 15`.

Finds equations between numbers, evaluates both sides exactly, and reports the ones
that do not hold. It prefers silence to a wrong alarm: anything that might be more
than `+ - * /` on literal numbers (variables, powers, units of a base, `mod`) is
left unchecked. Algebra and units are out of scope; nothing is ever passed to `eval`.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

MAX_LINE_CHARS = 2_000  # longer lines are left unchecked, so that cost stays bounded
MAX_NUMBER_CHARS = 30
MAX_DEPTH = 20

_NUMBER = r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?"
_TIMES = ("*", "\N{MULTIPLICATION SIGN}")
_DIVIDED_BY = ("/", "\N{DIVISION SIGN}")
_SYMBOL = f"[-+(){''.join(_TIMES + _DIVIDED_BY)}]"
_RUN = re.compile(rf"(?:{_NUMBER}|{_SYMBOL}|\s)+")
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})|({_SYMBOL}))")
_LAST_WORD = re.compile(r"([A-Za-z]+)\s*\Z")
_FIRST_WORD = re.compile(r"\s*\(?\s*([A-Za-z]+)")
_MEANINGFUL_WORDS = frozenset(
    {"mod", "modulo", "rem", "remainder", "r", "of", "sqrt", "root", "log", "ln", "sin", "cos"}
    | {"tan", "exp", "power", "squared", "cubed", "times", "plus", "minus", "over", "divided"}
    | {"base", "binary", "hex", "thousand", "million", "billion", "percent"}
)


@dataclass(frozen=True)
class Equation:
    """Two evaluated sides of a stated equation."""

    left: Fraction
    right: Fraction
    decimals: int | None  # digits after the point if the right side is one decimal literal

    @property
    def holds(self) -> bool:
        """Equal, or equal after rounding or cutting to the decimals that were written."""
        if self.decimals is None:
            return self.left == self.right
        unit = Fraction(1, 10**self.decimals)
        rounded = abs(self.left - self.right) <= unit / 2
        cut = self.left * self.right >= 0 and 0 <= abs(self.left) - abs(self.right) < unit
        return rounded or cut


def equations_in(text: str) -> tuple[Equation, ...]:
    """Every equation in `text` whose two sides are plain arithmetic; never raises.

    The left side must combine at least two numbers. `3 + 4 = 7 + 2 = 9` holds two
    equations, and the first of them is false.
    """
    if len(text) > MAX_LINE_CHARS:
        return ()
    segments = re.split(r"(?<![=<>!≤≥≠~:])=(?![=<>])", text)
    found = (_equation(before, after) for before, after in pairwise(segments))
    return tuple(equation for equation in found if equation is not None)


def evaluate(expression: str) -> Fraction | None:
    """Value of an expression in `+ - * /` and parentheses, or None if it is not one."""
    tokens = _tokens(expression)
    if not tokens:
        return None
    try:
        return _Parser(tokens).parse()
    except (_NotArithmetic, ZeroDivisionError):
        return None


def _equation(before: str, after: str) -> Equation | None:
    left_text, right_text = _left_side(before), _right_side(after)
    if left_text is None or right_text is None:
        return None
    left, right = evaluate(left_text), evaluate(right_text)
    if left is None or right is None:
        return None
    point = re.fullmatch(r"\s*-?[0-9,]+\.([0-9]+)\s*", right_text)
    return Equation(left, right, len(point[1]) if point else None)


def _left_side(segment: str) -> str | None:
    """The arithmetic that ends the segment, unless what precedes it may belong to it."""
    run = next((m for m in _RUN.finditer(segment) if m.end() == len(segment)), None)
    if run is None or len(re.findall(_NUMBER, run[0])) < 2:
        return None
    side, before = run[0], segment[: run.start()]
    word = _LAST_WORD.search(before)
    if word is None:
        return side if re.search(r"(?:\A|[:;,.!?$])\s*\Z", before) else None
    apart = side[0].isspace() and side.lstrip()[0] in "(0123456789"
    return side if apart and word[1].lower() not in _MEANINGFUL_WORDS else None


def _right_side(segment: str) -> str | None:
    """The arithmetic that opens the segment, unless what follows may belong to it."""
    run = _RUN.match(segment)
    if run is None:
        return None
    after = segment[run.end() :]
    word = _FIRST_WORD.match(after)
    if word is not None and (not run[0][-1].isspace() or word[1].lower() in _MEANINGFUL_WORDS):
        return None
    if word is None and not re.match(r"\s*(?:\Z|[.,;:!?$])", after):
        return None
    return run[0]


def _tokens(expression: str) -> list[str]:
    tokens, position, end = [], 0, len(expression.rstrip())
    while position < end:
        match = _TOKEN.match(expression, position)
        if match is None or len(match[0]) > MAX_NUMBER_CHARS:
            return []
        tokens.append(match[1] or match[2])
        position = match.end()
    return tokens


class _NotArithmetic(Exception):
    """The tokens form no expression."""


class _Parser:
    """Recursive descent over the tokens, with exact fractions."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0

    def parse(self) -> Fraction:
        value = self._sum(0)
        if self._next != len(self._tokens):
            raise _NotArithmetic
        return value

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self._peek() in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            value += sign * self._product(depth)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._atom(depth)
        while self._peek() in _TIMES + _DIVIDED_BY:
            if self._take() in _TIMES:
                value *= self._atom(depth)
            else:
                value /= self._atom(depth)
        return value

    def _atom(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise _NotArithmetic
        token = self._take()
        if token == "-":
            return -self._atom(depth + 1)
        if token == "(":
            value = self._sum(depth + 1)
            if self._take() != ")":
                raise _NotArithmetic
            return value
        if not token or not token[0].isdigit():
            raise _NotArithmetic
        return Fraction(token.replace(",", ""))
