"""What recorded runs say of the monitor: events, halts, leads, baselines, ablations.

A run is {"start": point, "rounds": [point, ...]}; a point has "evaluation/mean_at_k" (held-out
accuracy, which no detector reads), "kl", and "monitor/signals" with "monitor/errors" as
`metrics.jsonl` has them. Every detector is computed from these by pure functions, so that all judge
the same logs.
Leaves out playing runs (`exp_monitor.py`).
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scipy import stats

from critic.monitor.decide import LEVELS
from critic.monitor.replay import COLD_START, replayed
from critic.monitor.settings import GOLD, MonitorSettings
from critic.monitor.state import Level, MonitorState

Run = Mapping[str, object]
Point = Mapping[str, object]
NUM_TASKS, NUM_SAMPLES = 128, 4  # held-out tasks, and samples of each
LOSS = 0.05  # of held-out accuracy, in two checks in a row: the event
# Standard errors by which it must be certain: of runs of 16 checks that stand still at 0.5, 2% have
# an event then (simulated, 400 runs), and 14% without.
CERTAIN = 4.0
NUM_BEST = 4  # a single best reading is mostly luck
HEALTHY_LIMIT = 0.05  # of healthy development runs that a baseline may halt
# No order: it would have changed a run that was recorded without it.
FROZEN = MonitorSettings(offers=())
PATIENT = MonitorSettings(offers=(), sure=1e9)  # no check is sure by itself


# -- one run ------------------------------------------------------------------------------------


def points(run: Run) -> list[Point]:
    """The start, then a point per check."""
    rounds = run["rounds"]
    assert isinstance(rounds, list) and isinstance(run["start"], Mapping)
    return [run["start"], *rounds]


def accuracy(point: Point) -> float:
    """Held-out accuracy."""
    value = point["evaluation/mean_at_k"]
    assert isinstance(value, float | int)
    return float(value)


def event_of(run: Run) -> int | None:
    """The check (0-based) at which the run has collapsed; None where it has not.

    The second in a row at which held-out accuracy is 5 points or more below the best mean of four
    readings in a row so far, of fewer at the start, and their mean is so beyond chance.
    """
    held_out = [accuracy(point) for point in points(run)]
    best, num = held_out[0], NUM_TASKS * NUM_SAMPLES
    for place in range(2, len(held_out)):
        before = held_out[: place - 1]
        means = [
            statistics.fmean(before[max(0, end - NUM_BEST) : end])
            for end in range(1, len(before) + 1)
            if end >= NUM_BEST or end == len(before)
        ]
        best = max(best, *means)
        latest = held_out[place - 1 : place + 1]
        noise = max(best * (1 - best), 1 / num) / num * (1 / 2 + 1 / NUM_BEST)
        lost = best - statistics.fmean(latest)
        if max(latest) <= best - LOSS and lost >= CERTAIN * math.sqrt(noise):
            return place - 1
    return None


def metrics(run: Run) -> Iterator[dict[str, object]]:
    """The run as rows of a `metrics.jsonl`."""
    for place, point in enumerate(points(run)):
        kind = COLD_START if place == 0 else "round"
        yield {"kind": kind, "round": max(place - 1, 0), **point}


@dataclass(frozen=True)
class Judged:
    """The monitor's verdicts on a run.

    Attributes:
        reached: the first check at which it was at a level or beyond it.
        last: its level at the end.
        state: after the last check.
    """

    reached: Mapping[Level, int]
    last: Level
    state: MonitorState


def judge(run: Run, settings: MonitorSettings = FROZEN) -> Judged:
    """Replay the decisions."""
    state, verdicts = replayed(metrics(run), settings)
    reached: dict[Level, int] = {}
    for health in verdicts:
        for level in LEVELS[1 : LEVELS.index(health.state) + 1]:
            reached.setdefault(level, health.check)
    return Judged(reached, verdicts[-1].state, state)


def saved(run: Run, judged: Judged) -> float | None:
    """Held-out accuracy at the last clean check above that at the run's end; None if not halted."""
    if "halt" not in judged.reached:
        return None
    clean = judged.state.last_clean_check
    everything = points(run)
    return accuracy(everything[0 if clean is None else clean + 1]) - accuracy(everything[-1])


