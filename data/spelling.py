"""What tells one question from another, however it is spelled.

Blind to case, spaces, punctuation and the signs that Unicode has for one operator. Left out:
paraphrases, and two formulas that mean the same.
"""

import unicodedata

from data.records import Shown, signature

# Thai, kana and ideographs: scripts that write words without spaces between them.
UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

# After NFKC, which makes a vulgar fraction two numbers with U+2044 between them.
_OPERATORS = str.maketrans(
    dict.fromkeys("\u2010\u2012\u2013\u2014\u2015\u2212", "-")  # dashes and the minus sign
    | dict.fromkeys("\u2044\u2215\u00f7", "/")
    | dict.fromkeys("\u00d7\u00b7\u22c5\u2217", "*")
)


def spelling_key(question: str, shown: Shown | None = None) -> str:
    """One key for all spellings of a question: of its letters, digits and operators.

    Args:
        question: as its source has it.
        shown: how it is rendered, which is what the key is of; None takes it as it is.
    """
    rendered = question if shown is None else shown(question) or ""
    plain = unicodedata.normalize("NFKC", rendered).casefold().translate(_OPERATORS)
    return signature("".join(filter(_tells_apart, plain)) or plain)


def _tells_apart(character: str) -> bool:
    """Whether a problem is another one without it: letters, digits and operators are like that."""
    is_operator = character in "-*/^%" or unicodedata.category(character) == "Sm"
    return character.isalnum() or is_operator
