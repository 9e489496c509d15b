"""Contamination planted in foreign texts, by kind, beside clean texts of the same origin.

Evaluation texts and foreign ones are sentences of the standard library's documentation: English
that nobody here wrote for the purpose. Other scripts are written out below.
"""

import ast
import random
import re
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

MODULES = (
    "argparse", "asyncio/tasks", "configparser", "csv", "datetime", "decimal", "difflib",
    "doctest", "email/message", "fractions", "functools", "gettext", "heapq", "imaplib", "inspect",
    "ipaddress", "logging/handlers", "mailbox", "optparse", "pathlib", "pickle", "plistlib",
    "random", "sched", "shlex", "shutil", "smtplib", "socketserver", "sqlite3/dump", "statistics",
    "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "tkinter/__init__",
    "turtle", "typing", "unittest/mock", "urllib/request", "uuid", "wave", "weakref", "zipfile",
)  # fmt: skip

# Questions in scripts with and without spaces between words, of a line each: Chinese, Japanese,
# Thai, Russian, Greek, Arabic, Hindi, Korean.
_FILE = Path(__file__).with_name("other_scripts.txt")
OTHER_SCRIPTS = tuple(_FILE.read_text(encoding="utf-8").splitlines())


def sentences(min_words: int, max_words: int) -> list[str]:
    """Distinct sentences of the standard library's docstrings, in a fixed order."""
    library, found = Path(sysconfig.get_paths()["stdlib"]), dict[str, None]()
    for name in MODULES:
        path = library / f"{name}.py"
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else ()
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        for node in nodes:
            text = (ast.get_docstring(node) or "") if isinstance(node, kinds) else ""
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text):
                said = " ".join(sentence.split())
                num_words = len(re.findall(r"\w+", said))
                if min_words <= num_words <= max_words and said.isascii():
                    found[said] = None
    return list(found)


def verbatim(text: str, around: Sequence[str], rng: random.Random) -> str:
    """The text as it is, within others."""
    return f"{rng.choice(around)} {text} {rng.choice(around)}"


def restyled(text: str, around: Sequence[str], rng: random.Random) -> str:
    """Other case, line breaks, marks and punctuation."""
    words = text.upper().replace(",", " ;").rstrip(".").split()
    return f"{rng.choice(around)}\n> **{chr(10).join(words)}** !!"


def reworded(every: int) -> Callable[[str, Sequence[str], random.Random], str]:
    """Each word of a number exchanged for another, so that `every` - 1 in a row are left."""

    def made(text: str, around: Sequence[str], rng: random.Random) -> str:
        words = text.split()
        words[every - 1 :: every] = ["otherwise"] * len(words[every - 1 :: every])
        return f"{rng.choice(around)} {' '.join(words)} {rng.choice(around)}"

    return made


def full_width(text: str, around: Sequence[str], rng: random.Random) -> str:
    """ASCII in Unicode's full-width forms."""
    shifted = [chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text]
    return f"{rng.choice(around)} {''.join(shifted)}"
