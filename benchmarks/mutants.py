"""Mutants of a programming problem's reference: an operator, a number, or the whole body changed.

Leaves out which of them the problem's tests see (`bench_sandbox.py`).
"""

import ast
import copy
from collections.abc import Iterator

from data.records import Task

KINDS = ("operator", "off by one", "empty", "constant")
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv:
    ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.Lt: ast.GtE, ast.LtE: ast.Gt,
    ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or,
    ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def entry_of(task: Task) -> str:
    """The function that the tests call first."""
    names = task.entry.get("names") or [""]
    assert isinstance(names, list), "as read"
    return str(task.entry.get("entry_point") or names[0])


def mutants(task: Task) -> Iterator[tuple[str, str]]:
    """Kinds of mutants of a task's reference, with the programs."""
    tree = ast.parse(task.reference)
    for kind, wanted in (("operator", _swappable), ("off by one", _is_number)):
        places = [n for n, node in enumerate(ast.walk(tree)) if wanted(node)]
        for place in places:
            changed = copy.deepcopy(tree)
            _mutate(list(ast.walk(changed))[place])
            yield kind, ast.unparse(ast.fix_missing_locations(changed))
    for kind, body in (("empty", ast.parse("pass").body), ("constant", ast.parse("return 1").body)):
        changed = copy.deepcopy(tree)
        for node in changed.body:
            if isinstance(node, ast.FunctionDef) and node.name == entry_of(task):
                node.body = body
                yield kind, ast.unparse(ast.fix_missing_locations(changed))


def _swappable(node: ast.AST) -> bool:
    return (
        (isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS)
        or (isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS)
    )  # fmt: skip


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _mutate(node: ast.AST) -> None:
    if isinstance(node, ast.Constant):
        node.value += 1  # type: ignore[operator]
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()  # type: ignore[assignment]
    elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
