"""The report's plots, each a function from a run to HTML, or None where it has no data.

All share one horizontal axis, the round, so that they can be read against each other. Left out:
reading (`report/read.py`), how a chart is drawn (`report/svg.py`), the page (`report/page.py`).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.report.read import (
    Row,
    RunData,
    number,
    round_of,
    series,
    step_positions,
    table,
    times_of,
)
from pipelines.report.svg import Bars, Chart, Line, legend, tiles

LEARNER, CRITIC, TEST, OTHER, FIFTH = range(5)  # looks: the same colour, dash and mark everywhere
ROLES = {"learner": LEARNER, "critic": CRITIC}
CRITIC_LINES = {
    "auroc": ("AUROC", CRITIC),
    "location_accuracy": ("location accuracy", LEARNER),
    "false_accusations": ("sound ones falsely accused", OTHER),
    "ece": ("ECE", TEST),
}
MAX_LAYERS = 12
MAX_STAGES = 7  # with a layer each; the smaller ones share one
Draw = Callable[[RunData, str], str | None]


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot of the page: what it is called, what it says, which keys it needs."""

    title: str
    caption: str
    needs: str
    draw: Draw
    folded: bool = False
    optional: bool = False  # of models that have it: no empty card for the others


def _chart(run: RunData, label: str, *, percent: bool = False, shaded: bool = False) -> Chart:
    rounds = [round_of(row) for row in run.rows if row.get("kind") in ("step", "round")] or [0]
    chart = Chart(label, (min(rounds) - 0.5, max(rounds) + 0.5), percent=percent)
    if shaded:
        states = [(round_of(row), str(row.get("monitor/state", "ok"))) for row in run.rounds]
        chart.shades = [
            (at - 0.5, at + 0.5, f"shade {state}", f"monitor: {state}")
            for at, state in states
            if state in ("warn", "intervene", "halt")
        ]
    return chart


def _ends(run: RunData, chart: Chart, key: str, name: str, look: int) -> None:
    """Mark a value before and after self-play at the two ends of the axis, if both are known."""
    values = [number(table(run.summary, when), key) for when in ("before", "after")]
    points = [(x, y) for x, y in zip(chart.x, values, strict=True) if y is not None]
    if points:
        shown = [f"{100 * y:.1f}%" if chart.percent else f"{y:.3f}" for _, y in points]
        chart.lines.append(Line(f"{name}: {' → '.join(shown)}", points, look))


def _over(run: RunData, key: str, what: str) -> str:
    """How many tasks or solutions a round's figure is over, as the last round has it."""
    counts = [num for row in run.rounds if (num := number(row, key))]
    return f" ({counts[-1]:,.0f} {what})" if counts else ""


def _drawn(chart: Chart, title: str) -> str | None:
    return chart.html(title) if chart.lines or chart.bars else None


def _intervals(rows: Sequence[Row], key: str) -> list[tuple[float, float, float]]:
    found = []
    for row in rows:
        ends = row.get(f"{key}_interval")
        low, high = ends if isinstance(ends, list) and len(ends) == 2 else (None, None)
        lower, upper = number({"end": low}, "end"), number({"end": high}, "end")
        if lower is not None and upper is not None:
            found.append((float(round_of(row)), lower, upper))
    return found


def draw_accuracy(run: RunData, title: str) -> str | None:
    k = run.samples_per_task
    chart = _chart(run, f"mean@{k}" if k else "mean@k", percent=True, shaded=True)
    chart.y = (0, None)
    x, y = series(run.rounds, "probe/mean_at_k")
    if x:
        band = _intervals(run.rounds, "probe/mean_at_k")
        points = list(zip(x, y, strict=True))
        name = f"gold probe{_over(run, 'probe/num_tasks', 'tasks')}, after each round"
        chart.lines.append(Line(name, points, LEARNER, band))
    selected = list(zip(*series(run.rounds, "evaluation/mean_at_k"), strict=True))
    if selected:
        name = f"selection{_over(run, 'evaluation/num_tasks', 'tasks')}"
        chart.lines.append(Line(name, selected, OTHER))
    tasks = number(table(run.summary, "before"), "num_tasks")
    num = f" ({tasks:,.0f} tasks)" if tasks else ""
    _ends(run, chart, "mean_at_k", f"test{num}, before and after", TEST)
    return _drawn(chart, title)


