"""Do two equations or inequalities that hold for the same numbers say the same?

math-verify compares them by what they hold for. Where that is nothing (x^2 + 1 = 0 over the reals)
or everything (log_4 8 = 3/2), any other relation of the kind would pass: such a pair must differ by
a factor alone, or state the same sides. So must a pair in several unknowns, which has no solutions
to compare. Leaves out how text becomes a relation (`scoring_process.py`).
"""

from collections.abc import Sequence

from sympy import Expr, Reals, cancel, solveset, together
from sympy.core.relational import Equality, Relational


def says_the_same(gold: Sequence[object], answer: Sequence[object]) -> bool:
    """Whether some relation of the answer says what one of the reference says.

    Args:
        gold: the readings of the reference; without a relation among them nothing is refused.
        answer: those of the answer.
    """
    ours, theirs = (
        [one for one in parsed if isinstance(one, Relational)] for parsed in (gold, answer)
    )
    return not ours or not theirs or any(_same(one, other) for one in ours for other in theirs)


def _same(ours: Relational, theirs: Relational) -> bool:
    first, second = _difference(ours), _difference(theirs)
    if first is None or second is None:
        return False
    if not first.free_symbols or _vanishes(first):  # an identity: what it says is its sides
        return _same_sides(ours, theirs)
    if not second.free_symbols or _vanishes(second):
        return False
    return _is_factor(first / second) or _is_solved(ours, first)


def _difference(relation: Relational) -> Expr | None:
    sides = (relation.lhs, relation.rhs)
    return sides[0] - sides[1] if all(isinstance(side, Expr) for side in sides) else None


def _vanishes(expression: Expr) -> bool:
    return bool(cancel(together(expression)) == 0)


def _same_sides(ours: Relational, theirs: Relational) -> bool:
    """Both sides alike, in either order where the relation is an equation."""
    orders = [(theirs.lhs, theirs.rhs)]
    if isinstance(ours, Equality) and isinstance(theirs, Equality):
        orders.append((theirs.rhs, theirs.lhs))
    return any(_equal(ours.lhs, left) and _equal(ours.rhs, right) for left, right in orders)


def _equal(ours: Expr, theirs: Expr) -> bool:
    return bool(ours == theirs) or bool((ours - theirs).equals(0))


def _is_factor(ratio: Expr) -> bool:
    """Whether a ratio is a number other than 0, or a product of unknowns."""
    factors = cancel(together(ratio)).as_ordered_factors()
    return all(
        part.is_nonzero if part.is_number else part.as_base_exp()[0].is_Symbol for part in factors
    )


def _is_solved(relation: Relational, difference: Expr) -> bool:
    """Whether a relation in one unknown holds for some real numbers and not for all."""
    if len(difference.free_symbols) != 1:
        return False
    (unknown,) = difference.free_symbols
    solutions = solveset(difference if isinstance(relation, Equality) else relation, unknown, Reals)
    return solutions.is_empty is not True and solutions != Reals
