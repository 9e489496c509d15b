"""A user's mistake, and the wording that its messages share."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What a user can mend: a setting, a file, a launch; the message says which and how.

    Every program ends with it in one line and exit status 2. Any other ValueError is a bug.
    """


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, and name the nearest known one, or all where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(names)}"
    return f'unknown {what} "{name}": {hint}'
