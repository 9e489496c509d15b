"""The closed list of mistakes at a step of a chain: how each is made, and by what it is known.

One definition serves both ways: what a kind can make of a step is what it is recognised by. A step
that two kinds explain counts as the first of them in `MISTAKES`. Nothing is rewarded by a kind.
Leaves out the text of steps (`rewards.chain`) and whole solutions with mistakes (`critic.flaws`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

from rewards.operations import MAX_DIGITS, Chain

Mistake = Literal[
    "forgotten_carry",  # one carry of the sum or of the long multiplication is left out
    "off_by_one",
    "skipped_term",  # the running value stays as it was
    "wrong_operation",  # multiplies in a sum, adds in a product, forgets to double (`confused`)
    "wrong_operand",  # combines with another operand of the chain, though it copied the right one
    "swapped_digits",  # two neighbouring digits of the right value change places
    "wrong_digit",  # one digit of the value is another
    "miscopied_operand",  # writes an operand that is not the task's, and goes on with it
    "miscopied_answer",  # the final answer is not the last running value
    "early_answer",  # the last running value is given as the answer before every term was used
    "extra_term",  # a step after the last term
]
MISTAKES: tuple[Mistake, ...] = get_args(Mistake)
OTHER = "other"


class Stated(NamedTuple):
    """What a step says: an operand and a running value; the final answer has no operand."""

    operand: int | None
    value: int


@dataclass(frozen=True)
class Place:
    """Where a step stands: its chain, its number, and the value stated just before it."""

    chain: Chain
    index: int
    previous: int

    @property
    def is_final(self) -> bool:
        """Whether every term was used, so that the answer is due."""
        return self.index >= len(self.chain.operands)

    @cached_property
    def due(self) -> Stated:
        """What should stand here."""
        if self.is_final:
            return Stated(None, self.previous)
        operand = self.chain.operands[self.index]
        return Stated(operand, self.chain.operation.apply(self.previous, operand))


def mistakes_at(place: Place, kind: Mistake) -> list[Stated]:
    """Every way in which a step at this place can be wrong by this kind, and by none before it.

    Left out is what the grammar could not write, here or in the steps that follow.
    """
    found = sorted(set(_variants(place, kind)), key=lambda stated: (stated.operand or 0, stated[1]))
    return [
        stated for stated in found
        if stated != place.due and _fits(place, stated) and kind_of(place, stated) == kind
    ]  # fmt: skip


def kind_of(place: Place, stated: Stated) -> str:
    """The mistake of a step that does not say what is due, or "other"."""
    if stated.operand is None:
        if place.index == len(place.chain.operands):
            return "miscopied_answer"
        early = not place.is_final and stated.value == place.previous
        return "early_answer" if early else OTHER
    if place.is_final:
        return "extra_term"
    if stated.operand != place.due.operand:
        consistent = place.chain.operation.apply(place.previous, stated.operand)
        return "miscopied_operand" if stated.value == consistent else OTHER
    return next((k for k, values in _VALUES.items() if stated.value in values(place)), OTHER)


def _variants(place: Place, kind: Mistake) -> Iterator[Stated]:
    """What a kind can make of a step, possible or not; nothing where it does not apply."""
    if place.is_final:
        if kind == "miscopied_answer":
            yield from (Stated(None, value) for value in _one_digit_off(f"{place.previous:02d}"))
        return
    operand, apply = place.chain.operands[place.index], place.chain.operation.apply
    if kind == "miscopied_operand":
        for copied in _one_digit_off(str(operand)):
            yield Stated(copied, apply(place.previous, copied))
    elif kind == "early_answer":
        if place.index > 0:
            yield Stated(None, place.previous)
    elif kind in _VALUES:
        yield from (Stated(operand, value) for value in _VALUES[kind](place))


def _fits(place: Place, stated: Stated) -> bool:
    """Whether the value can be written, and every later one that follows from it."""
    rest = () if stated.operand is None else place.chain.operands[place.index + 1 :]
    later = place.chain.operation.run(rest, start=stated.value)
    return stated.value >= 0 and max(stated.value, *later, 0) < 10**MAX_DIGITS


def _forgotten_carries(place: Place) -> list[int]:
    operand, right = place.due
    assert operand is not None, "the answer has no carry"
    return [right - worth for worth in place.chain.operation.carries(place.previous, operand)]


def _confused(place: Place) -> list[int]:
    operand = place.chain.operands[place.index]
    return place.chain.operation.confused(place.previous, operand)


def _with_other_operands(place: Place) -> list[int]:
    return [place.chain.operation.apply(place.previous, other) for other in place.chain.operands]


def _swapped(place: Place) -> list[int]:
    digits = f"{place.due.value:02d}"
    pairs = range(len(digits) - 1)
    return [int(digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :]) for i in pairs]


def _one_digit_off(digits: str) -> list[int]:
    """The numbers that differ from this one in one digit, read without leading zeros."""
    return [
        int(digits[:place] + other + digits[place + 1 :])
        for place, digit in enumerate(digits)
        for other in "0123456789"
        if other != digit
    ]


def _beyond_the_first(values: Callable[[Place], Iterable[int]]) -> Callable[[Place], Iterable[int]]:
    """The first step only copies its operand: it combines nothing."""
    return lambda place: values(place) if place.index else ()


# The kinds of mistake in the value of a step whose operand is right, in their order.
_VALUES: Mapping[Mistake, Callable[[Place], Iterable[int]]] = {
    "forgotten_carry": _beyond_the_first(_forgotten_carries),
    "off_by_one": lambda place: (place.due.value - 1, place.due.value + 1),
    "skipped_term": _beyond_the_first(lambda place: (place.previous,)),
    "wrong_operation": _beyond_the_first(_confused),
    "wrong_operand": _with_other_operands,
    "swapped_digits": _swapped,
    "wrong_digit": lambda place: _one_digit_off(f"{place.due.value:02d}"),
}
