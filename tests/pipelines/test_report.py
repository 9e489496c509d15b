"""The run report: a synthetic run rendered in full, damaged runs, and what must never happen."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_cases import STAGES, write_run

from pipelines.report.__main__ import main
from pipelines.report.cells import _measure
from pipelines.report.figures import PLOTS
from pipelines.report.read import RunData, times_of
from pipelines.report.write import write_report


class Page(HTMLParser):
    """Collects what a page links to and loads, and checks that its tags close."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "href":
                self.links.append(value or "")
            if name == "src":
                self.loads.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def drawings(html: str) -> dict[str, str]:
    """The plots by title, each with its legend."""
    found = re.findall(r'<section class="card plot"><h3>(.*?)</h3>(.*?)</section>', html, re.S)
    return {title: body for title, body in found if "<svg" in body}


def test_report_of_a_full_run(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    path = write_report(run)
    assert path == run / "report.html"
    html = path.read_text()
    page = Page(html)
    assert not page.open
    assert "Not in this run directory" not in html
    assert "tiny-seed0" in html and ">halted</span>" in html
    for cell in ("35.2%", "51.1%", "[48.0, 54.0]", "+15.9 points", "-0.140", "240.5"):
        assert cell in html
    assert "rejected: near_duplicate" in html
    assert re.search(r"all rounds</td><td class=n>828</td><td class=n>332</td>", html)
    assert "gold_accuracy collapsed in one check" in html and "token_entropy" in html
    assert "alert(1)" in html and "script" not in page.tags
    assert "transcripts/round%200.jsonl" in page.links
    for round_ in range(1, 5):
        assert f"transcript of round {round_}" in html, "bouts of any round"
    drawn = drawings(html)
    assert "gold probe, after each round" in drawn["Accuracy"]
    assert "35.2% → 51.1%" in drawn["Accuracy"] and "monitor: halt" in drawn["Accuracy"]
    assert "learner: mean" in drawn["Rewards"] and "critic: mean" in drawn["Rewards"]
    assert "passed by the rule" in drawn["Rewards"]
    assert "learner, each step" in drawn["Token entropy"]
    assert "answers to one problem" in drawn["Diversity of answers"]
    audit, fresh = drawn["Critic on the fixed audit"], drawn["Critic on fresh rollouts"]
    assert "AUROC" in audit and "ECE" in audit and "falsely accused" in audit
    assert "location accuracy" in fresh and "AUROC" not in fresh.split("<svg", 1)[1]
    assert "MoE layer 1" in drawn["Expert load"]
    assert all(f"</svg>{stage}</li>" in drawn["Time per round"] for stage in STAGES)
    assert "learner: generate" not in drawn["Time per round"], "a part of a stage that is there"


def test_every_series_of_a_plot_differs_in_colour_and_in_dash_or_mark(tmp_path: Path) -> None:
    for title, body in drawings(write_report(write_run(tmp_path)).read_text()).items():
        samples = re.findall(r"<li><svg[^>]*>(.*?)</svg>", body)
        lines = [sample for sample in samples if 'class="line' in sample]
        colours = [re.findall(r'"line (s\d)"', sample)[0] for sample in lines]
        dashes = [re.findall(r'stroke-dasharray="[^"]*"', sample) for sample in lines]
        marks = [re.findall(r"<(?:circle|polygon)[^>]*?(?: points=.*)?>", s) for s in lines]
        looks = [re.sub(r' class="[^"]*"', "", str(mark)) for mark in marks]
        assert len(set(colours)) == len(set(map(str, dashes))) == len(lines), title
        assert len(set(looks)) == len(lines), title
        bars = [sample for sample in samples if 'class="bar' in sample]
        hatched = [re.findall(r"url\(#\w+\)", bar) for bar in bars]
        assert len({str(hatch) for hatch in hatched}) == len(bars), title


def test_the_stages_of_a_run_add_up_once(tmp_path: Path) -> None:
    """Blocks and their parts stood in one table and in one stack: 50 s of 28.8."""
    html = write_report(write_run(tmp_path)).read_text()
    cells = re.findall(r"<tr>(.*?)</tr>", html[html.index("<th>stage</th>") :])
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in cells[:4]]
    assert rows == [
        ["cold", "start", "101.2"], ["self-play", "240.5"], ["other", "8.2"],
        ["in", "all", "350.0"],
    ]  # fmt: skip
    assert "Parts of the blocks, counted above" in html


