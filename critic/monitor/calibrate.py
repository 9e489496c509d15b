"""How often is a healthy run alarmed, and how often is a fall seen? By simulation, no model.

    python -m critic.monitor.calibrate [--runs 400] [--checks 40] [--helpless | --guard]
                                       [--tasks 64] [--swing 0]

Three kinds of healthy run, whose readings vary by exactly the errors that they state: one that does
not move at all, one that learns and then stays, and one that stands at its end from the start. A
fall is a run that does not move, and then is worse by some points of gold accuracy at every check;
a decline goes on falling, and what counts is how long after a collapse by the proof's definition
the monitor acts.
Leaves out real runs, whose policies move in more ways than noise and a swing from check to check.
"""

import argparse
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from critic.monitor.decide import begin, check, wants_more
from critic.monitor.readings import NUM_START, Reading, pooled, settled
from critic.monitor.settings import DEFAULT_RULES, FOREIGN_SWING, GOLD, MonitorSettings
from critic.monitor.state import Health
from critic.value_drop import share_interval

Means = Mapping[str, float]
Leader = Literal["novelty", "reward"]  # what moves three checks before gold accuracy does
# A run before training, and the same when it has learned; the errors are those of 64 tasks by 4.
BEFORE: Means = {
    "token_entropy": 0.40,
    "answer_entropy_within": 1.20,
    "mutual_information": 2.80,
    "distinct_ratio": 0.95,
    "effective_groups": 0.40,
    GOLD: 0.20,
    "gold_form": 0.95,
    "gold_nll": 0.40,
    "training_reward": 0.20,
    "critic_false_accusations": 0.20,
    "critic_location": 0.70,
    "critic_brier": 0.15,
    "critic_bias": 0.05,
}
AFTER: Means = {
    **BEFORE,
    "token_entropy": 0.04,
    "answer_entropy_within": 0.30,
    "mutual_information": 3.20,
    "distinct_ratio": 0.25,
    "effective_groups": 0.30,
    GOLD: 0.90,
    "gold_nll": 0.02,
    "training_reward": 0.90,
}
ERRORS: Means = {
    "token_entropy": 0.02,
    "answer_entropy_within": 0.05,
    "mutual_information": 0.08,
    "distinct_ratio": 0.02,
    "effective_groups": 0.06,
    GOLD: 0.025,
    "gold_form": 0.015,
    "gold_nll": 0.03,
    "training_reward": 0.04,
    "critic_false_accusations": 0.05,
    "critic_location": 0.05,
    "critic_brier": 0.03,
    "critic_bias": 0.05,
}
SAMPLED = (  # what the gold tasks' own samples show, and show anew where they are sampled again
    "token_entropy", "answer_entropy_within", "mutual_information", "distinct_ratio",
    "effective_groups", GOLD, "gold_form",
)  # fmt: skip


def along(share: float) -> Means:
    """The means of a run that has learned so much of what there is, 0 to 1."""
    return {name: BEFORE[name] + share * (AFTER[name] - BEFORE[name]) for name in BEFORE}


HEALTHY: Mapping[str, Callable[[int], Means]] = {
    "stationary": lambda check: BEFORE,
    "learning, then a plateau": lambda check: along(1 / (1 + math.exp(4 - check))),
    "converged": lambda check: AFTER,
}


def noisy(means: Means, rng: random.Random, size: float = 1.0) -> dict[str, Reading | None]:
    """One check's readings: each mean with its own error's noise, the gold tasks' times `size`."""
    found: dict[str, Reading | None] = {}
    for name, mean in means.items():
        error = ERRORS[name] * (size if name in (*SAMPLED, "gold_nll") else 1.0)
        found[name] = Reading(value=mean + rng.gauss(0, error), error=error)
    return found


def simulate(
    path: Callable[[int], Means],
    num_checks: int,
    seed: int | str,
    settings: MonitorSettings,
    size: float = 1.0,
    swing: float = 0.0,
) -> list[Health]:
    """The verdicts on one run whose means are a function of the check; -1 is the cold start.

    Paths of one seed share their noise: give each kind of run seeds of its own.

    Args:
        path: the means.
        num_checks: of the run.
        seed: of its noise.
        settings: thresholds.
        size: of the gold tasks' noise, as a share of that of 64 tasks by 4 samples.
        swing: standard deviation by which gold accuracy moves at every check, noise aside.
    """
    rng = random.Random(seed)
    start = pooled([noisy(path(-1), rng, size) for _ in range(NUM_START)])
    state, verdicts = begin(start, settings), []
    for number in range(num_checks):
        means = dict(path(number))
        means[GOLD] += rng.gauss(0, swing) if swing else 0.0
        readings = noisy(means, rng, size)
        if settings.reads_again and wants_more(state, readings, settings):
            again = {name: means[name] for name in SAMPLED}
            fresh = [noisy(again, rng, size) for _ in range(settings.reads_again)]
            readings = settled(readings, fresh)
        state, health = check(state, readings, settings)
        verdicts.append(health)
    return verdicts


