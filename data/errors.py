"""Wording shared by this package's error messages."""

import difflib
from collections.abc import Iterable


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, and name the nearest known one, or all where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(names)}"
    return f'unknown {what} "{name}": {hint}'
