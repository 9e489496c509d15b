"""Final answers as people and models write them, in one spelling.

    plain      Unicode, emphasis, a box, "the answer is", GSM8K's ####; still LaTeX, for algebra
    bare       besides, without LaTeX's text and spacing: what a reader of numbers and words wants

Pure functions that never raise. Leaves out what an answer means (`quantity.py`, `answers.py`).
"""

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SYMBOLS = {
    "∞": r"\infty ", "π": r"\pi ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ",
    "\u00d7": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": r"\div ", "∅": r"\emptyset ",
    "≈": r"\approx ", "°": r"^\circ ", "\u2212": "-", "\uff0d": "-", "。": ".", "“": '"', "”": '"',
    r"\varnothing": r"\emptyset ",
}  # fmt: skip
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_DASH = re.compile("(?:(?<=^)|(?<=[=(\\[{,:~]))\\s*[\u2010-\u2014](?=\\s*[\\d.\\\\])")
_TAG = re.compile(r"</?(?:b|i|em|strong|code|u|sup|span)>", re.IGNORECASE)
_STYLE = re.compile(
    r"\\(?:displaystyle|textstyle|large|Large|huge|Huge|normalsize|small|bf|rm|it)(?![A-Za-z])"
    r"|\\(?:left|right|big|Big|bigg|Bigg)(?=[\s()\[\]{}|.\\])"
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_PHRASE = re.compile(
    r"(?:\b(?:final\s+)?(?:answer|result)\s*(?:is|=|:)|答案(?:是|为|\uff1a|:)?)\s*:?\s*(?=\S)",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"^(?:(?:so|thus|hence|therefore|then|and)\b,?\s+)?"
    r"(?:(?:it|this|that|there|they|we)\s+(?:is|are|equals?|have|get)|[A-Za-z]\s+(?:equals|is))\s+",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[\w)}\]$%])\.\s+(?=[A-Z]).*\Z", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathbf|mathrm|mathit|mbox|operatorname)\s*\{")
_SPACING = re.compile(r"\\[,;: ]|\\q?quad(?![A-Za-z])|~")
_LEADING, _ENDING = " \t\n,;:", " \t\n.,;:?"


def plain(text: str) -> str:
    """The answer alone, in one spelling, its mathematics still LaTeX."""
    text = text.rpartition("####")[2]
    text = re.sub(r"<<[^<>]*>>", "", text)
    text = _unicode(_SPACES.sub(" ", text)).strip()
    text = re.sub(r"\*\*(?=\S)(.+?)(?<=\S)\*\*|__(?=\S)(.+?)(?<=\S)__|`([^`]*)`", _inner, text)
    text = _STYLE.sub("", _TAG.sub("", text)).replace(r"\!", "")
    text = _boxes(text)
    said = list(_PHRASE.finditer(text))
    text = text[said[-1].end() :] if said else text
    text = _OPENING.sub("", text)
    text = _SENTENCE.sub("", text)
    text = _trimmed(_trimmed(text).rstrip("\\"))
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return _trimmed(_undelimited(text))


def bare(text: str) -> str:
    """`plain`, without text's and spacing's commands and with single spaces."""
    text = _unwrapped(text)
    text = text.replace("{,}", ",").replace(r"\%", "%")
    if text.replace(r"\$", "").count("$") % 2 == 0:  # delimiters, not money
        text = re.sub(r"(?<!\\)\$", " ", text)
    text = _SPACING.sub(" ", text)
    text = re.sub(r"\\[()\[\]]", " ", text)
    while text.startswith("{") and _closing(text, 0) == len(text) - 1:
        text = text[1:-1]
    return _trimmed(" ".join(text.split()))


def _trimmed(text: str) -> str:
    return text.lstrip(_LEADING).rstrip(_ENDING)


def _unicode(text: str) -> str:
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub("[¼-¾⅐-⅞]", _vulgar, text)
    text = re.sub(r"√\s*(\([^()]*\)|\{[^{}]*\}|\d+(?:\.\d+)?|[a-z])", _root, text)
    text = _DASH.sub("-", text)
    for symbol, spelled in _SYMBOLS.items():
        text = text.replace(symbol, spelled)
    return "".join(_digit(character) for character in text)


def _digit(character: str) -> str:
    """Digits, letters and signs of other widths and scripts as ASCII; all else as it is."""
    if character.isascii():
        return character
    value = unicodedata.decimal(character, None)
    if value is not None:
        return str(value)
    wide = "\uff01" <= character <= "\uff5e"
    return unicodedata.normalize("NFKC", character) if wide else character


def _vulgar(found: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", found[0]).partition("\u2044")
    before = found.string[: found.start()]
    return f"{' ' if before[-1:].isdigit() else ''}{top}/{bottom}"


def _root(found: re.Match[str]) -> str:
    inner = found[1]
    return r"\sqrt{" + (inner[1:-1] if inner[0] in "({" else inner) + "}"


def _inner(found: re.Match[str]) -> str:
    return next((group for group in found.groups() if group is not None), "")


def _boxes(text: str) -> str:
    """What stands in the box; where different boxes do, all of it."""
    contents: list[str] = []
    end = 0
    for found in _BOX.finditer(text):
        if found.start() < end:
            continue  # within another one
        if text[found.end() : found.end() + 1] == "{":
            close = _closing(text, found.end())
            end = len(text) if close is None else close
            contents.append(_boxes(text[found.end() + 1 : end]))
        else:
            word = re.match(r"\S+", text[found.end() :])
            end = found.end() + (word.end() if word else 0)
            contents.append(text[found.end() : end].strip("$"))
    if not contents:
        return text
    return ", ".join(dict.fromkeys(contents))


def _unwrapped(text: str) -> str:
    """The text without the commands that set words, and with what they set."""
    while (found := _WRAPPER.search(text)) is not None:
        start = found.end() - 1
        close = _closing(text, start)
        inner = text[start + 1 : close] if close is not None else text[start + 1 :]
        after = text[close + 1 :] if close is not None else ""
        text = text[: found.start()] + inner + after
    return text


def _closing(text: str, start: int) -> int | None:
    """Index of the brace that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        escaped = index > 0 and text[index - 1] == "\\"
        depth += 0 if escaped else (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return index
    return None


def _undelimited(text: str) -> str:
    """Without the delimiters of mathematics around all of it."""
    for opened, closed in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inner = text[len(opened) : len(text) - len(closed)]
        encloses = text.startswith(opened) and text.endswith(closed)
        if encloses and len(text) > len(opened) + len(closed) and opened not in inner:
            return inner.strip()
    return text
