"""What the tests of a program leave to it: names that they use and do not define.

Such a name is the program's, which may make of it what it likes: a `math` whose `isclose` is always
true. What the reference takes from Python's library is therefore imported for the tests. Leaves out
how they are put (`sandbox/examiner.py`).
"""

import ast
import builtins
import keyword
import re
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache

_YES = """
class Yes:
    def __getattr__(self, name): return self
    def __call__(self, *args, **kwargs): return self
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __iter__(self): return iter(())
"""
_NAME = re.compile(r"[^\W\d]\w*")


@lru_cache(maxsize=4096)
def library_imports(reference: str, tests: Sequence[str]) -> str:
    """Imports from Python's library that tests use as the reference's, as code.

    Args:
        reference: a program that passes; one that is no Python imports nothing.
        tests: Python; where one names `module.attribute` of a module in the library that the
            reference does not define, the module is meant.
    """
    program, tested = _parsed(reference), [_parsed(one) for one in tests]
    used = {node.id for tree in tested for node in ast.walk(tree) if isinstance(node, ast.Name)}
    lines = [line for name, line in _imports(program) if name in used]
    defined = {name for name, _ in _imports(program)} | _defined(program)
    modules = {
        node.value.id for tree in tested for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }  # fmt: skip
    modules &= sys.stdlib_module_names
    lines += [f"import {name}" for name in sorted(modules - defined)]
    return "\n".join(lines)


def yes_to_all(tests: Sequence[str]) -> str:
    """A program of which whatever the tests name says yes to whatever it is asked."""
    words = {name for test in tests for name in _NAME.findall(test)}
    names = {one for one in words if not keyword.iskeyword(one)} - vars(builtins).keys()
    return _YES + "".join(f"{name} = Yes()\n" for name in sorted(names))


def _parsed(code: str) -> ast.Module:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def _imports(program: ast.Module) -> Iterator[tuple[str, str]]:
    """Names that a program imports from Python's library at its top level, each with how."""
    for node in program.body:
        if isinstance(node, ast.Import):
            sources = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            sources = [node.module or ""] * len(node.names)
        else:
            continue
        for source, alias in zip(sources, node.names, strict=True):
            if source.split(".")[0] in sys.stdlib_module_names:
                name = alias.asname or alias.name.split(".")[0]
                whole = isinstance(node, ast.Import)
                one = ast.Import([alias]) if whole else ast.ImportFrom(source, [alias], 0)
                yield name, ast.unparse(one)


def _defined(program: ast.Module) -> set[str]:
    found = set[str]()
    for node in program.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return found
