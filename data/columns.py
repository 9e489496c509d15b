"""A flat dataclass as the columns of a file: names, types and order derived from its fields."""

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Column:
    """One field of a record, as files store it.

    Attributes:
        kind: str, int, float, bool, or a dataclass whose fields are such.
        many: a list of `kind`.
        optional: None is a value, too.
    """

    name: str
    kind: type
    many: bool = False
    optional: bool = False


def columns_of(row: type) -> tuple[Column, ...]:
    """The fields of a flat dataclass, in its order: names and types of whatever stores it."""
    return tuple(_column(name, hint) for name, hint in get_type_hints(row).items())


def _column(name: str, hint: Any) -> Column:
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return Column(name, type(options[0]))
    if origin is tuple:
        return Column(name, options[0], many=True)
    if origin is UnionType:
        (kind,) = set(options) - {NoneType}
        return Column(name, kind, optional=True)
    return Column(name, hint)
