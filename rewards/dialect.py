"""The dialects by name, and one place to import them from.

Data and protocol are in `rewards.solution`, the grammars in `rewards.chain`,
`rewards.tagged` and `rewards.free`.
"""

from data.errors import UserError, unknown_name
from rewards.chain import ChainDialect
from rewards.free import FreeDialect
from rewards.solution import Dialect, Solution, Step, first_bad_step
from rewards.tagged import TaggedDialect

__all__ = [
    "ChainDialect",
    "Dialect",
    "FreeDialect",
    "Solution",
    "Step",
    "TaggedDialect",
    "dialect",
    "first_bad_step",
]

_DIALECTS: dict[str, Dialect] = {
    one.name: one for one in (ChainDialect(), TaggedDialect(), FreeDialect())
}


def dialect(name: str) -> Dialect:
    """The dialect called `name`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in _DIALECTS:
        raise UserError(unknown_name("dialect", name, _DIALECTS))
    return _DIALECTS[name]
