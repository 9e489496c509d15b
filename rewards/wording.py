"""Answers in words: case, articles and quotes do not matter, and "yes, it is" is yes.

Pure functions. Leaves out numbers in words (`number_words.py`) and dates (`dates.py`).
"""

import re

_SPELLINGS = {
    "no solutions": "no solution", "no solutions exist": "no solution", "there is no solution":
    "no solution", "no solution exists": "no solution", "dne": "does not exist",
    "all reals": "all real numbers", "positive infinity": "infinity", r"\infty": "infinity",
    r"+\infty": "infinity", r"-\infty": "-infinity", r"\mathbb{r}": "all real numbers",
    r"(-\infty, \infty)": "all real numbers", r"\emptyset": "no solution", "{}": "no solution",
    r"\{\}": "no solution", "empty set": "no solution", "null set": "no solution",
    r"x \in \mathbb{r}": "all real numbers",
}  # fmt: skip
_SHOUTED = frozenset({"YES", "NO", "TRUE", "FALSE", "DNE", "NONE", "ODD", "EVEN"})
_OPINIONS = frozenset({"yes", "no", "true", "false"})
_OPINION = re.compile(r"(yes|no|true|false)\s*[,.;:]\s*(.+)", re.DOTALL)
_BARE_REASON = re.compile(r"(?:because|since|as)\s.+", re.DOTALL)
_REPEATED = re.compile(
    r"(?:it|that|this|he|she|they|there|we|you|i)\s+(?:is|are|does|do|can|will|was|did|has|have)"
    r"(?P<denied>n't|\s+not|not)?"
)
_WHEN = re.compile(r"^(?i:on)\s+(?=(?i:mon|tues|wednes|thurs|fri|satur|sun)day\Z)")
_EXCLAIMED = re.compile(r"(?:(?<=[A-Za-z]{5})|(?<=\b(?i:true))|(?<=\b(?i:yes))|(?<=\b(?i:no)))!+\Z")
_REVERSED = re.compile(
    r"\b(?:yes|no|true|false|but|however|wait|actually|wrong|answer|or|unless|if|though|although"
    r"|maybe|perhaps)\b"
)


def same_words(reference: str, answer: str) -> bool:
    """Whether two texts say the same words, or the answer gives a reason for its yes or no."""
    ours, theirs = worded(reference), worded(answer)
    return ours == theirs or (ours in _OPINIONS and ours == _opinion(theirs))


def is_known(text: str) -> bool:
    """Whether a text in words is an answer of its own, such as no solution, however spelled."""
    return text in _SPELLINGS.values()


def worded(text: str) -> str:
    """Case, spaces, articles and quotes do not matter; signs, numbers and brackets do."""
    is_symbol = text.isupper() and len(text) <= 4 and " " not in text and text not in _SHOUTED
    text = text if is_symbol else text.casefold()
    text = _WHEN.sub("", _EXCLAIMED.sub("", text))
    text = re.sub(r"^(?:the|a|an)\s+", "", text).replace("'", "").replace('"', "")
    text = re.sub(r"\s+", " ", re.sub(r"\s*([,;:])\s*", r"\1 ", text)).strip(" .,;:")
    return _SPELLINGS.get(text, text)


def _opinion(text: str) -> str:
    """The yes or no that a text begins with; "" where what follows may take it back."""
    found = _OPINION.fullmatch(text)
    if found is None or _REVERSED.search(found[2]):
        return ""
    if (repeated := _REPEATED.fullmatch(found[2])) is not None:
        is_denied = repeated["denied"] is not None
        return found[1] if is_denied == (found[1] in ("no", "false")) else ""
    return found[1] if _BARE_REASON.fullmatch(found[2]) else ""
