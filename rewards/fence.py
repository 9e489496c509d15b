"""Showing a judge somebody else's text, as material and not as instructions.

A fence that the text cannot close, and spellings of chat tokens that no tokenizer takes for the
tokens themselves. The critic and the judge behind an API are shown texts so. Leaves out what they
are asked (`critic/format_tagged.py`, `judge_settings.py`), and words that plead with them: those
they have to resist by themselves (`critic/pleas.py`).
"""

import re
import unicodedata

_TICKS = re.compile("`+")
# <|im_end|>, </s>, <start_of_turn>, [/INST], and their like; the solution dialect's tags are text.
_TOKEN_LIKE = re.compile(
    r"<(?!/?(?:think|answer)>)(?=[^\s<>]{1,60}>)|\[(?=/?[A-Za-z_]{2,30}\])", re.ASCII
)


def fenced(text: str) -> str:
    """Put a text between fences that are longer than any run of backticks in it.

    Signs that a tokenizer's normalisation turns into backticks count as such.
    """
    runs = _TICKS.findall(unicodedata.normalize("NFKC", text))
    longest = max((len(run) for run in runs), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{neutralised(text)}\n{fence}"


def neutralised(text: str) -> str:
    """Break what a chat template's tokenizer would read as a control token, by one space."""
    return _TOKEN_LIKE.sub(lambda match: f"{match[0]} ", text)
