r"""Intervals and inequalities in one unknown, as sets: x < -1 or x > 2, ]0,1], 5 > x > -2.

Ends are numbers that `quantity.py` reads, or infinite; what has others is left to algebra. Pure
functions that never raise.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from rewards.quantity import read_quantity

_End = tuple[int, Fraction]  # -1 and 1 before the value stand for the infinite ends
_Piece = tuple[_End, bool, _End, bool]  # lower end, whether it belongs, upper end, whether it does
_FAR = {
    "-": (-1, Fraction(0)), "": (1, Fraction(0)), "+": (1, Fraction(0)),
}  # fmt: skip
_INFINITY = re.compile(r"([+-]?)\s*(?:\\infty|inf|infinity|oo)\s*")
_INTERVAL = re.compile(r"([(\[\]])([^()\[\],]+),([^()\[\],]+)([)\]\[])")
_SIGNS = {
    "<": (-1, False), r"\lt": (-1, False), r"\le": (-1, True), r"\leq": (-1, True),
    r"\leqslant": (-1, True), ">": (1, False), r"\gt": (1, False), r"\ge": (1, True),
    r"\geq": (1, True), r"\geqslant": (1, True),
}  # fmt: skip
_MARK = re.compile(r"[<>,]|\\(?:[lg]eq?(?:slant)?|[lg]t|mathbb)(?![A-Za-z])")
_ALL = frozenset({r"\mathbb{R}", r"\mathbb R", "all real numbers"})
_VALUE = re.compile(r"[+-]?\s*(?:[\d.]|\\[dt]?frac)")  # not "= 4", nor "about 4"
_SIGN = re.compile(r"(<(?!=)|>(?!=)|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z]))")
_UNKNOWN = re.compile(r"[a-zA-Z]|\\theta|\\alpha|\\lambda")
_IN = re.compile(r"([a-zA-Z])\s*\\in(?![A-Za-z])\s*")
_BUILT = re.compile(
    r"(?:\\?\{\s*)?([a-zA-Z])\s*(?:\\mid(?![A-Za-z])|\||:)\s*(.*?)(?:\s*\\?\})?", re.DOTALL
)
_LONGEST = 300  # characters


def same_set(reference: str, answer: str) -> bool | None:
    """Whether both are one set of numbers, of the same unknown where both name it.

    None where one of them is not read, and where they differ and the reference may be a point.
    """
    if max(len(reference), len(answer)) > _LONGEST or not _MARK.search(reference):
        return None
    ours = _read(reference)
    theirs = None if ours is None else _read(answer)
    if ours is None or theirs is None:
        return None
    if ours[1] == theirs[1] and (not ours[0] or not theirs[0] or ours[0] == theirs[0]):
        return True
    return False if ours[0] else None


def _read(text: str) -> tuple[str, list[_Piece]] | None:
    """The unknown, "" without one, and the pieces from left to right, none touching another."""
    name = ""
    if (built := _BUILT.fullmatch(text)) is not None:
        name, text = built[1], built[2]
    elif (given := _IN.match(text)) is not None:
        name, text = given[1], text[given.end() :]
    found, names = list[_Piece](), {name} - {""}
    for part in re.split(r"\s*\\cup(?![A-Za-z])\s*|\s*\u222a\s*|\s*\bor\b\s*", text):
        read = _interval(part) or _inequalities(part)
        if read is None:
            return None
        names |= {read[0]} - {""}
        found += [piece for piece in (read[1],) if piece[0] < piece[2]]  # "and" may leave none
    return (max(names, default=""), _joined(found)) if len(names) <= 1 else None


def _interval(text: str) -> tuple[str, _Piece] | None:
    if text.strip() in _ALL:
        return "", (_FAR["-"], False, _FAR[""], False)
    ends = _INTERVAL.fullmatch(text.strip())
    if ends is None:
        return None
    low, high = _end(ends[2]), _end(ends[3])
    if low is None or high is None:
        return None
    piece = low, ends[1] == "[", high, ends[4] == "]"
    return ("", piece) if _is_some(piece) else None


def _inequalities(text: str) -> tuple[str, _Piece] | None:
    """One inequality or chain of them, or several joined by "and"."""
    names, pieces = set[str](), list[_Piece]()
    for part in re.split(r"\s*\band\b\s*|\s*\\(?:land|wedge)(?![A-Za-z])\s*", text):
        sides = _SIGN.split(part)
        if len(sides) not in (3, 5):
            return None
        terms, signs = [side.strip() for side in sides[::2]], [_SIGNS[one] for one in sides[1::2]]
        for (left, right), (direction, belongs) in zip(pairwise(terms), signs, strict=True):
            if (piece := _half(left, right, direction, belongs, names)) is None:
                return None
            pieces.append(piece)
        if len(signs) == 2 and (signs[0][0] != signs[1][0] or not _UNKNOWN.fullmatch(terms[1])):
            return None
        if len(signs) == 2 and not _is_some(_common(pieces[-2:])):
            return None
    piece = _common(pieces)
    return (names.pop(), piece) if len(names) == 1 and piece[0] != piece[2] else None


def _half(left: str, right: str, direction: int, belongs: bool, names: set[str]) -> _Piece | None:
    """What one inequality says of its unknown, which it adds to the names."""
    if _UNKNOWN.fullmatch(right):
        left, right, direction = right, left, -direction
    end = _end(right)
    if _UNKNOWN.fullmatch(left) is None or end is None:
        return None
    names.add(left)
    if direction < 0:
        return _FAR["-"], False, end, belongs
    return end, belongs, _FAR["+"], False


def _end(text: str) -> _End | None:
    far = _INFINITY.fullmatch(text.strip())
    if far is not None:
        return _FAR[far[1]]
    number = read_quantity(text.strip()) if _VALUE.match(text.strip()) else None
    if number is None or number.unit or number.noun or number.is_percent or number.name:
        return None
    return 0, number.value


def _common(pieces: Sequence[_Piece]) -> _Piece:
    """What belongs to all of them."""
    low, is_open = max((piece[0], not piece[1]) for piece in pieces)
    high, belongs = min((piece[2], piece[3]) for piece in pieces)
    return low, not is_open, high, belongs


def _is_some(piece: _Piece) -> bool:
    """Whether an interval has more than one number, and no infinite end belongs to it."""
    low, has_low, high, has_high = piece
    return low < high and not (has_low and low[0]) and not (has_high and high[0])


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    joined = list[_Piece]()
    for piece in sorted(pieces, key=lambda one: (one[0], not one[1])):
        last = joined[-1] if joined else None
        if (
            last is None
            or piece[0] > last[2]
            or (piece[0] == last[2] and not (last[3] or piece[1]))
        ):
            joined.append(piece)
        else:
            high, belongs = max((last[2], last[3]), (piece[2], piece[3]))
            joined[-1] = last[0], last[1], high, belongs
    return joined
