"""The tags around a model's thinking, as models and their chat templates write them.

Leaves out where they may stand: that is each dialect's own (`free.py`, `tagged.py`).
"""

import re

_NAMES = "think|thinking|reasoning"
# Magistral writes the last pair.
TAGS = (
    "<think>", "</think>", "<thinking>", "</thinking>", "<reasoning>", "</reasoning>",
    "<answer>", "</answer>", "[THINK]", "[/THINK]",
)  # fmt: skip
OPENED = re.compile(rf"<(?:{_NAMES})>|\[THINK\]")
CLOSED = re.compile(rf"</(?:{_NAMES})>|\[/THINK\]")
TAG = re.compile(rf"</?(?:{_NAMES}|answer)>|\[/?THINK\]")


def after_thinking(text: str) -> str:
    """What follows the last closing tag; the whole text where there is none."""
    ended = list(CLOSED.finditer(text))
    return text[ended[-1].end() :] if ended else text
