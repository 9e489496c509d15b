"""Overlap between generated text and the evaluation sets.

The rule is DeepSeekMath's (arXiv:2402.03300, section 2.1): ten words in a row in common, or, for
an evaluation text of three to nine words, that whole text. Spaces, punctuation and dollar signs
tell no two texts apart, nor does a hyphen between words; signs of arithmetic do. A short text is no
leak as a part of a longer formula; marks around it (a bullet, bold, tags) and its answer behind it
hide none. Where a script has no spaces each character is a word, and two of them count as one when
a text's length is judged; Unicode's compatibility forms (full-width digits, say) are what they
stand for. Word sequences shared by several evaluation texts are a template ("Your answer should be
..."), which every task of a family carries; they are not a sign of a leak and are left out, and
neither is counting ("1, 2, 3, ...") in a text that says more: any list of examples counts. Near
copies of one evaluation text count as one there, so that they do not exempt each other, but for
texts that a generator wrote: those of one family differ in little more than their numbers.
"""

import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from data.records import normalise
from data.spelling import UNSPACED as _UNSPACED

NGRAM_WORDS = 10
MIN_CONTAINED_WORDS = 3
MIN_TEMPLATE_TEXTS = 3
COPY_SIMILARITY = 0.6  # of two texts' sets of word triples, from which one is a copy of the other

_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")
_ONE_SPELLING = str.maketrans("\u00d7\u00f7\u2212", "*/-")
_TOKEN = re.compile(rf"\d+\.\d+|{_WORD.pattern}|[-+*/^=<>%]")
_OPERATORS = frozenset("-+*/^")
_OPERAND = re.compile(r"[a-z]|\w*\d[\w.]*")
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})")


class Contamination:
    """An index of evaluation texts.

    Args:
        texts: every question (and, where wanted, solution) of the evaluation sets in use.
        templated: the same, written by generators.
    """

    def __init__(self, texts: Sequence[str], templated: Sequence[str] = ()) -> None:
        made = {_tokens(text) or text for text in map(_plain, templated)}
        plain = sorted({_plain(text) for text in (*texts, *templated)} - {""})
        self._whole = {_tokens(text) or text: text for text in plain}  # one of each spelling
        plain = list(self._whole.values())
        self._contained = [
            (_tokens(text), text)
            for text in plain
            if _num_words(text) >= MIN_CONTAINED_WORDS and len(_WORD.findall(text)) < NGRAM_WORDS
        ]
        having = defaultdict[str, list[int]](list)
        for number, text in enumerate(plain):
            ngrams = set(_ngrams(text))
            telling = {ngram for ngram in ngrams if not _counts(ngram.split())}
            for ngram in telling or ngrams:
                having[ngram].append(number)
        whose = enumerate(self._whole)
        copies = _Copies([None if tokens in made else plain[n] for n, tokens in whose])
        self._ngrams = frozenset(
            ngram
            for ngram, numbers in having.items()
            if copies.num_apart(numbers) < MIN_TEMPLATE_TEXTS
        )

    def overlap(self, text: str) -> str:
        """Return the words that `text` shares with an evaluation text, or "" if it is clean."""
        plain = _plain(text)
        tokens = _tokens(plain)
        if known := self._whole.get(tokens or plain):
            return known
        for ngram in _ngrams(plain):
            if ngram in self._ngrams:
                return ngram
        return next((known for inner, known in self._contained if _holds(tokens, inner)), "")


class _Copies:
    """Which texts are near copies of each other.

    Args:
        texts: None for one that is nobody's copy, as a generator wrote it.
    """

    def __init__(self, texts: Sequence[str | None]) -> None:
        self._texts = texts
        self._triples: dict[int, frozenset[str]] = {}
        self._known: dict[tuple[int, ...], int] = {}

    def num_apart(self, numbers: Sequence[int]) -> int:
        """How many of these texts are no copies of others; stops where they are a template."""
        if len(numbers) < MIN_TEMPLATE_TEXTS:
            return len(numbers)
        key = tuple(numbers)
        if key not in self._known:
            apart: list[int] = []
            for number in numbers:
                if not any(self._alike(number, other) for other in apart):
                    apart.append(number)
                if len(apart) >= MIN_TEMPLATE_TEXTS:
                    break
            self._known[key] = len(apart)
        return self._known[key]

    def _alike(self, one: int, other: int) -> bool:
        left, right = self._set(one), self._set(other)
        return bool(left and right) and len(left & right) >= COPY_SIMILARITY * len(left | right)

    def _set(self, number: int) -> frozenset[str]:
        if number not in self._triples:
            text = self._texts[number]
            self._triples[number] = frozenset(_ngrams(text, 3) if text is not None else ())
        return self._triples[number]


def _plain(text: str) -> str:
    return normalise(unicodedata.normalize("NFKC", text)).casefold()


def _tokens(text: str) -> str:
    """Words and signs of arithmetic, a space between each two."""
    return " ".join(_TOKEN.findall(_HYPHEN.sub(" ", text.translate(_ONE_SPELLING))))


def _holds(tokens: str, inner: str) -> bool:
    """Whether a text holds another one whole, which is not a part of a longer formula there."""
    if inner not in tokens:
        return False
    first, *_, last = inner.split()
    for found in re.finditer(rf"(?<!\S){re.escape(inner)}(?!\S)", tokens):
        before, after = tokens[: found.start()].split(), tokens[found.end() :].split()
        opens = _is_operand(first) and _ends_in_operator(before)
        goes_on = len(after) > 1 and after[0] in _OPERATORS and _is_operand(after[1])
        if not opens and not (goes_on and _is_operand(last)):
            return True
    return False


def _ends_in_operator(tokens: Sequence[str]) -> bool:
    """Whether what follows is an operand: of a sign, or negative."""
    if not tokens or tokens[-1] not in _OPERATORS:
        return False
    return tokens[-1] == "-" or (len(tokens) > 1 and _is_operand(tokens[-2]))


def _is_operand(token: str) -> bool:
    """Whether a token may stand in a formula: a number, a letter, a letter with a number."""
    return _OPERAND.fullmatch(token) is not None


def _num_words(text: str) -> float:
    """How many words there are; a character of a script without spaces is half of one."""
    words = _WORD.findall(text)
    return len(words) - sum(re.fullmatch(f"[{_UNSPACED}]", word) is not None for word in words) / 2


def _counts(words: Sequence[str]) -> bool:
    """Whether these are numbers that count up, count down or repeat, with one step that does not.

    HumanEval and MBPP both sort `[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]`.
    """
    if not all(re.fullmatch(r"[0-9]{1,9}", word) for word in words):
        return False
    numbers = list(map(int, words))
    steps = Counter(after - before for before, after in itertools.pairwise(numbers))
    return max(steps[step] for step in (-1, 0, 1)) >= len(words) - 2


def _ngrams(text: str, num: int = NGRAM_WORDS) -> Iterable[str]:
    words = _WORD.findall(text)
    for start in range(len(words) - num + 1):
        yield " ".join(words[start : start + num])
