"""The dialects by name, and one place to import them from.

Data and protocol are in `rewards.solution`, the grammars in `rewards.chain` and
`rewards.tagged`.
"""

from data.errors import UserError, unknown_name
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
        raise UserError(unknown_name("dialect", name, _DIALECTS))
    return _DIALECTS[name]
