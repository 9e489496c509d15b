"""Re-evaluation of plain arithmetic stated in prose, such as `so 3 * (4 + 1) = 15`.

Finds equations between numbers, evaluates both sides exactly, and reports the ones
that do not hold. It prefers silence to a wrong alarm: anything that might be more
than `+ - * /` on literal numbers (variables, powers, units, other bases) is left unchecked,
and so is an equation that only looks false (`doubt`). Algebra and units are out of scope; nothing
is ever passed to `eval`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from rewards import doubt
from rewards.notation import plainly

MAX_LINE_CHARS = 2_000  # longer lines are left unchecked, so that cost stays bounded
MAX_NUMBER_CHARS = 30
MAX_DEPTH = 20
MAX_DECIMALS = 6  # of a value that is written out

_NUMBER = r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?"
_RUN = re.compile(rf"(?:{_NUMBER}|[-+*/()]|\s)+")
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})|([-+*/()]))")
_EQUALS = re.compile(r"(?<![=<>!≤≥≠~:/^])=(?![=<>/~!])")
_SENTENCE_END = re.compile(
    r"(?<=[.!?])\s+(?=[A-Z$(])|(?<=^[0-9][.)])\s|(?<=^[0-9]{2}[.)])\s|[;\n]+"
)
_LAST_WORD = re.compile(r"(?:^|[\s($*])([A-Za-z]+)\s*\Z")
_FIRST_WORD = re.compile(r"\s*([A-Za-z]+)")
_NUMBER_AND = re.compile(r"\S\s[0-9.,]+\s+and\s*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Equation:
    """Two evaluated sides of a stated equation."""

    left: Fraction
    right: Fraction
    decimals: int | None  # digits after the point if the right side is one decimal literal
    left_text: str = ""  # as it was written, in plain notation
    right_text: str = ""

    @property
    def holds(self) -> bool:
        """Equal, or equal after rounding or cutting to the decimals that were written."""
        if self.decimals is None:
            return self.left == self.right
        unit = Fraction(1, 10**self.decimals)
        rounded = abs(self.left - self.right) <= unit / 2
        cut = self.left * self.right >= 0 and 0 <= abs(self.left) - abs(self.right) < unit
        return rounded or cut

    def worked_out(self) -> str:
        """As it stands if it holds, else what the left side comes to: `3 + 4 = 7, not 8`."""
        if self.holds:
            return f"{self.left_text} = {self.right_text}"
        return f"{self.left_text} = {plain_number(self.left)}, not {self.right_text}"


def equations_in(text: str, context: str = "") -> tuple[Equation, ...]:
    """Every equation in `text` whose two sides are plain arithmetic; never raises.

    The left side must combine at least two numbers. Of `3 + 4 = 8 + 2 = 10` both equations are
    reported, and the first of them is false.

    Args:
        context: what is said elsewhere, such as in the question: a base, a unit or a clock.
    """
    if len(text) > MAX_LINE_CHARS:
        return ()
    text, said = plainly(text), _said(context)
    if said is None or doubt.other_arithmetic(text):
        return ()
    found = []
    for stated in _stated(text):
        equation = _equation(stated)
        if equation is not None and (equation.holds or not _doubtful(equation, stated, text, said)):
            found.append(equation)
    return tuple(found)


def plain_number(value: Fraction) -> str:
    """Digits where they end within `MAX_DECIMALS` places, else a fraction: 12, 0.25, 2/3."""
    scaled = value * 10**MAX_DECIMALS
    if value.denominator == 1 or scaled.denominator > 1:
        return str(value)
    whole, rest = divmod(abs(scaled.numerator), 10**MAX_DECIMALS)
    return f"{'-' * (value < 0)}{whole}.{rest:0{MAX_DECIMALS}d}".rstrip("0")


def equations_of_steps(question: str, steps: Sequence[str]) -> Sequence[tuple[Equation, ...]]:
    """The equations of each step, read in the light of the question and of all steps.

    A question that states false equations itself gives the operators a meaning of its own.
    """
    return _equations_of(question, tuple(steps))


@lru_cache(maxsize=16)  # one solution is asked about step by step
def _equations_of(question: str, steps: tuple[str, ...]) -> Sequence[tuple[Equation, ...]]:
    asked = [_equation(stated) for stated in _stated(plainly(question)[:MAX_LINE_CHARS])]
    if any(equation is not None and not equation.holds for equation in asked):
        return [() for _ in steps]
    context = question + "\n" + "\n".join(steps)
    return [equations_in(step, context) for step in steps]


def evaluate(expression: str) -> Fraction | None:
    """Value of an expression in `+ - * /` and parentheses, or None if it is not one."""
    tokens = _tokens(plainly(expression))
    if not tokens:
        return None
    try:
        return _Parser(tokens).parse()
    except (_NotArithmetic, ZeroDivisionError):
        return None


@dataclass(frozen=True)
class _Stated:
    """One equals sign, and the text around it.

    Attributes:
        sentence: the sentence it stands in.
        earlier: the text before `left`.
        left: the text up to the sign, from the sign before.
        right: the text from the sign on, up to the next.
    """

    sentence: str
    earlier: str
    left: str
    right: str

    @property
    def left_side(self) -> str | None:
        """The arithmetic that ends `left`, unless what precedes it may belong to it."""
        run = next((m for m in _RUN.finditer(self.left) if m.end() == len(self.left)), None)
        if run is None or len(re.findall(_NUMBER, run[0])) < 2:
            return None
        before, side = self.left[: run.start()], run[0]
        if side.count("(") > side.count(")"):  # (since 3 + 4 = 7)
            side = side.replace("(", "", 1) if side.lstrip()[0] == "(" else side
        if side.lstrip()[:1] == "-" and (
            ".." in before or not re.search(r"(?:^|[:$])\s*\Z", before)
        ):
            return None  # the rest of a longer sum
        word = _LAST_WORD.search(before)
        if word is None:
            return side if _may_precede(before, apart=run[0][0].isspace()) else None
        apart = run[0][0].isspace() or run[0][0] == "("
        if not apart or doubt.modifies(word[1]) or _NUMBER_AND.search(before):
            return None
        return side

    @property
    def right_side(self) -> tuple[str, str] | None:
        """The arithmetic that opens `right`, and the text after it, unless it may belong to it."""
        run = _RUN.match(self.right)
        if run is None:
            return None
        side, after = run[0], self.right[run.end() :]
        if side.rstrip().endswith("("):
            side, after = side.rstrip()[:-1], f" {after}"
        if side.count(")") > side.count("(") and side.rstrip().endswith(")"):
            side = side.rstrip()[:-1] + " "
        if _FIRST_WORD.match(after) is not None:
            return (side, after) if side[-1:].isspace() or after[0].isspace() else None
        if not re.match(r"\s*(?:\Z|\$|[.,;?](?![0-9.])|:(?!\s*[0-9]))", after):
            return None
        if after.lstrip()[:1] == "$" and (self.earlier + self.left).count("$") % 2 == 0:
            return None  # 50 + 50 = 1$
        return side, after


@lru_cache(maxsize=16)  # the steps of one solution share theirs
def _said(context: str) -> str | None:
    """The context in plain notation, None where its arithmetic is not the ordinary one."""
    plain = plainly(context)
    return None if doubt.other_arithmetic(plain) else plain


def _stated(text: str) -> Iterator[_Stated]:
    position = 0
    for sentence in _SENTENCE_END.split(text):
        position = max(text.find(sentence, position), position)
        segments = _EQUALS.split(sentence)
        offset = 0
        for left, right in pairwise(segments):
            yield _Stated(sentence, text[: position + offset], left, right)
            offset += len(left) + 1


def _may_precede(before: str, *, apart: bool) -> bool:
    """Whether a left side may begin after this text, which ends in no word."""
    if not before.strip():
        return True
    if re.search(r"[-+*/^=<>0-9]\s*\$\s*\Z|[0-9)][!?]\s*\Z|\.\.\s*\Z", before):
        return False
    if not apart and re.search(r"[0-9][:,.]\Z", before):  # 10:30 + 45
        return False
    return re.search(r"[:;,.!?$]\s*\Z", before) is not None


def _equation(stated: _Stated) -> Equation | None:
    left_text, found = stated.left_side, stated.right_side
    if left_text is None or found is None:
        return None
    left, right = evaluate(left_text), evaluate(found[0])
    if left is None or right is None:
        return None
    point = re.fullmatch(r"\s*-?[0-9,]+\.([0-9]+)\s*", found[0])
    decimals = len(point[1]) if point else None
    return Equation(left, right, decimals, left_text.strip(), found[0].strip())


def _doubtful(equation: Equation, stated: _Stated, text: str, context: str) -> bool:
    """Whether an equation that looks false may be right in some other reading."""
    left, right = equation.left, equation.right
    left_text, found = stated.left_side, stated.right_side
    assert left_text is not None and found is not None, "an equation has two sides"
    right_text, after = found
    said = f"{context}\n{text}"
    noun = _FIRST_WORD.match(after)
    if noun is not None and not doubt.connects(after):
        before = f"{context}\n{stated.earlier}{stated.left}"
        if not doubt.same_things(noun[1], after.strip(), before, left, right):
            return True
    return (
        doubt.hedged(stated.sentence, _in_sentence(stated))
        or doubt.rounded(left_text, left, right, right_text)
        or doubt.imprecise(left_text, left, right)
        or doubt.span(left_text, right)
        or doubt.running(right_text, left)
        or doubt.wrapped(left, right, said)
        or doubt.converted(left, right, said)
        or doubt.clock_or_date(f"{left_text} {right_text}", said)
        or _holds_elsewhere(left_text, right_text)
    )


def _in_sentence(stated: _Stated) -> str:
    return stated.sentence.partition(f"{stated.left}={stated.right}")[0] + stated.left


def _holds_elsewhere(left_text: str, right_text: str) -> bool:
    """Whether the equation holds where points separate thousands and commas decimals."""
    sides = [(side, doubt.other_reading(side)) for side in (left_text, right_text)]
    if all(other is None for _, other in sides):
        return False
    left, right = (evaluate(side if other is None else other) for side, other in sides)
    return left is not None and left == right


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
        while self._peek() in ("*", "/"):
            if self._take() == "*":
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