def draw_rewards(run: RunData, title: str) -> str | None:
    chart = _chart(run, "reward per step")
    for role, look in ROLES.items():
        points, band = [], []
        for x, row in step_positions(run.steps(role)):
            mean, std = number(row, "reward/mean"), number(row, "reward/std") or 0.0
            if mean is not None and not row.get("block"):
                points.append((x, mean))
                band.append((x, mean - std, mean + std))
        if points:
            chart.lines.append(Line(f"{role}: mean ± std", points, look, band, dots=False))
    if not chart.lines:
        return None
    rates = _steps(run, "learner", "reward/pass_rate")
    if rates:
        chart.lines.append(Line("learner: passed by the rule", rates, TEST, dots=False))
    return _drawn(chart, title)


def _steps(run: RunData, role: str, key: str) -> list[tuple[float, float]]:
    read = [(x, number(row, key)) for x, row in step_positions(run.steps(role))]
    return [(x, value) for x, value in read if value is not None]


def draw_role_steps(run: RunData, title: str, key: str, label: str) -> str | None:
    """One figure of both roles' steps."""
    chart = _chart(run, label)
    for role, look in ROLES.items():
        if points := _steps(run, role, key):
            chart.lines.append(Line(role, points, look, dots=False))
    return _drawn(chart, title)


def draw_token_entropy(run: RunData, title: str) -> str | None:
    chart = _chart(run, "nats per token", shaded=True)
    chart.y = (0, None)
    if points := _steps(run, "learner", "rollout/token_entropy"):
        chart.lines.append(Line("learner, each step", points, LEARNER, dots=False))
    probe = list(zip(*series(run.rounds, "token_entropy", "monitor/signals"), strict=True))
    if probe:
        chart.lines.append(Line("learner on the gold probe", probe, TEST))
    return _drawn(chart, title)


def draw_diversity(run: RunData, title: str) -> str | None:
    chart = _chart(run, "nats", shaded=True)
    chart.y = (0, None)
    for key, name, look in (
        ("answer_entropy_across", "answers across problems", LEARNER),
        ("answer_entropy_within", "answers to one problem", CRITIC),
        ("mutual_information", "mutual information", TEST),
    ):
        x, y = series(run.rounds, key, "monitor/signals")
        if x:
            chart.lines.append(Line(name, list(zip(x, y, strict=True)), look))
    return _drawn(chart, title)


def draw_critic(run: RunData, title: str, prefix: str) -> str | None:
    num = _over(run, f"{prefix}num_critiques", "critiques per round")
    chart = _chart(run, f"0 to 1{num}")
    chart.y = (0, 1)
    for key, (name, look) in CRITIC_LINES.items():
        x, y = series(run.rounds, f"{prefix}{key}")
        if x:
            chart.lines.append(Line(name, list(zip(x, y, strict=True)), look))
    return _drawn(chart, title)


def _shares(row: Row) -> list[list[float]]:
    """Per layer, each expert's load over the load of a perfectly balanced expert."""
    load = row.get("moe/load")
    layers = []
    for counts in load if isinstance(load, list) else []:
        values = [float(c) for c in counts if isinstance(c, int | float)] if counts else []
        total = sum(values)
        layers.append([len(values) * value / total if total > 0 else 0.0 for value in values])
    return layers


