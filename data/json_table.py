"""JSON files that hold one table and that a user may have damaged."""

import json
from pathlib import Path

from data.errors import UserError, reason


def read_table(path: Path) -> dict[str, object]:
    """The table in a JSON file.

    Raises:
        UserError: it is not JSON, or not a table.
        OSError: it is not there or cannot be read.
    """
    try:
        table = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # JSON's and UTF-8's errors are ValueErrors
        raise UserError(f"{path} is not valid JSON: {reason(error)}") from None
    if not isinstance(table, dict):
        raise UserError(f"{path} is not a JSON table, but a {type(table).__name__}")
    return table