# -- baselines ----------------------------------------------------------------------------------


def signal(point: Point, name: str) -> float | None:
    """A signal's value, as a detector that reads nothing again has it."""
    table = read_once(point)["monitor/signals"]
    assert isinstance(table, Mapping)
    value = table.get(name)
    return None if value is None else float(value)


def read_once(point: Point) -> Point:
    """A check as it was first read, where the monitor had the gold tasks sampled again."""
    first = point.get("monitor/first")
    if not isinstance(first, Mapping):
        return point
    both = {}
    for place, key in enumerate(("monitor/signals", "monitor/errors")):
        table = point[key]
        assert isinstance(table, Mapping)
        own = {name: one and one[place] for name, one in first.items()}
        both[key] = {**table, **own}
    return {**point, **both}


def once(run: Run) -> Run:
    """A run as it was first read throughout."""
    start, *rounds = points(run)
    return {"start": start, "rounds": list(map(read_once, rounds))}


def fall_of(name: str) -> Callable[[Run, float], int | None]:
    """Alarms where a signal is below its best by a threshold in two checks in a row."""

    def first(run: Run, threshold: float) -> int | None:
        best, low = None, 0
        for place, point in enumerate(points(run)):
            value = signal(point, name)
            if value is None:
                continue
            low = low + 1 if best is not None and value <= best - threshold else 0
            if low == 2:
                return place - 1
            best = value if best is None else max(best, value)
        return None

    return first


def divergence(run: Run, threshold: float) -> int | None:
    """Alarms where KL(policy || start) is beyond a threshold (nats per token)."""
    for place, point in enumerate(points(run)[1:]):
        value = point.get("kl")
        if isinstance(value, float | int) and value >= threshold:
            return place
    return None


def low_entropy(run: Run, threshold: float) -> int | None:
    """Alarms where token entropy is below a share of its start."""
    start = signal(points(run)[0], "token_entropy")
    for place, point in enumerate(points(run)[1:]):
        value = signal(point, "token_entropy")
        if start and value is not None and value <= threshold * start:
            return place
    return None


@dataclass(frozen=True)
class Baseline:
    """A detector with one threshold, and the thresholds to choose from, the most alert first."""

    first: Callable[[Run, float], int | None]
    grid: Sequence[float]


BASELINES: Mapping[str, Baseline] = {
    "fall of the mean reward": Baseline(
        fall_of("training_reward"), (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    ),
    "KL from the start": Baseline(divergence, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)),
    "token entropy": Baseline(low_entropy, (0.9, 0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)),
    "gold accuracy alone": Baseline(fall_of(GOLD), (0.02, 0.05, 0.08, 0.1, 0.15, 0.2)),
}


def chosen(baseline: Baseline, healthy: Sequence[Run]) -> float:
    """The most alert threshold that halts at most one in twenty healthy development runs."""
    for threshold in baseline.grid:
        false = sum(baseline.first(run, threshold) is not None for run in healthy)
        if false <= HEALTHY_LIMIT * len(healthy):
            return threshold
    return baseline.grid[-1]


# -- tables -------------------------------------------------------------------------------------


