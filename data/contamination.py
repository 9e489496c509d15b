"""Overlap between generated text and the evaluation sets.

The rule is DeepSeekMath's (arXiv:2402.03300, section 2.1): ten words in a row in common, or, for
an evaluation text of three to nine words, that whole text. Word sequences shared by several
evaluation texts are a template ("Your answer should be ..."), which every task of a family
carries; they are not a sign of a leak and are left out.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from data.records import normalise

NGRAM_WORDS = 10
MIN_CONTAINED_WORDS = 3
MIN_TEMPLATE_TEXTS = 3

_WORD = re.compile(r"\w+")


class Contamination:
    """An index of evaluation texts.

    Args:
        texts: every question (and, where wanted, solution) of the evaluation sets in use.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        plain = {_plain(text) for text in texts} - {""}
        self._whole = frozenset(plain)
        self._contained = tuple(
            sorted(text for text in plain if MIN_CONTAINED_WORDS <= _num_words(text) < NGRAM_WORDS)
        )
        counts = Counter(ngram for text in plain for ngram in set(_ngrams(text)))
        self._ngrams = frozenset(
            ngram for ngram, num_texts in counts.items() if num_texts < MIN_TEMPLATE_TEXTS
        )

    def overlap(self, text: str) -> str:
        """Return the words that `text` shares with an evaluation text, or "" if it is clean."""
        plain = _plain(text)
        if plain in self._whole:
            return plain
        for ngram in _ngrams(plain):
            if ngram in self._ngrams:
                return ngram
        padded = f" {plain} "
        return next((known for known in self._contained if f" {known} " in padded), "")


def _plain(text: str) -> str:
    return normalise(text).casefold()


def _num_words(text: str) -> int:
    return len(_WORD.findall(text))


def _ngrams(text: str) -> Iterable[str]:
    words = _WORD.findall(text)
    for start in range(len(words) - NGRAM_WORDS + 1):
        yield " ".join(words[start : start + NGRAM_WORDS])
