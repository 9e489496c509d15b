"""The dialects by name, and one place to import them from.

Data and protocol are in `rewards.solution`, the grammars in `rewards.chain` and
`rewards.tagged`.
"""

from difflib import get_close_matches

from data.errors import UserError
from rewards.chain import ChainDialect
from rewards.solution import Dialect, Solution, Step, first_bad_step
from rewards.tagged import TaggedDialect

__all__ = [
    "ChainDialect",
    "Dialect",
    "Solution",
    "Step",
    "TaggedDialect",
    "dialect",
    "first_bad_step",
]

_DIALECTS: dict[str, Dialect] = {"chain": ChainDialect(), "tagged": TaggedDialect()}


def dialect(name: str) -> Dialect:
    """The dialect called `name`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in _DIALECTS:
        nearest = get_close_matches(name, _DIALECTS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UserError(f"unknown dialect {name!r}: choose one of {sorted(_DIALECTS)}{hint}")
    return _DIALECTS[name]
