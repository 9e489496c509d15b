"""The report in a real browser: no error, nothing that overflows, overlaps or is cut off.

At a desk and on a phone, in light and dark. Skips where Debian's package `chromium` is missing.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_cases import write_run

from pipelines.report.write import write_report

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

from headless import PACKAGE, Browser, browser, find_chromium

pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason=f"Debian's package {PACKAGE} is missing"),
    pytest.mark.timeout(300),
]
DESK, PHONE = (1280, 900), (390, 844)
# Labels of a plot that reach out of it, or stand on one another; a pixel is rounding.
PLOT_TEXTS = """
(() => {
  const wrong = [];
  for (const chart of document.querySelectorAll('svg.chart')) {
    const frame = chart.getBoundingClientRect(), texts = [...chart.querySelectorAll('text')];
    const boxes = texts.map(text => text.getBoundingClientRect());
    const name = chart.getAttribute('aria-label');
    boxes.forEach((box, i) => {
      if (!box.width) return;
      if (box.left < frame.left - 1 || box.right > frame.right + 1 ||
          box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        wrong.push(`${name}: "${texts[i].textContent}" is cut off`);
      for (let j = 0; j < i; j++)
        if (box.left < boxes[j].right - 1 && boxes[j].left < box.right - 1 &&
            box.top < boxes[j].bottom - 1 && boxes[j].top < box.bottom - 1)
          wrong.push(`${name}: "${texts[i].textContent}" is on "${texts[j].textContent}"`);
    });
  }
  return wrong;
})()
"""
# Text that its box hides, in anything that does not scroll.
CLIPPED = """
[...document.querySelectorAll('main *')].filter(e =>
  e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 &&
  !['auto', 'scroll'].includes(getComputedStyle(e).overflowX) &&
  getComputedStyle(e).display !== 'inline' && !(e instanceof SVGElement) &&
  !e.closest('.scroll, pre')).map(e => `${e.tagName}.${e.className}: ${e.textContent.slice(0, 60)}`)
"""
# WCAG's contrast of every text with the nearest ground behind it.
FAINT = """
(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  for (const e of document.querySelectorAll('main *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest('title')) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const [a, b] = [rgb(svg ? style.fill : style.color), ground(e)].map(light);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.add(`${contrast.toFixed(1)} ${e.tagName}.${e.getAttribute('class')}`);
  }
  return [...faint];
})()
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("browser"))
    account = {"next": "model: runs/x/learner; next: a new run with learner.model=runs/x/learner"}
    state = json.loads((run / "status.json").read_text()) | account
    (run / "status.json").write_text(json.dumps(state))
    return write_report(run)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_is_whole(
    screen: tuple[int, int], dark: bool, report: Path, chromium: Browser
) -> None:
    chromium.open(report, *screen, dark=dark)
    chromium.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert chromium.errors == []
    width, shown = chromium.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width <= shown == screen[0], "the page scrolls sideways"
    assert chromium.evaluate(PLOT_TEXTS) == []
    assert chromium.evaluate(CLIPPED) == []
    assert chromium.evaluate(FAINT) == []
    least = chromium.evaluate(
        "Math.min(...[...document.querySelectorAll('svg.chart text')]"
        ".map(t => t.getBoundingClientRect().height))"
    )
    assert least >= 10, "the labels of a plot are too small to read"


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
def test_the_first_screen_answers(screen: tuple[int, int], report: Path, chromium: Browser) -> None:
    chromium.open(report, *screen)
    questions, bottom = chromium.evaluate(
        "[[...document.querySelectorAll('#account dt')].map(e => e.textContent),"
        " document.querySelector('#account').getBoundingClientRect().bottom]"
    )
    assert questions == ["Healthy?", "Learner", "Critic", "Monitor", "Next"]
    assert bottom <= screen[1], "an answer is below the first screen"


def test_dark_is_dark(report: Path, chromium: Browser) -> None:
    grounds = []
    for dark in (False, True):
        chromium.open(report, *DESK, dark=dark)
        grounds.append(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(248, 250, 252)", "rgb(11, 18, 32)"]


@pytest.mark.parametrize(
    ("spoilt", "seen"),
    [
        ('<script>console.error("odd")</script>', "odd"),
        ('<img src="https://example.invalid/x.png">', "asked the network for"),
    ],
)
def test_the_browser_hears_errors_and_requests(
    spoilt: str, seen: str, tmp_path: Path, chromium: Browser
) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><title>x</title>{spoilt}")
    chromium.open(page, *DESK)
    heard, chromium.errors[:] = [*chromium.errors], []
    assert any(seen in error for error in heard), heard


def test_the_checks_see_a_plot_whose_labels_collide_or_leave_it(
    tmp_path: Path, chromium: Browser
) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<!DOCTYPE html><main><svg class="chart" aria-label="p" width="200" height="50">'
        '<text x="10" y="20">one</text><text x="14" y="20">two</text>'
        '<text x="190" y="40">three</text></svg></main>'
    )
    chromium.open(page, *DESK)
    found = chromium.evaluate(PLOT_TEXTS)
    assert found == ['p: "two" is on "one"', 'p: "three" is cut off']
