"""`sparring-data stats`: figures of a small data set, as a page and as a picture."""

import json
import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from set_cases import sum_record, write_set

from data.dataset_folder import SURPLUS, open_records
from pipelines.dataset import main
from pipelines.synthesis.plots import Plot, plots


def heights(plot: Plot) -> dict[str, list[float]]:
    return {bars.name: [height for _, height in bars.values] for bars in plot.chart.bars}


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """Ten samples in two batches, of which four were accepted."""
    reasons = ["malformed: truncated", "verifier: incorrect", "verifier: incorrect",
               "critic: confirmed flaw", "near_duplicate", SURPLUS]  # fmt: skip
    bad = [sum_record(n, reason=why, group_passed=0.0) for n, why in enumerate(reasons, start=10)]
    first = [sum_record(1, group_passed=1.0), sum_record(1, seed=1, solution="x " * 50), *bad]
    second = [sum_record(n, round_=1) for n in (2, 3)]
    return write_set(tmp_path / "set", [first, second])


def test_the_figures_are_counts_of_the_records(found: Path) -> None:
    stage, reason, rates, lengths, diversity = plots(open_records(found))
    # drawn, formed, right, unflawed, new, clean, kept; the surplus passed every gate
    assert heights(stage) == {"samples": [10, 9, 7, 6, 5, 5, 5]}
    assert stage.chart.names[:3] == ("drawn", "formed", "right")
    assert heights(reason)["1: verifier: incorrect"] == [2]
    assert sum(sum(values) for values in heights(reason).values()) == 6
    by_rate = heights(rates)
    assert by_rate["none accepted"][0] == 6 and by_rate["accepted from"][5] == 3
    assert sum(map(sum, by_rate.values())) == 9  # problems, not samples
    assert sum(heights(lengths)["accepted"]) == 4 and sum(heights(lengths)["rejected"]) == 6
    kept, problems, _ = diversity.chart.lines
    assert list(kept.points) == [(0, 0.25), (1, 1.0)]
    assert list(problems.points) == [(0, 0.5), (1, 1.0)]


def test_the_page_is_whole_and_asks_nothing_of_the_network(
    found: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html, png = found.parent / "stats.html", found.parent / "stats.png"
    asked = ["stats", str(found), "--json", "--html", str(html), "--png", str(png)]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["accepted"] == 4
    text = html.read_text()
    for title in ("Acceptance by stage", "Rejected, by reason", "Pass rates", "Lengths", "batch"):
        assert title in text
    assert "<script" not in text and "http" not in text
    assert "<title>formed, samples: 9.0</title>" in text and ">round<" not in text
    start, end = text.index("<main>"), text.index("</main>") + len("</main>")
    ElementTree.fromstring(text[start:end])  # every tag is closed
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    assert width > 1000 and height > 900


def test_a_file_that_cannot_be_written_is_one_line(
    found: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("html", "png"):
        with pytest.raises(SystemExit) as stopped:
            main(["stats", str(found), f"--{name}", str(found / "generate.json" / "x")])
        assert stopped.value.code == 2
        assert capsys.readouterr().err.startswith(f"error: --{name} ")


def test_a_set_of_one_record_is_drawn(tmp_path: Path) -> None:
    path = write_set(tmp_path / "one", [[sum_record(1)]])
    for plot in plots(open_records(path)):
        assert "<svg" in plot.chart.html(plot.title)
    path = write_set(tmp_path / "none", [[sum_record(1, reason="verifier: incorrect")]])
    for plot in plots(open_records(path)):
        assert "<svg" in plot.chart.html(plot.title)
