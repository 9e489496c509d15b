"""Final answers as people and models write them, in one spelling.

    plain      Unicode, emphasis, a box, "the answer is", GSM8K's ####; still LaTeX, for algebra
    bare       besides, without LaTeX's text and spacing: what a reader of numbers and words wants

Pure functions that never raise. Leaves out what an answer means (`quantity.py`, `answers.py`).
"""

import re
import unicodedata

from rewards.asides import without_asides

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SYMBOLS = {
    "∞": r"\infty ", "π": r"\pi ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ",
    "\u00d7": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": r"\div ", "∅": r"\emptyset ",
    "\u2044": "/", "\u2215": "/", "\ufe63": "-", "⩽": r"\le ", "⩾": r"\ge ",
    "<=": r"\le ", ">=": r"\ge ",
    "≈": r"\approx ", "°": r"^\circ ", "\u2212": "-", "\uff0d": "-", "。": ".", "“": '"', "”": '"',
    r"\varnothing": r"\emptyset ", "⟨": r"\langle ", "⟩": r"\rangle ", "«": '"', "»": '"',
}  # fmt: skip
_COMMANDS = {
    r"\degree": r"^\circ ", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\pounds": "£",
    r"\textsterling": "£", r"\euro": "€", r"\texteuro": "€", r"\yen": "¥", r"\textdollar": r"\$",
    r"\log_e": r"\ln ", r"\log_{e}": r"\ln ",
}  # fmt: skip
_COMMAND = re.compile(rf"(?:{'|'.join(map(re.escape, _COMMANDS))})(?![A-Za-z])")
_STYLED = re.compile("[\U0001d400-\U0001d7ff]+")  # letters and digits in mathematical alphabets
_SMALL_FRACTION = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[\u2044/]([₀-₉]+)")
_ANGLED = re.compile(r"\\langle\s*([^<>=]*,[^<>=]*?)\s*\\rangle|<([^<>=]*,[^<>=]*)>")
_INVISIBLE = " \t\n\u200b\u200c\u200d\u2060\ufeff"  # around an answer; within one, it is garbled
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
    r"(?:(?:it|this|that|there|they|we)\s+(?:is|are|equals?|have|get)|\$?[A-Za-z]\$?\s+(?:equals|is))\s+",
    re.IGNORECASE,
)
_POINT = re.compile(r"^(?:the\s+)?(?:ordered\s+pair|origin|point|vertex)\s+(?=\$?\()", re.I)
_SENTENCE = re.compile(r"(?<=[\w)}\]$%])\.\s+(?=[A-Z])")
_SENTENCE_WORDS = re.compile(r"\b(?:so|hence|thus|therefore|because|since|is|have|get)\b", re.I)
# A formula behind these says what the one before means: "ax + b, where b is an integer".
_CONDITION = re.compile(
    r"\b(?:where|with|for (?:all|any|each|every|some)|such that|if|whenever)\b", re.I
)
_SAYS_MORE = re.compile(r"\b(?:is|are|be|has|have|in|of|and|or)\b|[^\w%^\\ ]", re.I)
_DOUBT = re.compile(
    r"\b(?:not|no|nor|never|wrong|incorrect|impossible|cannot|can't|unless|if|either|or|wait|hmm|but"
    r"|actually|however|instead|rather|possibly|maybe|perhaps|might|could|should|choices?)\b|n't\b",
    re.IGNORECASE,
)
_BEFORE_BOX = re.compile(
    r"(?:^|[.,:;=\n]|\b(?:is|are|be|get|have|answer|thus|so|hence|therefore))\Z", re.I
)
_IN_A_SENTENCE = re.compile(
    r"(?!.*\b(?:half|twice|double|triple|times|minus|plus|negative|less|more|than|greater|square|root"
    r"|over|million|thousand|billion|dozen|hundred|percent)\b)[A-Za-z ,.']*",
    re.DOTALL,
)
_AFTER_BOX = re.compile(r"\A(?:\Z|[.,;:)\n])")
_WRAPPER = re.compile(
    r"\\(?:ce|text(?:bf|it|rm|normal)?|mathbf|mathrm|mathit|mbox|operatorname)\s*\{"
)
_SPACING = re.compile(r"\\[,;: ]|\\q?quad(?![A-Za-z])|~")
_ENVIRONMENT = re.compile(
    r"\\begin\{((?:aligned?|equation|gather(?:ed)?)\*?)\}(.*)\\end\{\1\}", re.DOTALL
)
MAX_WRAPPERS = 40
_LEADING, _ENDING = " \t\n,;:", " \t\n.,;:?"


def plain(text: str, is_reference: bool = False) -> str:
    """The answer alone, in one spelling, its mathematics still LaTeX.

    Args:
        text: an answer, or a whole solution that ends in one.
        is_reference: it is known to be right: what surrounds the box is its derivation.
    """
    text = text.rpartition("####")[2]
    text = re.sub(r"<<[^<>]*>>", "", text)
    text = _unicode(_SPACES.sub(" ", text.strip(_INVISIBLE))).strip()
    text = re.sub(r"\*\*(?=\S)(.+?)(?<=\S)\*\*|__(?=\S)(.+?)(?<=\S)__|`([^`]*)`", _inner, text)
    text = _STYLE.sub("", _TAG.sub("", text))
    text = re.sub(r"\\!\s*", "", text)
    text = _boxed(text, is_reference)
    said = list(_PHRASE.finditer(text))
    if said and not _DOUBT.search(text[: said[-1].start()]):
        text = text[said[-1].end() :]
    text = _OPENING.sub("", re.sub(r"^(?:so|thus|hence|therefore),\s*", "", text, flags=re.I))
    text = text if is_reference else _without_environment(without_asides(text))
    text = _POINT.sub("", _without_afterthought(text))
    if is_reference and not _CONDITION.search(text) and _SENTENCE_WORDS.search(text):
        text = _last_formula(text)
    text = _trimmed(_trimmed(text).rstrip("\\"))
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    text = _trimmed(_undelimited(text))
    if (angled := _ANGLED.fullmatch(text)) is not None:  # a vector is written as its point
        return f"({angled[1] or angled[2]})"
    return text


