"""What recorded runs say of the entropy law (`critic/monitor/entropy_law.py`)."""

import statistics
from collections.abc import Mapping, Sequence

from monitor_tables import Run, metrics, share

from critic.monitor.entropy_law import foretell, points_of


def law_table(arms: Mapping[str, Sequence[Run]]) -> str:
    """How often the entropy law of a run's early checks foretold the rest."""
    lines = [
        "| arm | laws | ceiling kept | end within 5 points of it | of the law at the end's entropy "
        "| end above the ceiling, mean |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in arms.items():
        found = [one for run in runs if (one := foretell(points_of(metrics(run)))) is not None]
        num = len(found)
        if not num:
            continue
        above = statistics.fmean(one.end - one.law.ceiling for one in found)
        counts = [
            sum(getattr(one, what) for one in found) for what in ("kept", "reached", "followed")
        ]
        cells = [f"{num} of {len(runs)}", *(share(count, num) for count in counts), f"{above:+.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
