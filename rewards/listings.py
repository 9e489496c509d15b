r"""Answers of several values: 12 13, x = 2 and y = 3, sets of points, 3; 6; 9.

Algebra multiplies numbers side by side, drops the names of x = 2, y = 3, and does not take a list
of points for the set of them. Each function here is True or False where all values can be read
and compared, and None where algebra must decide. Pure functions that never raise.
"""

import re
from collections.abc import Sequence

from rewards.quantity import NAME, read_quantity, same_quantity

_ROW = re.compile(r"\d+(?:\.\d+)?(?:\s+\d+(?:\.\d+)?)+")
_SEPARATOR = re.compile(r"\s*[,;]\s*(?:and\s+)?|\s+(?:and|or)\s+")
_LOOSE = re.compile(r"\s*[;&]\s*|\s*,\s*(?:and\s+)?|\s+and\s+")
_VALUE = re.compile(rf"\s*({NAME})\s*=\s*([^=]+)")
_NAMED_POINT = re.compile(r"\(([^()=]+)\)\s*=\s*\(([^()=]+)\)")
_LONGEST = 400  # characters
_Values = list[tuple[str, str]]  # names, "" without, and values


def same_listing(reference: str, answer: str) -> bool | None:
    """Whether two lists are one; None where algebra must decide.

    Args:
        reference: as `answer_text.bare` has it, and not a single number.
        answer: the same.
    """
    if max(len(reference), len(answer)) > _LONGEST:
        return None
    if _ROW.fullmatch(reference) is not None:
        return _same_row(reference, answer)
    for same in (_same_named, _same_points, _same_numbers):
        if (found := same(reference, answer)) is not None:
            return found
    return None


def _same_row(reference: str, answer: str) -> bool:
    """Numbers side by side, in order."""
    ours, theirs = reference.split(), re.split(r"\s*,\s*|\s+", answer)
    return bool(_same_each(ours, theirs))


def _same_named(reference: str, answer: str) -> bool | None:
    """Values of several unknowns, by their names; a point's are in the order of the alphabet."""
    ours, theirs = _named(reference), _named(answer)
    points = [_point(text) for text in (reference, answer)]
    if ours is not None and theirs is not None:
        names = [sorted(name for name, _ in one) for one in (ours, theirs)]
        if names[0] != names[1] or re.search(r"\bor\b", answer):
            return False
        return _all([_same(value, dict(theirs)[name]) for name, value in ours])
    if ours is not None and points[1] is not None:
        return _same_each(_in_order(ours), points[1])
    if theirs is not None and points[0] is not None and not re.search(r"\bor\b", answer):
        return _same_each(points[0], _in_order(theirs))
    return None


def _same_points(reference: str, answer: str) -> bool | None:
    """Points, as a list or as a set, in any order."""
    ours, theirs = _points(reference), _points(answer)
    if ours is None or theirs is None or (len(ours) == 1 and "{" not in reference[:2]):
        return None
    if len(ours) != len(theirs):
        return False
    left = list(theirs)
    for point in ours:
        found = [_same_each(point, other) for other in left]
        if True not in found:
            return None if None in found else False
        del left[found.index(True)]
    return True


def _same_numbers(reference: str, answer: str) -> bool | None:
    """A list of numbers with semicolons, ampersands or spaces between them, in any order.

    Two numbers with a space between them may be a product.
    """
    is_row = _ROW.fullmatch(answer) is not None and len(answer.split()) > 2
    if not is_row and not re.search(r"[;&]", answer):
        return None
    ours = _SEPARATOR.split(_without_braces(reference))
    pattern = _LOOSE if re.search(r"[;&]", answer) else re.compile(r"\s+")
    theirs = pattern.split(_without_braces(answer))
    read = [[read_quantity(one) for one in part] for part in (ours, theirs)]
    values = [
        sorted(one.value for one in part if one is not None and not one.unit) for part in read
    ]
    if len(ours) < 2 or len(values[0]) != len(ours):
        return None
    return len(values[1]) == len(theirs) and values[0] == values[1]


def _named(text: str) -> _Values | None:
    """Two names or more with a value each, such as x = 2 and y = 3, or (x, y) = (2, 3)."""
    point = _NAMED_POINT.fullmatch(text)
    if point is not None:
        names, values = (part.split(",") for part in point.groups())
        found = [(n.strip(), v.strip()) for n, v in zip(names, values, strict=False)]
        is_whole = len(names) == len(values)
    else:
        read = [_VALUE.fullmatch(part) for part in _SEPARATOR.split(text)]
        found = [(one[1], one[2].strip()) for one in read if one is not None]
        is_whole = len(found) == len(read)
    is_several = len(found) > 1 and len({name for name, _ in found}) == len(found)
    return found if is_whole and is_several else None


def _in_order(named: _Values) -> list[str]:
    """Values by name where the names are x and its neighbours, or a and its; else as written."""
    names = "".join(sorted(name for name, _ in named))
    is_usual = len(names) == len(named) and names in "abcdefgh xyz"
    return [value for _, value in (sorted(named) if is_usual else named)]


def _point(text: str) -> list[str] | None:
    """The coordinates, or None where the text is not a point."""
    text = re.sub(r"\\[lr]angle\s*", lambda found: "(" if found[0][1] == "l" else ")", text)
    if not (text.startswith("(") and text.endswith(")")):
        return None
    parts = _split(text[1:-1])
    return [part.strip() for part in parts] if parts is not None and len(parts) > 1 else None


def _points(text: str) -> list[list[str]] | None:
    """All of a list or set of points; None for anything else."""
    parts = _split(_without_braces(re.sub(r"\)\s*,?\s*(?:and|or|;)\s*(?=\()", "), ", text)))
    points = [_point(part.strip()) for part in parts or []]
    found = [point for point in points if point is not None]
    return found if found and len(found) == len(points) else None


def _without_braces(text: str) -> str:
    inside = re.fullmatch(r"\\?\{(.*?)\\?\}", text, re.DOTALL)
    return inside[1] if inside is not None else text


def _split(text: str) -> list[str] | None:
    """At the commas outside all brackets; None where these do not match."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts if depth == 0 else None


def _same_each(ours: Sequence[str], theirs: Sequence[str]) -> bool | None:
    """Whether two lists have one value each in the same places."""
    if len(ours) != len(theirs):
        return False
    return _all([_same(one, other) for one, other in zip(ours, theirs, strict=True)])


def _same(ours: str, theirs: str) -> bool | None:
    """Whether two values are one; None where one of them is not a number."""
    first, second = read_quantity(ours), read_quantity(theirs)
    if first is not None and second is not None:
        return same_quantity(first, second)
    return True if re.sub(r"\s", "", ours) == re.sub(r"\s", "", theirs) else None


def _all(found: Sequence[bool | None]) -> bool | None:
    if False in found:
        return False
    return None if None in found else True
