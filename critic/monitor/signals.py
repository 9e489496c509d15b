"""The monitor's signals as pure functions of recorded data (texts, signatures, rewards).

Nothing here decides anything: `critic/monitor/decide.py` does. A signal that cannot be measured (no
data) is NaN, which the monitor names as missing. What needs a model (token entropies, probe NLL)
arrives as plain numbers: this file never imports torch.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


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


def effective_groups(outcomes: Iterable[Sequence[bool | None]]) -> float:
    """Share of GRPO groups that hold both outcomes: in the others the rule prefers nothing.

    Args:
        outcomes: one sequence per group, whether each solution passed; None (masked) is not
            counted.
    """
    return _mean([float({True, False} <= set(group)) for group in outcomes])


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
