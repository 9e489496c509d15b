"""Probes of several sizes on simulated policies: samples, signals, errors and the decision."""

import math
import random
from collections import Counter
from collections.abc import Callable

import pytest

from critic.monitor.calibrate import outcome
from critic.monitor.decide import Readings, begin, check
from critic.monitor.settings import GOLD, MonitorSettings
from critic.monitor.signals import (
    answer_entropies,
    distinct_ratio,
    effective_groups,
    mean_of_fixed,
    mean_of_fresh,
    share_of_fixed,
)

NUM_RUNS, NUM_CHECKS = 25, 20
Path = Callable[[int], float]  # the share of right answers at a check; -1 is the cold start


def still(share: float) -> Path:
    """A policy that does not change."""
    return lambda check: share


def learns(end: float) -> Path:
    """A policy that is right in 4% at first, and stays where it ends."""
    return lambda check: 0.04 + (end - 0.04) / (1 + math.exp((6 - check) / 1.2))


@pytest.mark.parametrize(("num_tasks", "num_samples"), [(4, 2), (8, 4), (32, 4)])
@pytest.mark.parametrize(
    "path",
    [still(0.05), still(0.5), still(0.95), learns(0.3), learns(0.95)],
    ids=["still at 5%", "still at 50%", "still at 95%", "learns 30%", "learns 95%"],
)
def test_a_healthy_policy_is_left_alone_by_a_probe_of_any_size(
    num_tasks: int, num_samples: int, path: Path
) -> None:
    """With 4 tasks by 2 samples the first version halted 89% of policies that stood still."""
    counts = Counter[str]()
    for seed in range(NUM_RUNS):
        rng, settings = random.Random(seed), MonitorSettings()
        hardness = [rng.gauss(0, 1) for _ in range(num_tasks)]

        def probed(check: int, rng: random.Random = rng, hard: list[float] = hardness) -> Readings:
            return readings(path(check), hard, num_samples, rng)

        state, verdicts = begin(probed(-1), settings), []
        for number in range(NUM_CHECKS):
            state, health = check(state, probed(number), settings)
            verdicts.append(health)
        counts += outcome(verdicts)
    assert counts["intervened or halted"] <= 2 and counts["halted"] == 0, counts
    assert counts["warn at the end"] <= 2, counts


@pytest.mark.parametrize("seed", range(5))
def test_a_policy_that_becomes_sure_of_one_answer_is_halted(seed: int) -> None:
    """The answer of one task to all of them, by the probe's real readings."""
    rng, settings = random.Random(seed), MonitorSettings()
    hardness = [rng.gauss(0, 1) for _ in range(32)]
    state = begin(readings(0.5, hardness, 4, rng), settings)
    for _ in range(6):
        state, health = check(state, readings(0.5, hardness, 4, rng), settings)
        assert not health.halted
    for _ in range(4):
        state, health = check(state, readings(0.02, hardness, 4, rng, sure=True), settings)
    assert health.halted


def readings(
    share: float, hardness: list[float], num_samples: int, rng: random.Random, sure: bool = False
) -> Readings:
    """What a probe reads of a policy; the better it is, the fewer wrong answers it knows."""
    logit = math.log(share / (1 - share))
    chances = [1 / (1 + math.exp(-(logit + hard))) for hard in hardness]
    said = [
        [_answer(task, chance, share, sure, rng) for _ in range(num_samples)]
        for task, chance in enumerate(chances)
    ]
    right = [[one == f"right {t}" for one in group] for t, group in enumerate(said)]
    entropy = 0.02 if sure else 0.03 + 0.4 * (1 - share)
    return {
        **answer_entropies(said),
        "token_entropy": mean_of_fixed(
            [[entropy * rng.uniform(0.5, 1.5) for _ in g] for g in said]
        ),
        "distinct_ratio": distinct_ratio([[f"{t}: {a}" for a in g] for t, g in enumerate(said)]),
        "effective_groups": effective_groups(right),
        GOLD: share_of_fixed(right),
        "gold_form": share_of_fixed([[rng.random() < 0.95 for _ in group] for group in said]),
        "training_reward": mean_of_fresh(
            [[float(rng.random() < p) for _ in range(8)] for p in rng.choices(chances, k=16)]
        ),
    }


def _answer(task: int, chance: float, share: float, sure: bool, rng: random.Random) -> str:
    if rng.random() < chance:
        return f"right {task}"
    return "7" if sure else str(int(rng.expovariate(1 / (0.3 + 6 * (1 - share)))))
