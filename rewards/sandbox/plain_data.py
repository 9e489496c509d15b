"""Values as JSON between a program and its tests: plain data, rebuilt from scratch.

What comes back is made of Python's own types whatever the program's objects were: a subclass whose
`__eq__` is always true arrives as its base's value. What is no data (a function, an instance of the
program's own class) stays where it is; a reference goes in its place. Neither pickle nor marshal:
both can be made to run code or to crash. Cycles, and nesting that JSON does not take, raise
RecursionError.
"""

import base64
import collections
import datetime
import decimal
import fractions
import json
from collections.abc import Callable
from typing import Any

Refer = Callable[[object], object]  # an object that is no data, as JSON
Resolve = Callable[[object], object]  # and back
_EXACT = 2**53  # beyond it an integer goes as hexadecimal: linear time, and no limit of digits


def dumps(value: object, refer: Refer) -> str:
    """A value as one line of JSON.

    Raises:
        RecursionError: it is nested too deeply, or holds itself.
    """
    return json.dumps(encode(value, refer))


def loads(text: str, resolve: Resolve) -> object:
    """The value that `dumps` wrote.

    Raises:
        ValueError: it is no such text.
        RecursionError: it is nested too deeply.
    """
    try:
        return decode(json.loads(text), resolve)
    except (KeyError, TypeError, AttributeError, OverflowError, ArithmeticError) as error:
        raise ValueError(f"not plain data: {type(error).__name__}: {error}") from None


def encode(value: object, refer: Refer) -> object:
    """A value in JSON's types: itself, a list, or {"t": type, "v": contents}."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -_EXACT < number < _EXACT else _tagged("int", hex(number))
    if isinstance(value, float):
        text = float.__repr__(value)
        return _tagged("float", text) if text in ("nan", "inf", "-inf") else float(text)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        mapping = "OrderedDict" if isinstance(value, collections.OrderedDict) else "dict"
        return _tagged(
            mapping, [[encode(k, refer), encode(v, refer)] for k, v in dict.items(value)]
        )
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            items = [encode(one, refer) for one in kind.__iter__(value)]
            return items if name == "list" else _tagged(name, items)
    for name, (kind, write, _) in _ATOMS.items():
        if isinstance(value, kind):
            return _tagged(name, write(value))
    return _tagged("ref", refer(value))


def decode(data: object, resolve: Resolve) -> object:
    """A value from JSON's types.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    if isinstance(data, list):
        return [decode(one, resolve) for one in data]
    if not isinstance(data, dict):
        return data
    name, held = data["t"], data["v"]
    if name == "int":
        return int(held, 16)
    if name == "float":
        return float(held)
    if name in ("dict", "OrderedDict"):
        pairs = [(decode(k, resolve), decode(v, resolve)) for k, v in held]
        return collections.OrderedDict(pairs) if name == "OrderedDict" else dict(pairs)
    if name in _SEQUENCES:
        return _SEQUENCES[name](decode(one, resolve) for one in held)
    if name in _ATOMS:
        return _ATOMS[name][2](held)
    if name == "ref":
        return resolve(held)
    raise ValueError(f"unknown type {name!r}")


def _tagged(name: str, held: object) -> dict[str, object]:
    return {"t": name, "v": held}


_SEQUENCES: dict[str, Any] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque,
}  # fmt: skip

# A type, how it is written, and how it is read. datetime before date, whose subclass it is.
_ATOMS: dict[str, tuple[type, Callable[..., object], Callable[..., object]]] = {
    "complex": (
        complex, lambda one: [float(one.real).hex(), float(one.imag).hex()],
        lambda held: complex(*map(float.fromhex, held)),
    ),
    "bytes": (
        bytes, lambda one: base64.b64encode(bytes(one)).decode(), base64.b64decode
    ),
    "bytearray": (
        bytearray, lambda one: base64.b64encode(bytes(one)).decode(),
        lambda held: bytearray(base64.b64decode(held)),
    ),
    "range": (
        range, lambda one: [hex(one.start), hex(one.stop), hex(one.step)],
        lambda held: range(*(int(n, 16) for n in held)),
    ),
    "Decimal": (decimal.Decimal, str, decimal.Decimal),
    "Fraction": (
        fractions.Fraction, lambda one: [hex(one.numerator), hex(one.denominator)],
        lambda held: fractions.Fraction(*(int(n, 16) for n in held)),
    ),
    "datetime": (
        datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat
    ),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    "timedelta": (
        datetime.timedelta, lambda one: [one.days, one.seconds, one.microseconds],
        lambda held: datetime.timedelta(*held),
    ),
}  # fmt: skip
