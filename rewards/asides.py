"""What an answer says besides itself: "therefore 12", "12, not 13", "12, which is even".

Only what cannot change the answer is cut: words of lists, a number that is denied, a check that
ends in the same number. Pure functions that never raise. Leaves out what an answer means
(`quantity.py`, `answers.py`).
"""

import re

_LEADING = re.compile(
    r"^(?:(?:so|thus|hence|therefore|then|simply|just|exactly|clearly|indeed|precisely)[,:]?\s+)"
    r"(?=[-+]?[\d.$\\(])|^an?\s+total\s+of\s+(?=[-+]?\\?[\d.$])",
    re.IGNORECASE,
)
_FAREWELL = re.compile(
    r"(?<=[\w)}\]$%])\.\s+(?:please\s+)?"
    r"(?:let me know if|feel free to|(?:i\s+)?hope (?:this|that|it) helps)\b"
    r"(?P<rest>[^.;:]*)[.!?\s]*\Z",
    re.IGNORECASE,
)
_DOUBTS = re.compile(
    r"\b(?:not|no|nor|never|wrong|incorrect|actually|however|but|instead|should|mistaken?|meant|wait"
    r"|or|if|unless|maybe|perhaps|correct|answer)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
_FAREWELL_TURNS = re.compile(
    r"\b(?:not|wrong|incorrect|actually|but|instead|should|mistaken?|meant|answer|it|is)\b", re.I
)
_KIND = (
    r"(?:an?\s+)?(?:(?:positive|even|odd|prime|whole|natural|rational|composite)\s+)*"
    r"(?:positive|even|odd|prime|composite|number|integer)|an?\s+perfect\s+(?:square|cube)"
    r"|the\s+(?:(?:final|correct|required|desired|requested)\s+)*answer|correct|reasonable"
)
_REMARK = re.compile(
    rf"(?:,\s+which\s+is\s+(?:{_KIND})|,?\s+as\s+(?:required|expected|desired|requested))[.!]?\Z",
    re.IGNORECASE,
)
_VALUE = r"[-+]?\\?\$?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?"
_DENIAL = re.compile(
    rf"(?P<said>(?:[A-Za-z]\s*=\s*)?(?P<value>{_VALUE})(?:\s+[a-z]+)?|[A-J]|\([A-J]\))"
    rf"(?:,?\s+(?:and\s+)?not\s+(?P<other>{_VALUE}|[A-J]|\([A-J]\))"
    rf"|\s+\(not\s+(?P<aside>{_VALUE}|[A-J])\))\.?"
)
_CHECK = re.compile(
    r"(?<=[\w)}\]$%])\s*[.;]\s+(?:explanation|check|verification|(?:we can |to )(?:verify|check))\b"
    r"(?P<why>.{1,300}?)(?:=|\b(?:gives|is|makes|equals|leaves)\b)\s*\\?\$?(?P<value>-?\d[\d,]*(?:\.\d+)?)"
    r"\W*\Z",
    re.DOTALL | re.IGNORECASE,
)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_PICTURES = re.compile(
    "(?<=[\\w.)}\\]$%!])\\s*(?P<all>[\u2705\u2714\ufe0f\U0001f300-\U0001faff]+)\\s*\\Z"
)
_MEANING = "\u2753\U0001f44e\U0001f6ab\U0001f51f\U0001f4af"  # no, 10, 100
_AGAIN = re.compile(r"\s*,?\s*\bor\s+|\s*[,;]?\s*\(?\b(?:i\.e\.|that\s+is),?\s*")


def without_asides(text: str) -> str:
    """An answer without words that leave it as it is; where they might not, all of it.

    Args:
        text: an answer, not a reference.
    """
    pictures = _PICTURES.search(text)
    if pictures is not None and not set(pictures["all"]) & set(_MEANING):
        text = text[: pictures.start()]
    farewell = _FAREWELL.search(text)
    if farewell is not None and not _FAREWELL_TURNS.search(farewell["rest"]):
        text = text[: farewell.start()]
    text = _LEADING.sub("", text)
    if (remark := _REMARK.search(text)) is not None:
        return text[: remark.start()]
    if (denial := _DENIAL.fullmatch(text)) is not None:
        said, other = denial["value"] or denial["said"], denial["other"] or denial["aside"]
        return denial["said"] if _digits(said) != _digits(other) else text
    return _without_check(text)


def said_again(answer: str) -> tuple[str, str] | None:
    """The two forms of "1/2, or 50%" and of "48, i.e. 4 dozen"; None for any other answer."""
    parts = _AGAIN.split(answer.removesuffix(")"))
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None


def _without_check(text: str) -> str:
    """Without a check or explanation that arrives at the only number before it."""
    check = _CHECK.search(text)
    if check is None or _DOUBTS.search(check["why"]):
        return text
    said = _NUMBER.findall(text[: check.start()])
    is_same = len(said) == 1 and _digits(said[0]) == _digits(check["value"])
    return text[: check.start()] if is_same else text


def _digits(text: str) -> str:
    return re.sub(r"[^\w./-]", "", text)
