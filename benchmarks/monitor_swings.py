"""How far does gold accuracy swing from check to check, and how often was it read again?

    python benchmarks/monitor_swings.py benchmarks/results/monitor*.json

The second difference of three readings in a row has six times their variance, and a trend adds none
to it: what is beyond the variance that their errors state is the policy's own. Readings are the
first ones, which nothing selected. Leaves out runs that collapse, whose kink is no swing.
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from exp_monitor import ARMS
from monitor_tables import Point, event_of, once, points

from critic.monitor.settings import GOLD


def bends(run: Mapping[str, object]) -> list[float]:
    """What each three readings in a row show of a variance beyond their noise."""
    found = [reading(point) for point in points(once(run))]
    return [
        ((a - 2 * b + c) ** 2 - (ea**2 + 4 * eb**2 + ec**2)) / 6
        for (a, ea), (b, eb), (c, ec) in zip(found, found[1:], found[2:], strict=False)
    ]


def reading(point: Point) -> tuple[float, float]:
    """Gold accuracy and its error."""
    tables = [point[f"monitor/{name}"] for name in ("signals", "errors")]
    value, error = (float(table[GOLD]) for table in tables if isinstance(table, Mapping))
    return value, error


def in_points(variance: float) -> str:
    """A standard deviation in points; of a variance below 0, which noise makes, 0."""
    return f"{100 * math.sqrt(max(variance, 0.0)):.1f}"


def table(runs: Mapping[str, Sequence[Mapping[str, object]]]) -> str:
    """An arm in a row; the interval is 1.96 standard errors of the mean variance to both sides."""
    lines = ["| arm | runs | swing (points, 95%) | checks read again |", "|---|---|---|---|"]
    for arm, own in runs.items():
        found = [one for run in own for one in bends(run)]
        mean = statistics.fmean(found)
        error = 1.96 * statistics.stdev(found) / math.sqrt(len(found))
        checks = [point for run in own for point in points(run)[1:]]
        again = sum("monitor/first" in point for point in checks)
        swing = f"{in_points(mean)} [{in_points(mean - error)}, {in_points(mean + error)}]"
        lines.append(f"| {arm} | {len(own)} | {swing} | {again} of {len(checks)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="results of exp_monitor.py")
    runs = defaultdict[str, list[Mapping[str, object]]](list)
    for file in parser.parse_args().files:
        for name, run in json.loads(file.read_text())["results"].items():
            arm = name.split("/")[1]
            if ARMS[arm].kind == "healthy" or event_of(run) is None:
                runs[arm].append(run)
    print(table(runs))


if __name__ == "__main__":
    main()
