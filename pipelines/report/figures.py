"""The report's plots, each a function from a run to a figure, or None where it has no data.

All share one horizontal axis, the round, so that they can be read against each other. Drawn with
matplotlib's Agg canvas and no global state; matplotlib is imported when a report is drawn. Left
out: reading (`report/read.py`), the page (`report/page.py`).
"""

import base64
import functools
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.report.read import RunData, number, round_of, series, step_positions, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType


ROLE_COLOURS = {"learner": "#2563eb", "critic": "#d97706"}
STATE_COLOURS = {"warn": "#fde68a", "intervene": "#fdba74", "halt": "#fca5a5"}
TEST_COLOUR, MUTED, GRID = "#047857", "#64748b", "#e2e8f0"
STAGE_COLOURS = ["#2563eb", "#d97706", "#0d9488", "#9333ea", "#64748b", "#dc2626", "#84cc16"]
CRITIC_LINES = {
    "auroc": ("AUROC", "#d97706"),
    "location_accuracy": ("location accuracy", "#2563eb"),
    "false_accusations": ("false accusations", "#dc2626"),
    "ece": ("ECE", "#64748b"),
}
MAX_LAYERS = 12
STYLE: "dict[RcKeyType, object]" = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#94a3b8",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "grid.color": GRID,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",  # text stays text: small files, searchable
    "svg.hashsalt": "sparring",  # the same run draws the same bytes
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot of the page: what it is called, what it says, which keys it needs."""

    title: str
    caption: str
    needs: str
    draw: Callable[[RunData], "Figure | None"]


def render(plot: Plot, run: RunData) -> str | None:
    """Draw a plot as an SVG data URI; None where the run has no data for it."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = plot.draw(run)
        if figure is None:
            return None
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = svg[svg.index("<svg") :]  # the XML prologue names a DTD on the web
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _figure(height: float = 3.3, width: float = 5.6) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _on_rounds(axes: "Axes", run: RunData, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("round")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    rounds = [round_of(row) for row in run.rows]
    if rounds:
        axes.set_xlim(min(rounds) - 0.6, max(rounds) + 0.6)


def _legend(figure: "Figure", axes: "Axes") -> None:
    """Name the lines below the plot, where they cover no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = min(len(labels), 5 if max(map(len, labels)) < 12 else 2)
        figure.legend(handles, labels, loc="outside lower center", fontsize=8.5, ncols=columns)


def _shade_states(axes: "Axes", run: RunData) -> None:
    """Shade the rounds in which the monitor was not ok; each state is named once."""
    named = set[str]()
    for row in run.rounds:
        state = str(row.get("monitor/state", ""))
        if state in STATE_COLOURS:
            at = round_of(row)
            label = None if state in named else f"monitor: {state}"
            axes.axvspan(
                at - 0.5, at + 0.5, color=STATE_COLOURS[state], alpha=0.45, lw=0, label=label
            )
            named.add(state)


def _draw_before_after(axes: "Axes", run: RunData, key: str, label: str, colour: str) -> bool:
    """Mark a value before and after self-play at the two ends of the axis."""
    rounds = [round_of(row) for row in run.rows] or [0]
    ends = {"before": min(rounds) - 0.5, "after": max(rounds) + 0.5}
    points = [(x, number(table(run.summary, end), key)) for end, x in ends.items()]
    drawn = [(x, y) for x, y in points if y is not None]
    if drawn:
        axes.plot(*_columns(drawn), "D--", color=colour, label=label, clip_on=False, lw=1.2)
        for x, y in drawn:
            offset = (6, 6) if x == ends["before"] else (-6, 6)
            side = "left" if x == ends["before"] else "right"
            axes.annotate(
                f"{y:.3f}", (x, y), offset, textcoords="offset points", ha=side, color=colour
            )
    return bool(drawn)


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def draw_accuracy(run: RunData) -> "Figure | None":
    figure = _figure()
    axes = figure.subplots()
    _on_rounds(axes, run, "mean@8")
    _shade_states(axes, run)
    x, y = series(run.rounds, "probe/mean_at_k")
    if x:
        axes.plot(x, y, "o-", color=ROLE_COLOURS["learner"], label="gold probe, each round")
    drawn = _draw_before_after(axes, run, "mean_at_k", "test, before and after", TEST_COLOUR)
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure if x or drawn else None


def draw_rewards(run: RunData) -> "Figure | None":
    figure = _figure()
    axes = figure.subplots()
    drawn = False
    for role, colour in ROLE_COLOURS.items():
        points = [
            (x, mean, number(row, "reward/std") or 0.0)
            for x, row in step_positions(run.steps(role))
            if (mean := number(row, "reward/mean")) is not None
        ]
        x = [at for at, _, _ in points]
        low = [mean - std for _, mean, std in points]
        high = [mean + std for _, mean, std in points]
        if points:
            axes.fill_between(x, low, high, color=colour, alpha=0.13, lw=0)
            axes.plot(x, [mean for _, mean, _ in points], color=colour, label=f"{role}: mean ± std")
            drawn = True
    steps = step_positions(run.steps("learner"))
    read = [(x, number(row, "reward/pass_rate")) for x, row in steps]
    if rates := [(x, rate) for x, rate in read if rate is not None]:
        axes.plot(*_columns(rates), color=TEST_COLOUR, ls="--", label="learner: rule's pass rate")
    _on_rounds(axes, run, "reward")
    _legend(figure, axes)
    return figure if drawn else None


def draw_entropies(run: RunData) -> "Figure | None":
    steps = list(step_positions(run.steps("learner")))
    token = [(x, number(row, "rollout/token_entropy")) for x, row in steps]
    read = [(x, value) for x, value in token if value is not None]
    lines = [
        ("token entropy, each step (nats/token)", "-", "#2563eb", *_columns(read)),
        (
            "answer entropy across prompts (nats)",
            "o-",
            "#0d9488",
            *series(run.rounds, "answer_entropy_across", "monitor/signals"),
        ),
        (
            "answer entropy within a group (nats)",
            "s-",
            "#9333ea",
            *series(run.rounds, "answer_entropy_within", "monitor/signals"),
        ),
    ]
    if not any(x for *_, x, _ in lines):
        return None
    figure = _figure()
    axes = figure.subplots()
    _shade_states(axes, run)
    for label, style, colour, x, y in lines:
        if x:
            axes.plot(x, y, style, color=colour, label=label)
    _on_rounds(axes, run, "entropy")
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def draw_critic(run: RunData, prefix: str, with_ends: bool) -> "Figure | None":
    figure = _figure()
    axes = figure.subplots()
    drawn = False
    for key, (name, colour) in CRITIC_LINES.items():
        x, y = series(run.rounds, f"{prefix}{key}")
        if x:
            axes.plot(x, y, "o-", color=colour, label=name)
        ends = with_ends and _draw_before_after(axes, run, key, f"{name}, before and after", colour)
        drawn = drawn or bool(x) or ends
    _on_rounds(axes, run, "critic")
    axes.set_ylim(0, 1)
    _legend(figure, axes)
    return figure if drawn else None


def _shares(row: dict[str, object]) -> list[list[float]]:
    """Per layer, each expert's load over the load of a perfectly balanced expert."""
    load = row.get("moe/load")
    layers = []
    for counts in load if isinstance(load, list) else []:
        values = [float(c) for c in counts if isinstance(c, int | float)] if counts else []
        total = sum(values)
        layers.append([len(values) * value / total if total > 0 else 0.0 for value in values])
    return layers


def draw_expert_load(run: RunData) -> "Figure | None":
    loads = [(round_of(row), shares) for row in run.rounds if (shares := _shares(row))]
    num_layers = min(max((len(shares) for _, shares in loads), default=0), MAX_LAYERS)
    if not num_layers:
        return None
    figure = _figure(height=0.7 + 1.15 * num_layers)
    panels = figure.subplots(num_layers, 1, sharex=True, squeeze=False)[:, 0]
    image = None
    for layer, axes in enumerate(panels):
        columns = [(at, s[layer]) for at, s in loads if layer < len(s) and s[layer]]
        num_experts = max((len(column) for _, column in columns), default=1)
        for at, column in columns:
            image = axes.imshow(
                [[value] for value in column],
                extent=(at - 0.5, at + 0.5, len(column) - 0.5, -0.5),
                aspect="auto",
                cmap="RdBu_r",
                vmin=0,
                vmax=2,
            )
        axes.set_ylim(num_experts - 0.5, -0.5)
        axes.grid(False)
        axes.set_ylabel(f"MoE layer {layer}\nexpert", fontsize=8.5)
        axes.set_xlim(min(at for at, _ in loads) - 0.5, max(at for at, _ in loads) + 0.5)
    panels[-1].set_xlabel("round")
    panels[-1].set_xticks([at for at, _ in loads][:: max(len(loads) // 12, 1)])
    if image is not None:
        figure.colorbar(image, ax=list(panels), label="load / balanced load", extend="max")
    return figure


def draw_times(run: RunData) -> "Figure | None":
    keys = (key for row in run.rounds for key in row if key.startswith("time/"))
    stages = [key for key in dict.fromkeys(keys) if ":" not in key]  # parts are in their blocks
    if not stages:
        return None
    figure = _figure()
    axes = figure.subplots()
    rounds = [round_of(row) for row in run.rounds]
    floor = [0.0] * len(rounds)
    for index, stage in enumerate(stages):
        seconds = [number(row, stage) or 0.0 for row in run.rounds]
        axes.bar(
            rounds,
            seconds,
            bottom=floor,
            width=0.7,
            color=STAGE_COLOURS[index % len(STAGE_COLOURS)],
            hatch="//" * (index // len(STAGE_COLOURS)),
            label=stage.removeprefix("time/"),
        )
        floor = [low + more for low, more in zip(floor, seconds, strict=True)]
    _on_rounds(axes, run, "seconds")
    _legend(figure, axes)
    return figure


PLOTS = (
    Plot(
        "Accuracy",
        "Sampled mean@8 on the gold probe after each round, and on the held-out test split before "
        "and after self-play. Shaded rounds: the monitor was not ok.",
        "probe/mean_at_k in round rows, or mean_at_k in summary.json",
        draw_accuracy,
    ),
    Plot(
        "Rewards",
        "One reward per completion: the mean of each step, and one standard deviation; beside it "
        "the share that the rule passes, masked samples counted as wrong.",
        "reward/mean in step rows",
        draw_rewards,
    ),
    Plot(
        "Entropies",
        "Token entropy falls in healthy runs too; answers that stop depending on the prompt do not "
        "belong in one.",
        "rollout/token_entropy in step rows, or monitor/signals in round rows",
        draw_entropies,
    ),
    Plot(
        "Critic on the fixed audit",
        "By single critiques: how well p(sound) ranks (AUROC, 0.5 by chance), how often the first "
        "bad step is named, how many sound solutions are accused, how far p(sound) is off (ECE).",
        "critic/auroc, … in round rows, or auroc, … in summary.json",
        functools.partial(draw_critic, prefix="critic/", with_ends=True),
    ),
    Plot(
        "Critic on fresh rollouts",
        "The same for the critiques of each round's own rollouts, at their natural base rate.",
        "critic/fresh/auroc, … in round rows",
        functools.partial(draw_critic, prefix="critic/fresh/", with_ends=False),
    ),
    Plot(
        "Expert load",
        "Share of tokens that each routed expert received, relative to perfect balance (1, white). "
        "Blue experts are starved, red ones overloaded.",
        "moe/load in round rows",
        draw_expert_load,
    ),
    Plot(
        "Time per stage",
        "Wall-clock seconds of each round, stacked by stage; each second stands there once.",
        "time/… in round rows",
        draw_times,
    ),
)
