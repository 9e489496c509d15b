"""Duplicates: exact by signature, near by MinHash for prose (datasketch).

Within-batch checks would let a proposer cycle through old samples, so the index is meant to be
fed from the whole corpus first. Only solutions of more than 50 words are compared by MinHash:
shorter ones, a column of sums for instance, resemble each other by nature. A near duplicate says
nearly the same to nearly the same question: a solution that fits another question is new.
"""

import re
from collections.abc import Iterable
from typing import Literal

from datasketch import MinHash, MinHashLSH

from data.records import Record, normalise, signature
from data.spelling import UNSPACED

Duplicate = Literal["", "duplicate", "near_duplicate"]

MIN_PROSE_WORDS = 51
SHINGLE_WORDS = 3
NUM_PERMUTATIONS = 128
BANDS = (32, 4)  # of 4 values each: a pair at similarity 0.8 is compared with probability > 0.9999
NEAR_SIMILARITY = 0.8  # of solutions, and of questions

_UNSPACED = re.compile(f"([{UNSPACED}])")


def minhash(text: str) -> MinHash | None:
    """Sketch a text's set of word triples; None where it is too short for prose.

    Two sketches estimate the Jaccard similarity of their sets (Broder 1997). Where a script has no
    spaces each character is a word, and two of them count as one when the length is judged.
    """
    words = _words(text)
    if _num_words(words) < MIN_PROSE_WORDS:
        return None
    sketch = MinHash(NUM_PERMUTATIONS, scheme="affine32")
    last = len(words) - SHINGLE_WORDS + 1
    sketch.update_batch([" ".join(words[i : i + SHINGLE_WORDS]).encode() for i in range(last)])
    return sketch


class DuplicateIndex:
    """Everything accepted so far, to tell whether a sample is new.

    A round that is rerun after a kill must not meet its own records: feed the index from
    `corpus.records(before=round)`.

    Args:
        records: records to start from; rejected ones are left out, since a sample refused for
            its group's pass rate may be welcome later.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._signatures: set[str] = set()
        self._prose: list[tuple[frozenset[str], MinHash]] = []
        self._near = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=BANDS)
        for record in records:
            if record.accepted:
                self.add(record.prompt, record.solution)

    def find(self, question: str, solution: str) -> Duplicate:
        """Say whether the sample repeats one in the index: exactly up to whitespace, or nearly."""
        if signature(question, solution) in self._signatures:
            return "duplicate"
        sketch = minhash(solution)
        if sketch is None:
            return ""
        asked = frozenset(_words(question))
        for number in self._near.query(sketch):
            other, known = self._prose[number]
            if sketch.jaccard(known) >= NEAR_SIMILARITY and _asks_alike(asked, other):
                return "near_duplicate"
        return ""

    def add(self, question: str, solution: str) -> None:
        """Put a sample into the index."""
        self._signatures.add(signature(question, solution))
        sketch = minhash(solution)
        if sketch is not None:
            self._near.insert(len(self._prose), sketch)
            self._prose.append((frozenset(_words(question)), sketch))


def _asks_alike(left: frozenset[str], right: frozenset[str]) -> bool:
    """Whether two questions are nearly the same."""
    return len(left & right) >= NEAR_SIMILARITY * len(left | right)


def _words(text: str) -> list[str]:
    return _UNSPACED.sub(r" \1 ", normalise(text).casefold()).split()


def _num_words(words: Iterable[str]) -> float:
    return sum(0.5 if _UNSPACED.fullmatch(word) else 1.0 for word in words)
