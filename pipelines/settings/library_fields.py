"""The fields of a library's config dataclass and their types, read from its source, not imported.

TRL and peft take ten seconds and more to import; a mistyped key is worth none of them. Leaves out
what may stand in a table (`settings/library.py`). What cannot be read so is None, and is left to
the check that has the class itself (`run/checks.py`).
"""

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path


@functools.cache
def field_types(module: str, name: str) -> Mapping[str, str] | None:
    """A dataclass's fields, those of its bases first, as `dataclasses.fields` has them.

    Args:
        module: dotted name of the module that defines the class or imports it from its own package.
        name: the class.

    Returns:
        Each field's annotation by its name; None where the library is not installed, or the class
        or a base of it is not found.
    """
    file = _file(module)
    if file is None:
        return None
    tree = ast.parse(file.read_bytes())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _fields(node, module)
    origin = _imported_from(tree, name, module, is_package=file.name == "__init__.py")
    return None if origin is None else field_types(*origin)


def _fields(node: ast.ClassDef, module: str) -> Mapping[str, str] | None:
    types: dict[str, str] = {}
    for base in node.bases:
        if not isinstance(base, ast.Name):
            return None
        inherited = field_types(module, base.id)
        if inherited is None:
            return None
        types |= inherited
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        types |= {
            line.target.id: ast.unparse(line.annotation)
            for line in node.body
            if isinstance(line, ast.AnnAssign)
            and isinstance(line.target, ast.Name)
            and "ClassVar" not in ast.unparse(line.annotation)
        }
    return types


def _imported_from(
    tree: ast.Module, name: str, module: str, is_package: bool
) -> tuple[str, str] | None:
    """The module that a name is imported from, `if TYPE_CHECKING` included, and its name there."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    relative = "." * node.level + (node.module or "")
                    return importlib.util.resolve_name(relative, package), alias.name
    return None


def _file(module: str) -> Path | None:
    """A module's source, found through its top-level package, which is not imported either."""
    top, *inner = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*inner)
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)
