"""A user's mistake: its exception, its boundary with libraries, and the wording of a wrong name."""

import difflib
import errno
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_REASON = 400  # characters of a library's message
# Of torch's archive writer, after a write that came short, and of safetensors.
FULL_DISK = (
    r"unexpected pos \d+ vs \d+", "PytorchStreamWriter failed",
    "^basic_ios::clear: iostream error", "No space left on device",
)  # fmt: skip


class UserError(ValueError):
    """What a user can mend: a setting, a file, a launch; the message says which and how.

    Every program ends with it in one line and exit status 2. Any other ValueError is a bug.
    """


@contextmanager
def as_user_error(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a library raises about a user's values into a `UserError` in one line.

    Put only the library's call inside: a bug of ours there would be blamed on the user.

    Args:
        what: the setting or file that the library was given.
        kinds: exceptions by which the library refuses it.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{what}: {reason(error)}") from error


@contextmanager
def full_disk_as_user_error(place: Path) -> Iterator[None]:
    """Turn what writers raise where a disk is full into a `UserError` in one line.

    Python's own say so; torch's archive writer and safetensors have words of their own.

    Args:
        place: what is being written to.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # safetensors' is of no common class
        if not _says_full(error):
            raise
        where = getattr(error, "filename", None) or place
        raise UserError(f"{where}: no room is left on the disk there: free some") from error


def _says_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(re.search(words, str(error)) for words in FULL_DISK)


def reason(error: BaseException) -> str:
    """An exception's message in one line of bounded length; its type where it has no message."""
    text = textwrap.shorten(str(error), MAX_REASON, placeholder=" ...")
    return text or type(error).__name__


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, and name the nearest known one, or all where none is near."""
    return f'unknown {what} "{name}": {did_you_mean(name, known)}'


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest to an unknown one, as a question; all where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f'did you mean "{near[0]}"?' if near else f"known: {', '.join(names)}"
