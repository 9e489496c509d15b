"""Fenced blocks of the documentation, so that tests run what users copy."""

import re
from pathlib import Path

USE = Path(__file__).resolve().parents[2] / "docs" / "use.md"
_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def block(begins: str, file: Path = USE) -> str:
    """The one fenced block that begins so."""
    (found,) = (text for text in _BLOCK.findall(file.read_text()) if text.startswith(begins))
    return found