def falls(fall: float) -> Callable[[int], Means]:
    """A run that does not move, and then is worse by some gold accuracy from check 5 on."""
    base = {**BEFORE, GOLD: 0.5}
    return lambda check: {**base, GOLD: 0.5 - fall} if check >= 5 else base


def decline(slope: float, led_by: Leader | None = None) -> Callable[[int], Means]:
    """A run that stands still, and from check 5 on loses so much gold accuracy at every check.

    Args:
        slope: what is lost per check.
        led_by: what moves from check 2 on: four tenths of novelty are lost at every check, or the
            training reward rises by 8 points at every check.
    """
    base = {**BEFORE, GOLD: 0.6, "training_reward": 0.6}
    novel = [name for name, rule in DEFAULT_RULES.items() if rule.channel == "N" and name in base]

    def path(check: int) -> Means:
        led, past = max(check - 1, 0), max(check - 4, 0)
        moved = {}
        if led_by == "novelty":
            moved = {name: base[name] * 0.6**led for name in novel}
        elif led_by == "reward":
            moved = {"training_reward": min(base["training_reward"] + 0.08 * led, 1.0)}
        return {**base, **moved, GOLD: max(base[GOLD] - slope * past, 0.0)}

    return path


def delays(
    slope: float,
    led_by: Leader | None,
    num_runs: int,
    settings: MonitorSettings,
    size: float = 1.0,
    swing: float = 0.0,
) -> dict[str, list[int]]:
    """How many checks after the second one that is 5 points lower a level is first reached.

    Returns:
        For "intervene" and "halt" the delays of the runs that came there within 24 checks.
    """
    found: dict[str, list[int]] = {"intervene": [], "halt": []}
    event = 5 + math.ceil(0.05 / slope - 1e-9)  # the second check whose true loss is 5 points
    for seed in range(num_runs):
        path, named = decline(slope, led_by), f"{slope}/{led_by}/{seed}"
        verdicts = simulate(path, 24, named, settings, size, swing)
        for level, reached in found.items():
            reached += [h.check - event for h in verdicts if h.state in (level, "halt")][:1]
    return found


def outcome(verdicts: list[Health]) -> Counter[str]:
    """What one run counts for: warned at its end, ever intervened, halted."""
    found = {
        "warn at the end": verdicts[-1].state == "warn",
        "intervened or halted": any(h.state in ("intervene", "halt") for h in verdicts),
        "halted": verdicts[-1].halted,
    }
    return Counter(name for name, happened in found.items() if happened)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--checks", type=int, default=40)
    parser.add_argument(
        "--helpless", action="store_true", help="with monitor.offers = [], as without a critic"
    )
    parser.add_argument(
        "--guard", action="store_true", help="the same, and the swing that a foreign run may have"
    )
    parser.add_argument("--tasks", type=int, default=64, help="gold tasks, of 4 samples each")
    parser.add_argument(
        "--swing", type=float, default=0.0, help="of gold accuracy from check to check, noise aside"
    )
    options = parser.parse_args()
    size, swing = math.sqrt(64 / options.tasks), options.swing
    settings = MonitorSettings(offers=()) if options.helpless else MonitorSettings()
    if options.guard:
        settings = MonitorSettings(offers=(), swing=FOREIGN_SWING)
    for name, path in HEALTHY.items():
        counts = Counter[str]()
        for seed in range(options.runs):
            counts += outcome(
                simulate(path, options.checks, f"{name}/{seed}", settings, size, swing)
            )
        for what in ("warn at the end", "intervened or halted", "halted"):
            low, high = share_interval(counts[what], options.runs)
            share = f"{counts[what] / options.runs:.1%} [{low:.1%}, {high:.1%}]"
            print(f"{name:<26}{what:<22}{share}")
    for fall in (0.05, 0.08, 0.10, 0.12, 0.15, 0.20):
        seen = sum(
            any(h.channels for h in simulate(falls(fall), 8, seed, settings, size, swing))
            for seed in range(options.runs)
        )
        print(
            f"a fall of {fall:.0%} of gold accuracy, confirmed within 3 checks: "
            f"{seen / options.runs:.0%}"
        )
    num_runs = min(options.runs, 100)
    for led_by in (None, *get_args(Leader)):
        for slope in (0.01, 0.02, 0.04, 0.08, 0.16, 0.40):
            found = delays(slope, led_by, num_runs, settings, size, swing)
            said = [
                f"{what} {statistics.median(own):+g} ({len(own) / num_runs:.0%})"
                for what, own in found.items()
                if own
            ]
            before = sum(delay < 0 for delay in found["halt"]) / num_runs
            print(
                f"{slope:.0%} of gold accuracy lost per check, led by {led_by or 'nothing'}; "
                f"checks after it is 5 points lower twice: {', '.join(said)}, {before:.0%} before"
            )


if __name__ == "__main__":
    main()