def _last_formula(text: str) -> str:
    """What a derivation in prose arrives at: its last formula of several, a unit behind it."""
    formulas = list(re.finditer(r"\$([^$]+)\$", text))
    if len(formulas) < 2:
        return text
    unit = text[formulas[-1].end() :].strip(" .!")
    is_last = len(unit.split()) <= 2 and not _SAYS_MORE.search(unit)
    return formulas[-1][1] if is_last else text


def bare(text: str) -> str:
    """`plain`, without text's and spacing's commands and with single spaces."""
    text = _unwrapped(text)
    text = text.replace("{,}", ",").replace("{:}", ":").replace(r"\%", "%")
    if text.replace(r"\$", "").count("$") % 2 == 0:  # delimiters, not money
        text = re.sub(r"(?<!\\)\$", " ", text)
    text = _SPACING.sub(" ", text)
    text = re.sub(r"\\[()\[\]]", " ", text)
    for _ in range(3):
        if text.startswith("{") and text != "{}" and _closing(text, 0) == len(text) - 1:
            text = text[1:-1]
    return _trimmed(" ".join(text.split()))


def _trimmed(text: str) -> str:
    kept = text.lstrip(_LEADING).rstrip(_ENDING)
    goes_on = kept[-1:].isdigit() and (text.endswith("...") or text.endswith("\u2026"))
    return f"{kept}..." if goes_on else kept


def _unicode(text: str) -> str:
    """Signs beyond ASCII, and commands that have a shorter spelling, in one spelling."""
    text = text if text.isascii() else _in_ascii(text)
    if "\\" not in text and "=" not in text:
        return text
    for symbol in ("<=", ">=", r"\varnothing"):
        text = text.replace(symbol, _SYMBOLS[symbol])
    return _COMMAND.sub(lambda m: _COMMANDS[m[0]], text)


def _in_ascii(text: str) -> str:
    text = _STYLED.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)
    text = _SMALL_FRACTION.sub(_vulgar, text)
    text = re.sub("[₀-₉]+", lambda m: "_{" + unicodedata.normalize("NFKC", m[0]) + "}", text)
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
    fraction = unicodedata.normalize("NFKC", found[0]).replace("\u2044", "/")
    top, _, bottom = fraction.partition("/")
    before = found.string[: found.start()]
    return f"{' ' if before[-1:].isdigit() else ''}{top}/{bottom}"


def _root(found: re.Match[str]) -> str:
    inner = found[1]
    return r"\sqrt{" + (inner[1:-1] if inner[0] in "({" else inner) + "}"


def _inner(found: re.Match[str]) -> str:
    return next((group for group in found.groups() if group is not None), "")


def _boxed(text: str, is_reference: bool) -> str:
    """What stands in the box; where different boxes do, or the box is a part of it, all of it."""
    contents, outside, end = list[str](), list[str](), 0
    for found in _BOX.finditer(text):
        if found.start() < end:
            continue  # within another one
        outside.append(text[end : found.start()])
        if text[found.end() : found.end() + 1] == "{":
            close = _closing(text, found.end())
            inner = text[found.end() + 1 : close]
            end = len(text) if close is None else close + 1
        else:
            word = re.match(r"\S+", text[found.end() :])
            end = found.end() + (word.end() if word else 0)
            inner = text[found.end() : end].strip("$")
        contents.append(_BOX.sub("", inner).strip() if "boxed" not in inner else _inmost(inner))
    if not contents:
        return text
    distinct = list(dict.fromkeys(contents))
    around = [piece.replace("$", "") for piece in (outside[0], text[end:])]
    ends = _BEFORE_BOX.search(around[0].rstrip(" ")), _AFTER_BOX.match(around[1].lstrip(" "))
    is_whole = None not in ends or all(_IN_A_SENTENCE.fullmatch(piece) for piece in around)
    doubted = any(_DOUBT.search(piece) for piece in around)
    if len(distinct) > 1 or is_reference or (is_whole and not doubted):
        return ", ".join(distinct)
    return f"{outside[0]} {distinct[0]} {text[end:]}"


def _inmost(text: str) -> str:
    """The content of boxes within a box."""
    pieces = _BOX.split(text)
    return pieces[-1].strip("{} ")


def _without_afterthought(text: str) -> str:
    """Without sentences after the answer's, unless they take it back or say another one."""
    cut = _SENTENCE.search(text)
    if cut is None or not re.search(r"\d", text[: cut.start()]):
        return text
    after = text[cut.end() :]
    return text if re.search(r"\d", after) or _DOUBT.search(after) else text[: cut.start()]


def _without_environment(text: str) -> str:
    """Without an environment that sets one line of formulas, and without its signs of alignment."""
    found = _ENVIRONMENT.fullmatch(_undelimited(text))
    return text if found is None or "\\\\" in found[2] else found[2].replace("&", " ").strip()


def _unwrapped(text: str) -> str:
    """The text without the commands that set words, and with what they set."""
    for _ in range(MAX_WRAPPERS):
        found = _WRAPPER.search(text)
        if found is None:
            break
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