@dataclass
class Score:
    """How a detector did.

    Attributes:
        healthy: for each healthy run, whether it was stopped.
        leads: for each run with an event, how many checks before it the detector stopped it;
            None where it did not.
    """

    healthy: list[bool] = field(default_factory=list)
    leads: list[int | None] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Healthy runs stopped; collapses stopped before the event, at all; the median lead."""
        stopped = [lead for lead in self.leads if lead is not None]
        before = sum(lead > 0 for lead in stopped)
        median = f"{statistics.median(stopped):+g}" if stopped else "-"
        return [
            share(sum(self.healthy), len(self.healthy)),
            share(before, len(self.leads)),
            share(len(stopped), len(self.leads)),
            median,
        ]


def share(count: int, num: int) -> str:
    """A share with its exact (Clopper-Pearson) 95% interval."""
    if not num:
        return "-"
    found = stats.binomtest(count, num).proportion_ci(method="exact")
    return f"{count}/{num} = {count / num:.0%} [{found.low:.0%}, {found.high:.0%}]"


def score(runs: Sequence[tuple[bool, Run]], first: Callable[[Run], int | None]) -> Score:
    """Score a detector; runs that are neither healthy by design nor collapsed count nowhere.

    A run that was to stay healthy and did collapse is a collapse: fine-tuning on verified samples
    alone can lose a fifth of its accuracy.

    Args:
        runs: whether each is healthy by design, and the run.
        first: the check at which the detector stops it.
    """
    found = Score()
    for is_healthy, run in runs:
        event, stop = event_of(run), first(run)
        if event is not None:
            found.leads.append(None if stop is None else event - stop)
        elif is_healthy:
            found.healthy.append(stop is not None)
    return found


def detector_table(dev: Sequence[tuple[bool, Run]], fresh: Sequence[tuple[bool, Run]]) -> str:
    """The monitor, its ablations and the baselines on the same fresh runs.

    Args:
        dev: runs on which the baselines' thresholds are chosen; the monitor's are the code's own.
        fresh: the others.
    """
    lines = [
        "| detector | healthy runs stopped | collapses stopped before the event | at all "
        "| median lead (checks) |",
        "|---|---|---|---|---|",
    ]

    def add(name: str, first: Callable[[Run], int | None]) -> None:
        lines.append(f"| {name} | {' | '.join(score(fresh, first).cells())} |")

    for level in LEVELS[:0:-1]:
        add(f"monitor: {level}", lambda run, level=level: judge(run).reached.get(level))
    add("halt without reading again", lambda run: judge(once(run)).reached.get("halt"))
    add("halt without a sure check", lambda run: judge(run, PATIENT).reached.get("halt"))
    healthy = [run for is_healthy, run in dev if is_healthy]
    for name, baseline in BASELINES.items():
        threshold = chosen(baseline, healthy)
        add(
            f"{name} ({threshold:g})",
            lambda run, own=baseline, at=threshold: own.first(run, at),
        )
    for name in FROZEN.active:
        if name != GOLD and FROZEN.rules[name].channel != "critic":
            without = ablated(name)
            add(
                f"halt without {name}",
                lambda run, own=without: judge(run, own).reached.get("halt"),
            )
    return "\n".join(lines)


def ablated(name: str) -> MonitorSettings:
    """The frozen thresholds, one signal unwatched."""
    rule = FROZEN.rules[name].model_copy(update={"watched": False})
    return MonitorSettings(offers=(), rules={**FROZEN.rules, name: rule})


def arm_table(arms: Mapping[str, Sequence[Run]]) -> str:
    """Each arm: how many collapsed, what the monitor said, how early, and what it saved."""
    lines = [
        "| arm | runs | start | end | collapsed | warn at the end | intervened | halted "
        "| halt before the event | lead: warn, halt | accuracy saved |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in arms.items():
        judged, events = [judge(run) for run in runs], [event_of(run) for run in runs]
        num = len(runs)
        start = statistics.fmean(accuracy(points(run)[0]) for run in runs)
        end = statistics.fmean(accuracy(points(run)[-1]) for run in runs)
        collapsed = [(e, j.reached) for e, j in zip(events, judged, strict=True) if e is not None]
        leads = [
            _median([e - reached[level] for e, reached in collapsed if level in reached])
            for level in ("warn", "halt")
        ]
        before = sum("halt" in reached and reached["halt"] < e for e, reached in collapsed)
        kept = [s for run, j in zip(runs, judged, strict=True) if (s := saved(run, j)) is not None]
        cells = [
            str(num), f"{start:.2f}", f"{end:.2f}", share(len(collapsed), num),
            share(sum(one.last == "warn" for one in judged), num),
            share(sum("intervene" in one.reached for one in judged), num),
            share(sum("halt" in one.reached for one in judged), num),
            share(before, len(collapsed)), ", ".join(leads),
            f"{statistics.fmean(kept):+.2f}" if kept else "-",
        ]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _median(values: Sequence[int]) -> str:
    return f"{statistics.median(values):+g}" if values else "-"