def draw_expert_load(run: RunData, title: str) -> str | None:
    loads = [(float(round_of(row)), shares) for row in run.rounds if (shares := _shares(row))]
    num_layers = min(max((len(shares) for _, shares in loads), default=0), MAX_LAYERS)
    drawn = []
    for layer in range(num_layers):
        columns = [(at, s[layer]) for at, s in loads if layer < len(s) and s[layer]]
        if columns:
            drawn.append(tiles(columns, title, f"MoE layer {layer}: expert"))
    if not drawn:
        return None
    scale = [
        ('<rect class="starved" width="24" height="12" fill-opacity="1"/>', "no tokens"),
        ('<rect class="even" x="0.5" y="0.5" width="23" height="11"/>', "an even share"),
        ('<rect class="loaded" width="24" height="12" fill-opacity="1"/>', "twice that, or more"),
    ]
    return "".join(drawn) + legend(scale)


def draw_times(run: RunData, title: str) -> str | None:
    spent = times_of(run)
    if not spent:
        return None
    totals: dict[str, float] = {}
    for _, stages in spent:
        for name, seconds in stages.items():
            totals[name] = totals.get(name, 0.0) + seconds
    largest = sorted(totals, key=lambda name: -totals[name])
    named = set(largest if len(largest) <= MAX_STAGES + 1 else largest[:MAX_STAGES])
    layers = [name for name in totals if name in named]
    chart = _chart(run, "seconds")
    for look, name in enumerate(layers):
        values = [(float(at), stages.get(name, 0.0)) for at, stages in spent]
        chart.bars.append(Bars(name, values, look))
    if len(layers) < len(totals):
        rest = [
            (float(at), sum(s for name, s in stages.items() if name not in named))
            for at, stages in spent
        ]
        chart.bars.append(Bars(f"{len(totals) - len(layers)} smaller ones", rest, len(layers)))
    return _drawn(chart, title)


def _of_steps(title: str, key: str, label: str, caption: str) -> Plot:
    draw = functools.partial(draw_role_steps, key=key, label=label)
    return Plot(title, caption, f"{key} in step rows", draw, folded=True)


PLOTS = (
    Plot(
        "Accuracy",
        "Share of right samples: on the gold probe after each round (the area is its 95% "
        "interval), and on the test tasks before and after.",
        "probe/mean_at_k in round rows, or mean_at_k in summary.json",
        draw_accuracy,
    ),
    Plot(
        "Rewards",
        "One reward per completion: each step's mean, and one standard deviation around it; beside "
        "it the share that the rule passes, masked samples counted as wrong.",
        "reward/mean in step rows",
        draw_rewards,
    ),
    Plot(
        "Diversity of answers",
        "Answers that stop depending on the problem (mutual information falls to 0) do not belong "
        "in a healthy run.",
        "monitor/signals in round rows",
        draw_diversity,
    ),
    Plot(
        "Token entropy",
        "How open the learner's next token is. It falls in healthy runs too.",
        "rollout/token_entropy in step rows, or monitor/signals in round rows",
        draw_token_entropy,
    ),
    Plot(
        "Critic on the fixed audit",
        "The same solutions in every round. AUROC: 0.5 is guessing; ECE: how far its certainty is "
        "off, 0 is best.",
        "critic/auroc, … in round rows",
        functools.partial(draw_critic, prefix="critic/"),
    ),
    Plot(
        "Critic on fresh rollouts",
        "The same of each round's own solutions, at their own share of sound ones.",
        "critic/fresh/auroc, … in round rows",
        functools.partial(draw_critic, prefix="critic/fresh/"),
    ),
    Plot(
        "Time per round",
        "Wall-clock seconds of each round by stage; each second stands there once.",
        "time/… in round rows",
        draw_times,
    ),
    Plot(
        "Expert load",
        "Tokens that each routed expert received, against an even share (white). ▼ under half of "
        "it, ▲ over one and a half.",
        "moe/load in round rows",
        draw_expert_load,
        optional=True,
    ),
    _of_steps("Length", "rollout/mean_length", "tokens per completion", "Mean of each step."),
    _of_steps("Gradient norm", "policy/grad_norm", "norm", "Before clipping."),
    _of_steps("Learning rate", "policy/learning_rate", "rate", "As the schedule gave it."),
    _of_steps(
        "Sampler against policy", "rollout/mismatch_max", "nats",
        "The largest difference of a log-probability between who sampled and who learns.",
    ),
)  # fmt: skip
