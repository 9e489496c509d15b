"""The monitor's signals as pure functions of recorded data (texts, signatures, rewards).

Nothing here decides anything: `critic/monitor/decide.py` does. A signal that cannot be measured (no
data) is NaN, which the monitor names as missing. What needs a model (token entropies, probe NLL)
arrives as plain numbers: this file never imports torch. Left out: self-BLEU.
"""

import math
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Axes of arrays: N texts.


@dataclass(frozen=True, slots=True)
class AnswerEntropy:
    """Entropies of canonical answers, in nats; `across - within` is I(prompt; answer) >= 0."""

    across: float
    within: float

    @property
    def mutual_information(self) -> float:
        return max(self.across - self.within, 0.0) if math.isfinite(self.across) else math.nan


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _entropy(weights: Iterable[float]) -> float:
    """Shannon entropy in nats of weights that sum to 1."""
    return max(-math.fsum(p * math.log(p) for p in weights if p > 0), 0.0)


def token_entropy_mean(entropies: Iterable[Sequence[float]]) -> float:
    """Mean of -sum p log p over all completion tokens, in nats/token.

    Args:
        entropies: per completion, the entropy of the distribution at T=1 at each of its tokens.
    """
    return _mean([entropy for completion in entropies for entropy in completion])


def answer_entropy(groups: Iterable[Sequence[str | None]]) -> AnswerEntropy:
    """Entropy of canonical answers across prompts, and the mean within one prompt's group.

    Every prompt weighs the same in the pooled distribution, so the difference of the two is the
    mutual information of prompt and answer. Both are plug-in estimates: compare equal group sizes.

    Args:
        groups: one sequence of canonical answers per prompt; None (no parsable answer) is dropped.
    """
    counts = [Counter(a for a in group if a is not None) for group in groups]
    shares = [
        {answer: count / total for answer, count in group.items()}
        for group in counts
        if (total := group.total())
    ]
    if not shares:
        return AnswerEntropy(math.nan, math.nan)
    pooled: dict[str, float] = {}
    for share in shares:
        for answer, p in share.items():
            pooled[answer] = pooled.get(answer, 0.0) + p / len(shares)
    return AnswerEntropy(_entropy(pooled.values()), _mean([_entropy(s.values()) for s in shares]))


def distinct_ratio(signatures: Sequence[str]) -> float:
    """Share of unique canonical signatures among the valid ones, in (0, 1]."""
    return len(set(signatures)) / len(signatures) if signatures else math.nan


def effective_groups(rewards: Iterable[Sequence[float | None]]) -> float:
    """Share of GRPO groups whose counted rewards differ: the others give no gradient.

    Args:
        rewards: one sequence per group; None (masked) is not counted.
    """
    flags = []
    for group in rewards:
        counted = [reward for reward in group if reward is not None]
        flags.append(float(bool(counted) and max(counted) != min(counted)))
    return _mean(flags)


def novelty(
    signatures: Sequence[str],
    archive: Collection[str],
    control: Sequence[str] | None = None,
) -> float:
    """Share of signatures absent from the archive, less the same share for a control sampler.

    Novelty falls in healthy runs too: give the signatures of the frozen base on the same prompts as
    `control`, and what is left is the learner's own loss of novelty.

    Args:
        signatures: canonical signatures of this round's samples.
        archive: signatures admitted earlier; pass a set.
        control: signatures of the control; None compares against nothing.
    """
    own = _mean([float(signature not in archive) for signature in signatures])
    if control is None:
        return own
    return own - _mean([float(signature not in archive) for signature in control])


def probe_gain(previous_nll: float | None, nll: float) -> float:
    """NLL(t-1) - NLL(t) on the gold probe, in nats/token; NaN where nothing precedes."""
    return math.nan if previous_nll is None else previous_nll - nll


def proxy_gold_gap(proxy: Sequence[float], gold: Sequence[float]) -> float:
    """Mean proxy score (what is optimised or accepted) minus mean gold score, same items."""
    if len(proxy) != len(gold):
        raise ValueError(
            f"proxy has {len(proxy)} scores and gold {len(gold)}: score the same items with both"
        )
    return _mean(proxy) - _mean(gold)


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct word n-grams over all word n-grams (Li et al., arXiv:1510.03055), in (0, 1]."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    grams = [
        tuple(words[i : i + n])
        for words in (text.split() for text in texts)
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else math.nan


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes over zlib-compressed bytes of the joined texts: rises as texts repeat each other."""
    raw = "\n".join(texts).encode()
    return len(raw) / len(zlib.compress(raw, 9)) if raw else math.nan


def ngram_kernel(texts: Sequence[str], n: int = 3) -> NDArray[np.float64]:
    """Cosine similarities of character n-gram counts, shape (N, N), diagonal 1.

    A text shorter than n is its own only n-gram.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    counts = [Counter(text[i : i + n] for i in range(max(len(text) - n + 1, 1))) for text in texts]
    norms = [math.sqrt(sum(c * c for c in count.values())) for count in counts]
    kernel_NN = np.eye(len(texts), dtype=np.float64)
    for i, left in enumerate(counts):
        for j in range(i):
            dot = sum(c * counts[j][gram] for gram, c in left.items())
            kernel_NN[i, j] = kernel_NN[j, i] = dot / (norms[i] * norms[j])
    return kernel_NN


def vendi(kernel_NN: NDArray[np.float64]) -> float:
    """Effective number of distinct items, exp(-sum λ log λ) (Vendi score, arXiv:2210.02410).

    Args:
        kernel_NN: similarities, symmetric, diagonal 1; λ are the eigenvalues of K/n.

    Raises:
        ValueError: the matrix is not square with a unit diagonal.
    """
    if kernel_NN.ndim != 2 or kernel_NN.shape[0] != kernel_NN.shape[1]:
        raise ValueError(f"the kernel must be square, got shape {kernel_NN.shape}")
    if not len(kernel_NN):
        return math.nan
    if not np.allclose(np.diag(kernel_NN), 1.0):
        raise ValueError("the kernel's diagonal must be 1: normalise each item's similarity")
    eigenvalues = np.linalg.eigvalsh(kernel_NN / len(kernel_NN))
    return math.exp(_entropy(float(value) for value in eigenvalues))


def wilson_interval(successes: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion; (0, 1) where nothing was observed.

    Args:
        successes: observed successes, in [0, total].
        total: number of trials.
        z: normal quantile; the default gives 95%.

    Raises:
        ValueError: successes lies outside [0, total].
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes must lie in [0, total={total}], got {successes}")
    if total == 0:
        return (0.0, 1.0)
    share, spread = successes / total, z * z / total
    centre = share + spread / 2
    half = z * math.sqrt((share * (1 - share) + spread / 4) / total)
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    # Rounding must not push the bound past the observed share at 0 and 1.
    return (min(max(low, 0.0), share), max(min(high, 1.0), share))
