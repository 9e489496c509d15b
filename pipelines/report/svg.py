"""Charts as inline SVG: lines, shaded bands, stacked bars and tiles on one pair of axes.

A chart is text in the page, so that its colours follow the page (light or dark), a browser can
measure its labels, and a point says its value when the mouse rests on it. Every series differs from
the others in colour and in dash and mark, every bar in colour and hatch. Drawn 1:1 on a phone, and
no library is needed: a page costs milliseconds. Left out: what is drawn (`report/figures.py`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 360, 210  # in the chart's own units, which are pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 34
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 3", "1 4", "6 2 1 2")
MARKS = ("circle", "square", "triangle", "diamond", "cross", "pin")
MAX_POINTS = 240  # of one line: more are averaged, a pixel shows no more
MAX_MARKED = 40  # points that get a mark each
Point = tuple[float, float]
Place = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Line:
    """One series.

    Attributes:
        name: in the legend.
        points: (x, y), in order of x.
        look: which colour, dash and mark; the same number looks the same everywhere.
        band: (x, low, high) of an area drawn beneath it.
        dots: whether each point has a mark, not only every few.
    """

    name: str
    points: Sequence[Point]
    look: int
    band: Sequence[tuple[float, float, float]] = ()
    dots: bool = True


@dataclass(frozen=True, slots=True)
class Bars:
    """One layer of stacked bars: (x, height) for each."""

    name: str
    values: Sequence[Point]
    look: int


@dataclass
class Chart:
    """One pair of axes and what is drawn on it.

    Attributes:
        label: what the vertical axis measures, with its unit.
        x: the least and the greatest position that must fit.
        y: the same of the vertical axis; None leaves an end to the data.
        shades: (from, to, class, name) of marked stretches of the horizontal axis.
        percent: whether vertical values are shares, shown in percent.
        x_name: what the horizontal axis counts.
        names: of its positions 0, 1, ...; without them they are numbers.
    """

    label: str
    x: tuple[float, float]
    y: tuple[float | None, float | None] = (None, None)
    lines: list[Line] = field(default_factory=list)
    bars: list[Bars] = field(default_factory=list)
    shades: list[tuple[float, float, str, str]] = field(default_factory=list)
    percent: bool = False
    x_name: str = "round"
    names: Sequence[str] = ()

    def html(self, title: str) -> str:
        """The chart and its legend.

        Args:
            title: what a screen reader says.
        """
        low, high, ticks = _scale(*self._span())
        across = _across(self.x)

        def down(y: float) -> float:
            share = (min(max(y, low), high) - low) / (high - low)
            return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

        parts = [_shade(across(a), across(b), kind) for a, b, kind, _ in self.shades]
        parts += [self._tick(tick, down(tick)) for tick in ticks]
        parts += _along(self.x, across, self.x_name, self.names)
        floor: dict[float, float] = {}
        for bars in self.bars:
            parts += _stack(bars, floor, across, down, self._at)
        for line in self.lines:
            parts.append(_band(line, across, down))
        for line in self.lines:
            parts.append(_polyline(line, across, down, self.percent, self._at))
        body = "".join(parts)
        return f"{_frame(title, body, self.label)}{self._legend()}"

    def _span(self) -> tuple[float, float]:
        ys = [y for line in self.lines for _, y in line.points]
        ys += [end for line in self.lines for _, *ends in line.band for end in ends]
        heights: dict[float, float] = {}
        for bars in self.bars:
            for x, height in bars.values:
                heights[x] = heights.get(x, 0.0) + height
        ys += [0.0, *heights.values()] if heights else []
        low, high = self.y
        low = min(ys, default=0.0) if low is None else low
        return low, max(ys, default=1.0) if high is None else high

    def _at(self, x: float) -> str:
        """A position in words."""
        if x in range(len(self.names)):
            return self.names[int(x)]
        return f"{self.x_name} {x:.4g}"

    def _tick(self, value: float, y: float) -> str:
        text = f"{100 * value:.0f}%" if self.percent else f"{value:g}"
        return (
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{LEFT - 5}" y="{y + 4}" text-anchor="end">{escape(text)}</text>'
        )

    def _legend(self) -> str:
        items = [(_sample_line(line), line.name) for line in self.lines]
        items += [(_sample_bar(bars.look), bars.name) for bars in reversed(self.bars)]
        named = dict.fromkeys((kind, name) for _, _, kind, name in self.shades)
        items += [(f'<rect class="{kind}" width="24" height="12"/>', name) for kind, name in named]
        return legend(items)


def legend(items: Sequence[tuple[str, str]]) -> str:
    """Names beside samples of what they name, wrapped as the page's width asks.

    Args:
        items: (the SVG of a sample, 24 by 12, and its name).
    """
    entries = "".join(
        f'<li><svg width="24" height="12" aria-hidden="true">{sample}</svg>{escape(name)}</li>'
        for sample, name in items
    )
    return f'<ul class="legend">{entries}</ul>' if entries else ""


def hatches() -> str:
    """The patterns that bars share: put once into a page that has charts."""
    paths = ("M0 6L6 0", "M0 0L6 6", "M0 3H6", "M3 0V6", "M0 3H6M3 0V6", "M0 6L6 0M0 0L6 6")
    patterns = "".join(
        f'<pattern id="hatch{n}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<path d="{path}" class="hatch"/></pattern>'
        for n, path in enumerate(paths, start=1)
    )
    return (
        f'<svg class="defs" width="0" height="0" aria-hidden="true"><defs>{patterns}</defs></svg>'
    )


def tiles(columns: Sequence[tuple[float, Sequence[float]]], title: str, label: str) -> str:
    """A column of tiles for each round: 1 is neutral, 0 and 2 are the ends of the scale.

    Args:
        columns: position and values, in order.
        title: for a screen reader.
        label: of the vertical axis.
    """
    xs = [x for x, _ in columns]
    ends = (min(xs) - 0.5, max(xs) + 0.5)
    across, num = _across(ends), max(len(values) for _, values in columns)
    height = (HEIGHT - TOP - BOTTOM) / num
    parts = []
    for x, values in columns:
        left, width = across(x - 0.5), across(x + 0.5) - across(x - 0.5)
        for index, value in enumerate(values):
            parts.append(_tile(value, left, TOP + index * height, width, height, f"{x:g}, {index}"))
    every = max(1, math.ceil(num / 8))
    parts += [
        f'<text x="{LEFT - 5}" y="{TOP + (n + 0.5) * height + 4:.1f}" text-anchor="end">{n}</text>'
        for n in range(0, num, every)
    ]
    parts += _along(ends, across)
    return _frame(title, "".join(parts), label)


def _tile(value: float, x: float, y: float, width: float, height: float, at: str) -> str:
    kind = "starved" if value < 1 else "loaded"
    strength = min(abs(value - 1), 1.0)
    tile = (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill-opacity="{strength:.2f}"><title>round, expert {at}: {value:.2f}</title></rect>'
    )
    if strength < 0.5 or width < 8 or height < 8:
        return tile
    middle, sign = (x + width / 2, y + height / 2), 3 if value < 1 else -3
    return tile + (
        f'<path class="sign" d="M{middle[0] - 3:.1f} {middle[1] - sign / 2:.1f}'
        f'l3 {sign}l3 {-sign}"/>'
    )


def _across(ends: tuple[float, float]) -> Place:
    low, high = ends if ends[1] > ends[0] else (ends[0] - 0.5, ends[0] + 0.5)
    return lambda x: round(LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)


def _scale(low: float, high: float) -> tuple[float, float, list[float]]:
    """Round ends for an axis, and ticks at round values."""
    if high <= low:
        low, high = (low - 0.5, low + 0.5) if low else (0.0, 1.0)
    step = _nice((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(n * step, 12) for n in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _nice(step: float) -> float:
    """The next round number: 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= step * (1 - 1e-9))


