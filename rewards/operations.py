"""The operations that a chain may repeat, and everything that differs between them.

A chain starts from its operation's identity and applies one operand after the other. Leaves out how
a chain is written (`rewards.chain`) and what can go wrong in one (`rewards.mistakes`).
"""

from collections.abc import Callable
from dataclasses import dataclass

MAX_DIGITS = 16  # of an operand or a running value: bounds int()
KEPT = 1000  # as `data.double_and_add`, whose import takes a second, has it


@dataclass(frozen=True)
class Operation:
    """One way to combine the running value with the next operand.

    Attributes:
        mark: opens the compact problem; sums have none.
        symbol: stands between the operands of a question.
        word: names the operation in a question that has one operand only; "" if nothing does.
        identity: the running value before the first operand.
        apply: (running value, operand) to the next running value.
        carries: (running value, operand) to what each carry of that step is worth.
        confused: (running value, operand) to what other operations would make of them.
    """

    mark: str
    symbol: str
    word: str
    identity: int
    apply: Callable[[int, int], int]
    carries: Callable[[int, int], list[int]]
    confused: Callable[[int, int], list[int]]

    def run(self, operands: tuple[int, ...], start: int | None = None) -> list[int]:
        """The running values from `start`, the identity by default; none for the start itself."""
        value, values = self.identity if start is None else start, []
        for operand in operands:
            value = self.apply(value, operand)
            values.append(value)
        return values


def _sum_carries(value: int, operand: int) -> list[int]:
    places = range(1, len(str(max(value, operand))) + 1)
    return [10**p for p in places if value % 10**p + operand % 10**p >= 10**p]


def _product_carries(value: int, factor: int, carry: int = 0) -> list[int]:
    """Long multiplication: the factor times one digit of the value after the other."""
    worths = []
    for place, digit in enumerate(reversed(str(value)), start=1):
        carry = (int(digit) * factor + carry) // 10
        if carry:
            worths.append(carry * 10**place)
    return worths


SUM = Operation(
    mark="",
    symbol="+",
    word="",
    identity=0,
    apply=lambda value, operand: value + operand,
    carries=_sum_carries,
    confused=lambda value, operand: [value - operand, value * operand],
)
PRODUCT = Operation(
    mark="*",
    symbol="*",
    word="multiplication",
    identity=1,
    apply=lambda value, operand: value * operand,
    carries=_product_carries,
    confused=lambda value, operand: [value + operand],
)
DOUBLE_AND_ADD = Operation(  # and keep the last three places
    mark="2",
    symbol=",",
    word="double",
    identity=0,
    apply=lambda value, operand: (2 * value + operand) % KEPT,
    carries=lambda value, operand: [w for w in _product_carries(value, 2, operand) if w < KEPT],
    confused=lambda value, operand: [
        value + operand, 2 * (value + operand) % KEPT, 2 * value + operand
    ],
)  # fmt: skip
# A question without a symbol belongs to the first whose word it holds.
OPERATIONS = (PRODUCT, DOUBLE_AND_ADD, SUM)


@dataclass(frozen=True)
class Chain:
    """A task of the chain dialect: an operation and its operands in order."""

    operation: Operation
    operands: tuple[int, ...]

    def values(self) -> list[int]:
        """The right running values, the answer last."""
        return self.operation.run(self.operands)
