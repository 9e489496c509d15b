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


def dialect(name: str, answer_in: str = "any", template: str = "") -> Dialect:
    """The dialect called `name`.

    Args:
        name: "chain", "tagged" or "free".
        answer_in: where a free solution's answer is read (`rewards.free.PLACES`).
        template: a problem's wording in place of the dialect's own; chain has none.

    Raises:
        UserError: there is none of that name, or no such place.
    """
    if name not in _DIALECTS:
        raise UserError(unknown_name("dialect", name, _DIALECTS))
    if name == "free":
        return FreeDialect(answer_in, template)
    return TaggedDialect(template) if name == "tagged" else _DIALECTS[name]
