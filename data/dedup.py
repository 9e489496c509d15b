"""Duplicates: exact by signature, near by MinHash for prose.

Within-batch checks would let a proposer cycle through old samples, so the index is meant to be
fed from the whole corpus first. Only solutions of more than 50 words are compared by MinHash:
shorter ones, a column of sums for instance, resemble each other by nature.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.records import Record, normalise, signature

# Shape suffixes: S shingles of a text, P permutations.
Duplicate = Literal["", "duplicate", "near_duplicate"]

MIN_PROSE_WORDS = 51
SHINGLE_WORDS = 3
NUM_PERMUTATIONS = 128
NUM_BANDS = 32  # of 4 values each: a pair at similarity 0.8 is compared with probability > 0.9999
NEAR_SIMILARITY = 0.8

_random = np.random.Generator(np.random.PCG64(20_240_229))
_MULTIPLIERS_P = _random.integers(1, 2**64, NUM_PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
_OFFSETS_P = _random.integers(0, 2**64, NUM_PERMUTATIONS, dtype=np.uint64)


def minhash(text: str) -> NDArray[np.uint64] | None:
    """Sketch a text's set of word triples; None where it is too short for prose.

    The share of equal values in two sketches estimates the Jaccard similarity of the sets
    (Broder 1997), here with multiply-shift hashing in place of permutations.
    """
    words = normalise(text).casefold().split()
    if len(words) < MIN_PROSE_WORDS:
        return None
    shingles = {
        " ".join(words[start : start + SHINGLE_WORDS])
        for start in range(len(words) - SHINGLE_WORDS + 1)
    }
    hashes_S = np.array(
        [
            int.from_bytes(hashlib.blake2b(shingle.encode(), digest_size=4).digest(), "big")
            for shingle in shingles
        ],
        dtype=np.uint64,
    )
    shuffled_SP = hashes_S[:, None] * _MULTIPLIERS_P + _OFFSETS_P >> np.uint64(32)  # wraps mod 2^64
    sketch_P: NDArray[np.uint64] = shuffled_SP.min(axis=0)
    return sketch_P


def similarity(left_P: NDArray[np.uint64], right_P: NDArray[np.uint64]) -> float:
    """Estimate the Jaccard similarity of two sketched texts, in [0, 1]."""
    return float(np.mean(left_P == right_P))


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
        self._sketches: list[NDArray[np.uint64]] = []
        self._bands: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
        for record in records:
            if record.accepted:
                self.add(record.prompt, record.solution)

    def find(self, question: str, solution: str) -> Duplicate:
        """Say whether the sample repeats one in the index: exactly up to whitespace, or nearly."""
        if signature(question, solution) in self._signatures:
            return "duplicate"
        sketch_P = minhash(solution)
        if sketch_P is None:
            return ""
        candidates = {i for band in _bands(sketch_P) for i in self._bands.get(band, ())}
        near = any(similarity(sketch_P, self._sketches[i]) >= NEAR_SIMILARITY for i in candidates)
        return "near_duplicate" if near else ""

    def add(self, question: str, solution: str) -> None:
        """Put a sample into the index."""
        self._signatures.add(signature(question, solution))
        sketch_P = minhash(solution)
        if sketch_P is not None:
            for band in _bands(sketch_P):
                self._bands[band].append(len(self._sketches))
            self._sketches.append(sketch_P)


def _bands(sketch_P: NDArray[np.uint64]) -> list[tuple[int, bytes]]:
    parts = np.split(sketch_P, NUM_BANDS)
    return [(number, part.tobytes()) for number, part in enumerate(parts)]