def test_each_rounds_stages_add_up_to_its_wall_time() -> None:
    """What no stage claims is "other"; a block's parts are in the block."""
    rows = tuple(
        {"kind": "round", "round": n, "run/seconds": at, "time/gate": 2.0, "time/commit": 1.5,
         "time/learner: update": 9.0}
        for n, at in enumerate((10.0, 15.0))
    )  # fmt: skip
    run = RunData(Path(), rows, {}, {}, {}, {}, (), ())
    assert times_of(run) == [
        (0, {"gate": 2.0, "commit": 1.5, "other": 6.5}),
        (1, {"gate": 2.0, "commit": 1.5, "other": 1.5}),
    ]


def test_the_page_says_in_words_what_got_worse(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path)).read_text()
    assert "Worse beyond its interval:</b> Critic: sound solutions falsely accused</p>" in html
    assert re.search(
        r"class=\"down\">\+36.3 points <span[^>]*>\[\+30.0, \+40.0\]</span> <b>worse", html
    )
    assert re.search(r"class=\"muted\">\+0.100 <span[^>]*>\[-0.010, \+0.200\]</span></span>", html)
    assert re.search("ECE if perfectly calibrated, mean</td><td class=n [^>]*>0.062<", html)
    for cell in ("4.0%", "40.3%", "73.4%", "32.1%", "98.7%", "-41.3 points"):
        assert cell in html
    assert "carry &lt;b&gt;</td><td class=n>62.0%</td><td class=n>1,240</td>" in html
    assert "11.1%" in html and "[5.0, 17.0]" in html


def test_report_needs_nothing_from_outside(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path)).read_text()
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not any("://" in link for link in page.links)
    assert not page.loads
    assert "@import" not in html and not re.search(r"url\((?!#hatch)", html)


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_an_empty_directory_says_what_is_missing(tmp_path: Path) -> None:
    html = write_report(tmp_path).read_text()
    for name in ("metrics.jsonl", "status.json", "config.json", "versions.json", "summary.json"):
        assert f"{name} is missing" in html
    assert html.count("No data: needs") == sum(not plot.optional for plot in PLOTS) + 3
    assert "Expert load" not in html, "a dense model has none"
    assert not drawings(html)


def test_a_damaged_run_is_still_reported(tmp_path: Path) -> None:
    rows: list[object] = [
        {"kind": "round", "round": 0, "probe/mean_at_k": math.nan, "critic/auroc": "high"},
        {"kind": "round", "round": 1, "probe/mean_at_k": 0.5, "moe/load": [[], [1, 2], [0, 0]]},
        {"kind": "round", "moe/load": 3, "monitor/signals": [1], "gate/rejected": 7},
        {"kind": "step", "role": "learner", "reward/mean": 0.5},
        {"kind": "step", "reward/mean": None, "round": "one"},
        [1, 2],
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"kind": "round", "rou')
    (tmp_path / "summary.json").write_text("[]")
    (tmp_path / "status.json").write_text('{"state": "<b>odd</b>"}')
    html = write_report(tmp_path).read_text()
    assert "line 6 is not a JSON object" in html and "line 7 is not a JSON object" in html
    assert "summary.json is not a JSON object" in html
    assert "&lt;b&gt;odd&lt;/b&gt;" in html
    assert set(drawings(html)) == {"Accuracy", "Rewards", "Expert load"}


def test_the_rerun_of_a_killed_round_counts_once(tmp_path: Path) -> None:
    row = {"kind": "round", "round": 0, "gate/admitted": 10, "gate/rejected": {"incorrect": 1}}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    html = write_report(tmp_path).read_text()
    assert "all rounds</td><td class=n>10</td><td class=n>1</td>" in html


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert main([str(tmp_path / "none")]) == 2
    assert "no run directory" in capsys.readouterr().err


def test_a_report_is_drawn_without_matplotlib(checkout: Path) -> None:
    """A page costs milliseconds, so that a run may write one after any round."""
    code = "import sys, pipelines.report.write; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=checkout).returncode == 0


def test_what_was_not_measured_is_a_dash_as_on_the_terminal() -> None:
    measured = {"location_accuracy": None, "auroc": 0.5}
    assert [_measure(key, measured) for key in ("location_accuracy", "auroc", "parsed")] == [
        "-", "0.500", "",
    ]  # fmt: skip
