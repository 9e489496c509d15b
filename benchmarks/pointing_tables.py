"""The tables of `exp_pointing.py`: what each arm reached at which cost, and its critic."""

import math
import statistics
from collections.abc import Mapping, Sequence

from harness import mean_interval, shown

from pipelines.run.round_log import number

SWEPT_SEEDS = (100, 101)  # others than those of the comparison
NUM_BASES = 2  # cold starts, which the seeds take turns in using
GOALS = (0.5, 0.8)  # held-out accuracies


def accuracy(point: Mapping[str, object]) -> float:
    """Held-out mean@k of a round."""
    return number(point, "probe/mean_at_k")


def table(results: Mapping[str, Mapping]) -> str:
    """Arms as rows: held-out accuracy over seeds, what it cost, and how soon it was reached.

    The last three columns are steps, thousand tokens and seconds until an arm first stood where
    the family's verifier-only arm ended, by the mean of three rounds; the mean over the seeds that
    came there, with their number. Verifier-only plays twice as many rounds as the others: its half
    way is their end.
    """
    groups: dict[tuple[str, str, str, str], list[Mapping]] = {}
    for name, found in results.items():
        family, arm, rate, seed = name.split("/")
        stage = "sweep" if int(seed) in SWEPT_SEEDS else "run"
        if found["rounds"]:
            groups.setdefault((stage, family, arm, rate), []).append(found)
    lines = [
        "| arm | rate | seeds | start | half way | end | tokens (thousand) | seconds "
        "| to verifier-only's end: steps | tokens | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (stage, family, arm, rate), runs in groups.items():
        rounds = [run["rounds"] for run in runs]
        start = [run["before"]["figures"]["mean_at_k"] for run in runs]
        half = [accuracy(each[(len(each) - 1) // 2]) for each in rounds]
        cells = [shown(start), shown(half), shown([accuracy(each[-1]) for each in rounds])]
        cells += [plain([tokens(each[-1]) / 1000 for each in rounds])]
        cells += [plain([seconds(each[-1]) for each in rounds])]
        goals = [
            statistics.fmean(accuracy(run["rounds"][-1]) for run in found)
            for (when, kind, who, _), found in groups.items()
            if (when, kind, who) == (stage, family, "verifier") and stage == "run"
        ]
        reached = [place for each in rounds for place in first_at(each, goals)]
        cells += [plain([point["steps"] for point in reached]) + f" ({len(reached)})"]
        cells += [plain([tokens(point) / 1000 for point in reached])]
        cells += [plain([seconds(point) for point in reached])]
        name = f"{'sweep: ' if stage == 'sweep' else ''}{family}: {arm}"
        lines.append(f"| {name} | {rate} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def reach_table(results: Mapping[str, Mapping]) -> str:
    """When each deciding arm first stood at an accuracy, by the mean of two rounds, over its seeds.

    The share is of what verifier-only took, a geometric mean over the seeds that both reached it
    with, and behind it that of each cold start's seeds: an interval over seeds says nothing of
    other cold starts. A seed that did not reach it counts in none.
    """
    lines = [
        "| arm | accuracy | seeds that reached it | steps | tokens (thousand) | seconds "
        "| of verifier-only's: steps | tokens | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    runs: dict[tuple[str, str], dict[int, Mapping]] = {}
    for name, found in results.items():
        family, arm, _, seed = name.split("/")
        if int(seed) not in SWEPT_SEEDS and found["rounds"]:
            runs.setdefault((family, arm), {})[int(seed)] = found
    for (family, arm), by_seed in runs.items():
        for goal in GOALS:
            reached = {seed: reach(run["rounds"], goal) for seed, run in by_seed.items()}
            alone = {
                seed: reach(run["rounds"], goal)
                for seed, run in runs.get((family, "verifier"), {}).items()
            }
            own = [cost for cost in reached.values() if cost]
            pairs = [(s, c, theirs) for s, c in reached.items() if c and (theirs := alone.get(s))]
            cells = [plain([cost[kind] for cost in own]) for kind in range(3)]
            ratios = [
                geometric([(seed, ours[kind] / theirs[kind]) for seed, ours, theirs in pairs])
                for kind in range(3)
            ]
            lines.append(
                f"| {family}: {arm} | {goal} | {len(own)} of {len(by_seed)} "
                f"| {' | '.join(cells)} | {' | '.join(ratios)} |"
            )
    return "\n".join(lines)


def equal_table(results: Mapping[str, Mapping]) -> str:
    """Verifier-only where each arm ended: at as many steps, tokens, seconds, by its last round."""
    lines = [
        "| arm | seeds | it ends at | verifier-only at as many steps | tokens | seconds |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[str]] = {}
    for name in results:
        family, arm, _, seed = name.split("/")
        if int(seed) not in SWEPT_SEEDS and results[name]["rounds"]:
            groups.setdefault((family, arm), []).append(name)
    for (family, arm), names in groups.items():
        if arm == "verifier":
            continue
        alone = {
            name.split("/")[-1]: results[name] for name in groups.get((family, "verifier"), [])
        }
        pairs = [
            (results[name]["rounds"], alone[seed]["rounds"])
            for name in names
            if (seed := name.split("/")[-1]) in alone
        ]
        if not pairs:
            continue
        cells = [shown([accuracy(ours[-1]) for ours, _ in pairs])]
        for costs in (step_counts, token_counts, second_counts):
            ends = [
                [
                    p
                    for p, cost in zip(theirs, costs(theirs), strict=True)
                    if cost <= costs(ours)[-1]
                ]
                for ours, theirs in pairs
            ]
            cells += [shown([accuracy(points[-1]) for points in ends])]
        lines.append(f"| {family}: {arm} | {len(pairs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def step_counts(rounds: Sequence[Mapping]) -> list[float]:
    """The learner's optimizer steps after each round."""
    return [5.0 * (place + 1) for place in range(len(rounds))]


def token_counts(rounds: Sequence[Mapping]) -> list[float]:
    """Tokens generated after each round."""
    return [tokens(point) for point in rounds]


def second_counts(rounds: Sequence[Mapping]) -> list[float]:
    """Seconds after each round."""
    return [seconds(point) for point in rounds]


def reach(rounds: Sequence[Mapping], goal: float) -> tuple[float, float, float] | None:
    """Steps, thousand tokens and seconds until two rounds' mean stands at an accuracy."""
    for place, point in enumerate(rounds):
        if statistics.fmean(map(accuracy, rounds[max(0, place - 1) : place + 1])) >= goal:
            return 5.0 * (place + 1), tokens(point) / 1000, seconds(point)
    return None


def geometric(ratios: Sequence[tuple[int, float]]) -> str:
    """Geometric mean of the seeds' ratios with its 95% t interval; then of each cold start's."""
    if not ratios:
        return "-"
    if len(ratios) == 1:
        return f"{ratios[0][1]:.2f} (1 seed)"
    found = mean_interval([math.log(ratio) for _, ratio in ratios])
    mean, low, high = (math.exp(found[name]) for name in ("mean", "low", "high"))
    by_base = [[r for seed, r in ratios if seed % NUM_BASES == base] for base in range(NUM_BASES)]
    each = ", ".join(f"{statistics.geometric_mean(own):.2f}" for own in by_base if own)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]; {each}"


def critic_table(results: Mapping[str, Mapping]) -> str:
    """How good each arm's critic stays: the worst round of the worst seed, and what changed.

    Located: of the round's failed solutions that the critic judged, the share whose first flaw it
    names first; by kind, of those kinds that make up a tenth of the mistakes and have ten of them.
    The other figures are of the fixed audit; a seed is worse where the paired interval says so.
    The goals: located within 0.15 of the run's start, no such kind below 0.4, at most 5% accused.
    """
    lines = [
        "| arm | seeds | located: first round | least | least by kind | sound accused, most "
        "| AUROC, Brier, false accusations worse | rounds that miss a goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Mapping]] = {}
    for name, found in results.items():
        family, arm, _, seed = name.split("/")
        if int(seed) not in SWEPT_SEEDS and "change" in found:
            groups.setdefault((family, arm), []).append(found)
    for (family, arm), runs in groups.items():
        rounds = [point for run in runs for point in run["rounds"] if "pointing/located" in point]
        if not rounds:
            continue
        first = [run["rounds"][0].get("pointing/located", math.nan) for run in runs]
        by_kind = [kind for point in rounds for kind in often(point)]
        accused = [number(p, "critic/false_accusations") for run in runs for p in run["rounds"]]
        cells = [f"{statistics.fmean(first):.2f}"]
        cells += [f"{min(number(point, 'pointing/located') for point in rounds):.2f}"]
        cells += [f"{min(by_kind):.2f}" if by_kind else "-", f"{max(accused):.1%}"]
        worse = [
            sum(run["change"][name]["verdict"] == "worse" for run in runs)
            for name in ("auroc", "brier", "false_accusations")
        ]
        cells += [", ".join(map(str, worse)), missed(runs)]
        lines.append(f"| {family}: {arm} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def missed(runs: Sequence[Mapping]) -> str:
    """Rounds that located 0.15 less than their run's first, had a blind kind, accused over 5%."""
    low = blind = accused = num = 0
    for run in runs:
        start = number(run["rounds"][0], "pointing/located")
        for point in run["rounds"]:
            num += 1
            low += number(point, "pointing/located") < start - 0.15
            blind += any(share < 0.4 for share in often(point))
            accused += number(point, "critic/false_accusations") > 0.05
    return f"{low}, {blind}, {accused} of {num}"


def often(point: Mapping) -> list[float]:
    """The located share of each frequent kind of mistake in a round."""
    kinds, failed = point.get("pointing/kinds", {}), point["pointing/failed"]
    return [
        kind["located"] for kind in kinds.values()
        if "located" in kind and kind["share"] >= 0.1 and kind["share"] * failed >= 10
    ]  # fmt: skip


def first_at(rounds: Sequence[Mapping], goals: Sequence[float]) -> list[dict]:
    """The first round whose accuracy, over it and the two before, is at a goal; nothing if none."""
    for goal in goals:
        for place, point in enumerate(rounds):
            last = rounds[max(0, place - 2) : place + 1]
            if statistics.fmean(map(accuracy, last)) >= goal:
                return [{**point, "steps": 5 * (place + 1)}]
    return []


def tokens(point: Mapping[str, object]) -> float:
    """Every token generated for training so far, the critic's and the continuations included."""
    return math.fsum(number(point, name) for name in point if name.startswith("tokens/"))


def seconds(point: Mapping[str, object]) -> float:
    """What was spent on training so far: examinations, which only measure, are left out."""
    return number(point, "train/seconds")


def plain(values: Sequence[float]) -> str:
    """The mean, or a dash."""
    return f"{statistics.fmean(values):.0f}" if values else "-"