def _along(
    ends: tuple[float, float], across: Place, axis_name: str = "round", names: Sequence[str] = ()
) -> list[str]:
    """Numbers or names along the bottom, few enough to stand apart, and what they count."""
    first, last = math.ceil(ends[0]), math.floor(ends[1])
    step = 1 if names else max(1, math.ceil(_nice((last - first + 1) / 8)))
    y = HEIGHT - BOTTOM
    ticks = [
        f'<text x="{across(n)}" y="{y + 15}" text-anchor="middle">{escape(text)}</text>'
        for n in range(first + -first % step, last + 1, step)
        if (text := names[n] if n in range(len(names)) else str(n))
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    axis = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
    place = f'x="{middle}" y="{HEIGHT - 3}" text-anchor="middle"'
    return [axis, *ticks, f'<text class="name" {place}>{escape(axis_name)}</text>']


def _frame(title: str, body: str, label: str) -> str:
    return (
        f'<p class="axis-name">{escape(label)}</p>'
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )


def _shade(left: float, right: float, kind: str) -> str:
    height = HEIGHT - TOP - BOTTOM
    return (
        f'<rect class="{kind}" x="{left}" y="{TOP}" width="{max(right - left, 1):.1f}" '
        f'height="{height}"/>'
    )


def _stack(
    bars: Bars, floor: dict[float, float], across: Place, down: Place, at: Callable[[float], str]
) -> list[str]:
    """One layer on top of those before it, which `floor` remembers."""
    parts = []
    for x, height in bars.values:
        base = floor.get(x, 0.0)
        floor[x] = base + height
        top, bottom, left = down(floor[x]), down(base), across(x - 0.36)
        place = (
            f'x="{left}" y="{top}" width="{max(across(x + 0.36) - left, 1):.1f}" '
            f'height="{max(bottom - top, 0):.1f}"'
        )
        said = f"<title>{escape(at(x))}, {escape(bars.name)}: {height:,.1f}</title>"
        parts.append(f'<rect class="bar c{bars.look % 8}" {place}>{said}</rect>')
        if hatch := _hatch(bars.look):
            parts.append(f'<rect {hatch} {place} pointer-events="none"/>')
    return parts


def _hatch(look: int) -> str:
    """The first layer is plain; every other has a pattern of its own."""
    return f'fill="url(#hatch{(look - 1) % 6 + 1})"' if look else ""


def _band(line: Line, across: Place, down: Place) -> str:
    if not line.band:
        return ""
    band = _fewer(line.band)
    upper = [f"{across(x)},{down(high)}" for x, _, high in band]
    lower = [f"{across(x)},{down(low)}" for x, low, _ in reversed(band)]
    return f'<polygon class="band c{line.look % 8}" points="{" ".join(upper + lower)}"/>'


def _polyline(
    line: Line, across: Place, down: Place, percent: bool, at: Callable[[float], str]
) -> str:
    points = _fewer(line.points)
    path = " ".join(f"{across(x)},{down(y)}" for x, y in points)
    drawn = f'<polyline class="line s{line.look % 8}" {_dash(line.look)} points="{path}"/>'
    every = max(1, math.ceil(len(points) / (MAX_MARKED if line.dots else 5)))
    start = 0 if line.dots else every // 2
    for x, y in points[start::every]:
        value = f"{100 * y:.1f}%" if percent else f"{y:.4g}"
        said = f"<title>{escape(line.name)}, {escape(at(x))}: {value}</title>"
        drawn += _mark(across(x), down(y), line.look, said)
    return drawn


def _fewer(points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Neighbours averaged, so that a long run's page stays small."""
    every = math.ceil(len(points) / MAX_POINTS)
    if every <= 1:
        return list(points)
    chunks = [points[start : start + every] for start in range(0, len(points), every)]
    return [tuple(sum(c) / len(chunk) for c in zip(*chunk, strict=True)) for chunk in chunks]


def _dash(look: int) -> str:
    dash = DASHES[look % len(DASHES)]
    return f'stroke-dasharray="{dash}"' if dash else ""


def _mark(x: float, y: float, look: int, said: str = "") -> str:
    shape, kind = MARKS[look % len(MARKS)], f'class="mark c{look % 8}"'
    if shape == "circle":
        return f'<circle {kind} cx="{x}" cy="{y}" r="3">{said}</circle>'
    corners = {
        "square": "-2.8,-2.8 2.8,-2.8 2.8,2.8 -2.8,2.8",
        "triangle": "0,-3.6 3.4,2.6 -3.4,2.6",
        "diamond": "0,-3.9 3.9,0 0,3.9 -3.9,0",
        "cross": "-3.4,-1 -1,-1 -1,-3.4 1,-3.4 1,-1 3.4,-1 3.4,1 1,1 1,3.4 -1,3.4 -1,1 -3.4,1",
        "pin": "-1,-4 1,-4 1,4 -1,4",
    }[shape]
    place = f'transform="translate({x} {y})"'
    return f'<polygon {kind} {place} points="{corners}">{said}</polygon>'


def _sample_line(line: Line) -> str:
    stroke = (
        f'<line class="line s{line.look % 8}" {_dash(line.look)} x1="0" x2="24" y1="6" y2="6"/>'
    )
    return stroke + _mark(12, 6, line.look)


def _sample_bar(look: int) -> str:
    size = 'width="24" height="12"'
    hatch = f"<rect {_hatch(look)} {size}/>" if look else ""
    return f'<rect class="bar c{look % 8}" {size}/>{hatch}'
