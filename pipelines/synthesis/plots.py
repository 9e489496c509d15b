"""`sparring-data stats --html --png`: a data set's figures, as one page or one picture.

    records ──► plots ──┬─► page(HTML), drawn by `report/svg.py`
                        └─► picture(PNG), drawn by matplotlib from the same charts

Leaves out the counts in words (`synthesis/inspect.py`). Imports matplotlib only for a picture.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from data.atomic import write_bytes_atomic, write_text_atomic
from data.dataset_folder import SURPLUS, Reader
from data.errors import as_user_error
from data.records import Record
from pipelines.report.page import page
from pipelines.report.style import LIGHT
from pipelines.report.svg import Bars, Chart, Line, hatches

NUM_BINS = 20
MAX_REASONS = 8
# What a sample passes, in order, and the reasons of rejection that begin so.
STAGES: Mapping[str, tuple[str, ...]] = {
    "formed": ("malformed",), "right": ("verifier",), "unflawed": ("critic", "continues"),
    "new": ("duplicate", "near_duplicate"), "clean": ("contaminated",), "kept": (),
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """One chart with its title, and what it shows in words."""

    title: str
    said: str
    chart: Chart


def plots(reader: Reader) -> list[Plot]:
    """Every figure of a data set, in the order of the page."""
    records = list(reader.records())
    return [
        _by_stage(records), _by_reason(records), _pass_rates(records), _lengths(records),
        _diversity(records),
    ]  # fmt: skip


def write_page(plots: Sequence[Plot], found: Mapping[str, object], title: str, out: Path) -> None:
    """Write the figures and the statistics as one page that asks nothing of the network.

    Raises:
        UserError: the file cannot be written.
    """
    cards = "".join(
        f'<section class="card"><h3>{escape(one.title)}</h3>'
        f'<p class="small muted">{escape(one.said)}</p>{one.chart.html(one.title)}</section>'
        for one in plots
    )
    counts = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{escape(_shown(value))}</td></tr>'
        for name, value in _flat(found)
    )
    sections = (
        hatches(), f"<h1>{escape(title)}</h1>", f'<div class="grid">{cards}</div>',
        f'<h2>Counts</h2><div class="card scroll"><table>{counts}</table></div>',
    )  # fmt: skip
    with as_user_error(f"--html {out}", OSError):
        write_text_atomic(out, page(title, sections))


def write_picture(plots: Sequence[Plot], title: str, out: Path) -> None:
    """Write the figures as one PNG.

    Raises:
        UserError: the file cannot be written.
    """
    from io import BytesIO

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_rows = math.ceil(len(plots) / 2)
    figure = Figure(figsize=(11, 3.4 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for number, one in enumerate(plots, start=1):
        axes, chart = figure.add_subplot(num_rows, 2, number), one.chart
        floor: dict[float, float] = defaultdict(float)
        for bars in chart.bars:
            xs = [x for x, _ in bars.values]
            colour, below = LIGHT[bars.look % len(LIGHT)], [floor[x] for x in xs]
            heights = [height for _, height in bars.values]
            axes.bar(xs, heights, 0.72, bottom=below, color=colour, label=bars.name)
            for x, height in bars.values:
                floor[x] += height
        for line in chart.lines:
            colour = LIGHT[line.look % len(LIGHT)]
            xs, ys = zip(*line.points, strict=True) if line.points else ((), ())
            axes.plot(xs, ys, color=colour, label=line.name, marker=".")
        axes.set(title=one.title, xlabel=chart.x_name, ylabel=chart.label, xlim=chart.x)
        shown = [n for n, name in enumerate(chart.names) if name]
        if shown:
            axes.set_xticks(shown, [chart.names[n] for n in shown])
        if chart.bars or chart.lines:
            axes.legend(fontsize=8, loc="upper right")
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    with as_user_error(f"--png {out}", OSError):
        write_bytes_atomic(out, drawn.getvalue())


def _by_stage(records: Sequence[Record]) -> Plot:
    left, counts = len(records), [len(records)]
    by_stage = Counter(map(_stage, records))
    for stage in STAGES:
        left -= by_stage[stage]
        counts.append(left)
    names = ("drawn", *STAGES)
    bars = [Bars("samples", list(enumerate(map(float, counts))), 0)]
    chart = Chart("samples", (-0.5, len(names) - 0.5), (0, None), bars=bars)
    chart.x_name, chart.names = "after the gate", names
    said = f"Of {counts[0]} samples {counts[-1]} were good; what was accepted beyond --num is, too."
    return Plot("Acceptance by stage", said, chart)


def _stage(record: Record) -> str:
    """The gate that a sample did not pass; "" for none."""
    reason = record.reject_reason
    if record.accepted or reason == SURPLUS:
        return ""
    return next((stage for stage, begins in STAGES.items() if reason.startswith(begins)), "kept")


def _by_reason(records: Sequence[Record]) -> Plot:
    counts = Counter(record.reject_reason for record in records if not record.accepted)
    shown = counts.most_common(MAX_REASONS)
    rest = counts.total() - sum(num for _, num in shown)
    shown += [("others", rest)] if rest else []
    bars = [Bars(f"{n + 1}: {reason}", [(float(n), float(num))], n)
            for n, (reason, num) in enumerate(shown)]  # fmt: skip
    names = [str(n + 1) for n in range(len(shown))]
    chart = Chart("samples", (-0.5, max(len(shown), 1) - 0.5), (0, None), bars=bars,
                  x_name="reason", names=names)  # fmt: skip
    return Plot("Rejected, by reason", f"{counts.total()} samples were rejected.", chart)


def _pass_rates(records: Sequence[Record]) -> Plot:
    """One count per problem, apart for those of which a solution was accepted."""
    rates = {r.task_id: r.pass_rate for r in records if r.pass_rate is not None}
    kept = {record.task_id for record in records if record.accepted}
    counts = Counter((round(10 * rate), task in kept) for task, rate in rates.items())
    bars = [
        Bars(name, [(float(tenth), float(counts[tenth, good])) for tenth in range(11)], look)
        for name, good, look in (("accepted from", True, 2), ("none accepted", False, 1))
    ]
    names = [f"{tenth / 10:g}" for tenth in range(11)]
    chart = Chart("problems", (-0.5, 10.5), (0, None), bars=bars, names=names)
    chart.x_name = "share of passed solutions"
    mean = f", {sum(rates.values()) / len(rates):.3f} in the mean" if rates else ""
    return Plot("Pass rates", f"Of {len(rates)} problems{mean}.", chart)


def _lengths(records: Sequence[Record]) -> Plot:
    longest = max((len(record.solution) for record in records), default=1)
    width = max(1, math.ceil((longest + 1) / NUM_BINS))
    counts = Counter((len(record.solution) // width, record.accepted) for record in records)
    num = longest // width + 1
    bars = [
        Bars(name, [(float(n), float(counts[n, good])) for n in range(num)], look)
        for name, good, look in (("accepted", True, 2), ("rejected", False, 1))
    ]
    names = [str(n * width) if n % 4 == 0 else "" for n in range(num)]
    chart = Chart("samples", (-0.5, num - 0.5), (0, None), bars=bars, names=names,
                  x_name=f"characters, from; {width} per bar")  # fmt: skip
    return Plot("Lengths of solutions", f"The longest has {longest} characters.", chart)


def _diversity(records: Sequence[Record]) -> Plot:
    """Batch by batch: the share kept, and how much of what was kept is new."""
    batches = defaultdict[int, list[Record]](list)
    for record in records:
        batches[record.round].append(record)
    tasks, pairs = set[str](), set[tuple[str, str]]()
    kept_share, new_tasks, new_pairs = [], [], []
    for number, batch in sorted(batches.items()):
        kept = [record for record in batch if record.accepted]
        kept_share.append((float(number), len(kept) / len(batch)))
        if not kept:
            continue
        said = [pair for record in kept for pair in _pairs(record.solution)]
        fresh = {record.task_id for record in kept} - tasks
        new_tasks.append((float(number), len(fresh) / len(kept)))
        if said:
            new_pairs.append((float(number), len(set(said) - pairs) / len(said)))
        tasks |= fresh
        pairs.update(said)
    lines = [
        Line("accepted of the samples", kept_share, 0, dots=False),
        Line("problems not accepted from before, of the accepted", new_tasks, 2, dots=False),
        Line("word pairs not seen before, of the accepted", new_pairs, 3, dots=False),
    ]
    ends = (float(min(batches, default=0)), float(max(batches, default=1)))
    chart = Chart("share", ends, (0, 1), lines=lines, percent=True, x_name="batch")
    num = sum(record.accepted for record in records)
    said_all = f"{num} accepted records of {len(tasks)} problems, {len(pairs)} distinct word pairs."
    return Plot("Acceptance and diversity by batch", said_all, chart)


def _pairs(text: str) -> list[tuple[str, str]]:
    words = text.split()
    return list(itertools.pairwise(words))


def _flat(found: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in found.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}, ")
        else:
            rows.append((f"{prefix}{name}".replace("_", " "), value))
    return rows


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
