"""The monitor's signals as pure functions of recorded data, each with its own standard error.

    signal                     unit        error
    token_entropy              nats/token  samples within each task: the tasks are fixed
    gold_accuracy, gold_form   share       the same, and half a sample of doubt at 0 and 1
    answer_entropy_within,     nats        tasks left out, a block at a time (jackknife)
    mutual_information
    distinct_ratio             share       the same
    effective_groups           share       binomial over tasks
    fed_accuracy               share       binomial over records
    gold_nll                   nats/token  between tasks
    training_reward            reward      between tasks, which are fresh in each round; no less
                                           than their samples' spread says
    critic_*                   share       the half width of its 95% interval; `critic_bias` from
                                           its critiques of either class

Nothing here decides anything: `critic/monitor/decide.py` does. A signal that cannot be measured, or
whose error cannot, is None, which the monitor names as missing. Leaves out sampling and scoring.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from critic.measured import MeasuredCritique
from critic.monitor.readings import Reading, reading
from critic.resampling import Estimate

Item = TypeVar("Item")
NUM_BLOCKS = 20
Z95 = 1.96


def mean_of_fixed(groups: Sequence[Sequence[float]]) -> Reading | None:
    """The mean over tasks that are the same at every check: only their samples vary.

    Args:
        groups: the values of each task's samples.

    Returns:
        The mean of all values. With one sample per task, what differs between tasks cannot be told
        from noise, and counts as noise.
    """
    values = [value for group in groups for value in group]
    if len(values) < 2:
        return None
    if max(len(group) for group in groups) == 1:
        variance = len(values) * _variance(values)
    else:
        variance = math.fsum(len(g) * _variance(g) for g in groups if len(g) > 1)
        alone = [g for g in groups if len(g) == 1]
        variance *= 1 + len(alone) / (len(values) - len(alone))
    return reading(math.fsum(values) / len(values), math.sqrt(variance) / len(values))


def share_of_fixed(groups: Sequence[Sequence[bool]]) -> Reading | None:
    """A share over tasks that are the same at every check.

    A count near 0 or all has an error of about one sample even where none of them differ.
    """
    found = mean_of_fixed([[float(one) for one in group] for group in groups])
    if found is None:
        return None
    num = sum(len(group) for group in groups)
    return reading(found.value, math.hypot(found.error, 1 / num))


def mean_of_fresh(groups: Sequence[Sequence[float]]) -> Reading | None:
    """The mean over tasks that are drawn anew at every check: they vary, too.

    The error is 0 where all values are the same, and only there: few tasks whose means happen to
    agree are no certainty.
    """
    groups = [group for group in groups if group]
    if len(groups) < 2:
        return None
    means = [math.fsum(group) / len(group) for group in groups]
    spreads = [_variance(group) / len(group) for group in groups if len(group) > 1]
    within = math.fsum(spreads) / len(spreads) if spreads else 0.0
    equal = len({value for group in groups for value in group}) == 1
    variance = 0.0 if equal else max(_variance(means), within)
    return reading(math.fsum(means) / len(means), math.sqrt(variance / len(means)))


def answer_entropies(groups: Sequence[Sequence[str | None]]) -> dict[str, Reading | None]:
    """Entropy of canonical answers within one prompt's group, across prompts, and their difference.

    Every prompt weighs the same in the pooled distribution, so that the difference is the mutual
    information of prompt and answer. All are plug-in estimates, in nats: compare equal group sizes.

    Args:
        groups: one sequence of canonical answers per prompt; None (no parsable answer) is dropped.
    """
    counts = [Counter(a for a in group if a is not None) for group in groups]
    shares = [
        {answer: count / total for answer, count in group.items()}
        for group in counts
        if (total := group.total())
    ]

    def within(some: Sequence[dict[str, float]]) -> float:
        return math.fsum(_entropy(share.values()) for share in some) / len(some)

    def across(some: Sequence[dict[str, float]]) -> float:
        pooled: dict[str, float] = {}
        for share in some:
            for answer, p in share.items():
                pooled[answer] = pooled.get(answer, 0.0) + p / len(some)
        return _entropy(pooled.values())

    return {
        "answer_entropy_within": _jackknife(shares, within),
        "answer_entropy_across": _jackknife(shares, across),
        "mutual_information": _jackknife(
            shares, lambda some: max(across(some) - within(some), 0.0)
        ),
    }


def distinct_ratio(groups: Sequence[Sequence[str]]) -> Reading | None:
    """Share of unique canonical signatures among the valid ones of all groups, in (0, 1]."""

    def ratio(some: Sequence[Sequence[str]]) -> float:
        signatures = [one for group in some for one in group]
        return len(set(signatures)) / len(signatures)

    return _jackknife([group for group in groups if group], ratio)


def effective_groups(outcomes: Iterable[Sequence[bool | None]]) -> Reading | None:
    """Share of groups that hold both outcomes: in the others GRPO's rule prefers nothing.

    Args:
        outcomes: one sequence per group, whether each solution passed; None (masked) is not
            counted.

    Returns:
        The share; None without a group of two that are counted, which alone could hold both.
    """
    groups = list(outcomes)
    if all(len(group) - list(group).count(None) < 2 for group in groups):
        return None
    both = [{True, False} <= set(group) for group in groups]
    shrunk = (sum(both) + 0.5) / (len(both) + 1)
    return reading(sum(both) / len(both), math.sqrt(shrunk * (1 - shrunk) / len(both)))


def share_of_records(right: Sequence[bool]) -> Reading:
    """The share of right ones among records that are others at every check; its error is binomial.

    A count near 0 or all has an error of about half a record even where none of them differ.
    """
    shrunk = (sum(right) + 0.5) / (len(right) + 1)
    error = math.sqrt(shrunk * (1 - shrunk) / len(right))
    return Reading(value=sum(right) / len(right), error=error)


def nll_of_gold(logprobs: Sequence[Sequence[float]]) -> Reading | None:
    """Negative log-likelihood of gold solutions, nats per token; their tokens weigh the same.

    Args:
        logprobs: of each gold solution's tokens.
    """
    lengths = [len(own) for own in logprobs]
    if len(logprobs) < 2 or not sum(lengths):
        return None
    sums = [-math.fsum(own) for own in logprobs]
    value = math.fsum(sums) / sum(lengths)
    residuals = [total - value * num for total, num in zip(sums, lengths, strict=True)]
    return reading(value, math.sqrt(len(sums) * _variance(residuals)) / sum(lengths))


def critic_bias(critiques: Sequence[MeasuredCritique]) -> Reading | None:
    """How much too sound the critic finds solutions of either class, the classes weighing the same.

    In [-1, 1]: -1/2 is a critic that accuses everything, 1/2 one that accuses nothing. It does not
    move with the share of right solutions. None without two critiques of each class.
    """
    by_class = [
        [c.p_sound - c.sound for c in critiques if c.sound == sound] for sound in (True, False)
    ]
    if any(len(own) < 2 for own in by_class):
        return None
    means = [math.fsum(own) / len(own) for own in by_class]
    variance = math.fsum(_variance(own) / len(own) for own in by_class)
    floor = math.fsum(1 / len(own) ** 2 for own in by_class)  # equal words are no certainty
    return reading(math.fsum(means) / 2, math.sqrt(variance + floor / 4) / 2)


def reading_of(estimate: Estimate) -> Reading | None:
    """A measure with its 95% interval as a reading; None without an interval."""
    if estimate.value is None or estimate.interval is None:
        return None
    low, high = estimate.interval
    return reading(estimate.value, (high - low) / (2 * Z95))


def _jackknife(
    items: Sequence[Item], statistic: Callable[[Sequence[Item]], float]
) -> Reading | None:
    """A statistic with its delete-a-block standard error; None for fewer than two items."""
    num = min(NUM_BLOCKS, len(items))
    if num < 2:
        return None
    without = [
        statistic([item for place, item in enumerate(items) if place % num != block])
        for block in range(num)
    ]
    mean = math.fsum(without) / num
    squares = math.fsum((one - mean) ** 2 for one in without)
    return reading(statistic(items), math.sqrt(squares * (num - 1) / num))


def _variance(values: Sequence[float]) -> float:
    """Of one value, from two or more."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _entropy(weights: Iterable[float]) -> float:
    """Shannon entropy in nats of weights that sum to 1."""
    return max(-math.fsum(p * math.log(p) for p in weights if p > 0), 0.0)
