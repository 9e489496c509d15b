"""The run report: a synthetic run rendered in full, damaged runs, and what must never happen."""

import base64
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from critic.monitor.decide import check
from critic.monitor.readings import reading
from critic.monitor.replay import readings_row
from critic.monitor.settings import MonitorSettings
from critic.monitor.state import MonitorState
from pipelines.report.__main__ import main
from pipelines.report.figures import PLOTS
from pipelines.report.write import write_report

JsonRow = dict[str, object]
STAGES = ("learner", "critic", "gate", "monitor", "commit")


def step_rows(round_: int) -> list[JsonRow]:
    return [
        {
            "kind": "step",
            "role": role,
            "round": round_,
            "step": 4 * round_ + index,
            "reward/mean": level + 0.03 * round_ + 0.005 * index,
            "reward/std": 0.2,
            **({"reward/pass_rate": level} if role == "learner" else {}),
            "rollout/token_entropy": 0.5 - 0.03 * round_ - 0.004 * index,
            "policy/loss": 0.01,
            "time/generate": 1.1,
        }
        for role, level in (("learner", 0.35), ("critic", 0.5))
        for index in range(4)
    ]


def metrics(num_rounds: int = 8) -> list[JsonRow]:
    """Rows of a run that improves, then collapses; the monitor's fields are its real decisions."""
    rows: list[JsonRow] = []
    state = MonitorState()
    for t in range(num_rounds):
        bad = max(t - 5, 0)
        accuracy = max(0.35 + 0.03 * min(t, 5) - 0.35 * bad, 0.0)
        means = {
            "token_entropy": 0.5 - 0.03 * t - 0.1 * bad,
            "answer_entropy_across": 2.6 - 0.8 * bad,
            "answer_entropy_within": max(1.2 - 0.05 * t - 0.6 * bad, 0.0),
            "mutual_information": max(1.4 - 0.95 * bad, 0.0),
            "distinct_ratio": 0.8 - 0.2 * bad,
            "effective_groups": math.nan if t == 0 else 0.7,
            "gold_nll": 0.9 - 0.02 * t + 0.4 * bad,
            "gold_accuracy": accuracy,
            "critic_brier": 0.1,
        }
        readings = {name: reading(mean, 0.02) for name, mean in means.items()}
        state, health = check(state, readings, MonitorSettings())
        rows += step_rows(t)
        rows.append(
            {
                "kind": "round",
                "round": t,
                "probe/mean_at_k": accuracy,
                "probe/nll": means["gold_nll"],
                "critic/auroc": 0.6 + 0.03 * t,
                "critic/ece": 0.25 - 0.02 * t,
                "critic/false_accusations": 0.04 + 0.02 * t,
                "critic/fresh/location_accuracy": 0.5 - 0.02 * t,
                "monitor/state": health.state,
                **readings_row(readings),
                "monitor/alarms": list(health.alarms),
                "monitor/actions": [action.model_dump() for action in health.actions],
                "monitor/reasons": list(health.reasons),
                "gate/admitted": 100 + t,
                "gate/rejected": {"incorrect": 40 - t, "near_duplicate": 5},
                "moe/load": [[120 + 9 * t, 80, 100 - 9 * t, 100], [90, 110, 130, 70]],
                **{f"time/{stage}": 2.0 + index for index, stage in enumerate(STAGES)},
                "time/learner: generate": 1.5,
            }
        )
    return rows


def write_run(folder: Path) -> Path:
    run = folder / "tiny-seed0"
    (run / "transcripts").mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics()))
    documents: dict[str, JsonRow] = {
        "status": {"state": "halted", "reason": "Entropy Threshold", "round": 7},
        "config": {"run": {"seed": 0, "rounds": 8}, "learner": {"model": ""}},
        "versions": {"torch": "2.13.0", "trl": "1.16.0", "commit": "abc1234"},
        "summary": {
            "before": {"mean_at_k": 0.352, "mean_at_k_interval": [0.32, 0.38], "ece": 0.25}
            | {"false_accusations": 0.04, "brier": 0.088, "by_kind": {}, "ece_perfect": 0.0625},
            "after": {"mean_at_k": 0.511, "mean_at_k_interval": [0.48, 0.54], "ece": 0.11}
            | {"false_accusations": 0.403, "brier": 0.188, "by_kind": {}, "ece_perfect": 0.0625},
            "change": {
                "mean_at_k": {"value": 0.159, "interval": [0.12, 0.19], "verdict": "better"},
                "false_accusations": {"value": 0.363, "interval": [0.3, 0.4], "verdict": "worse"},
                "brier": {"value": 0.1, "interval": [-0.01, 0.2], "verdict": "unchanged"},
            },
            "fresh": {
                "first": {"location_accuracy": 0.734},
                "last": {
                    "location_accuracy": 0.321,
                    "parsed": 0.987,
                    "by_kind": {
                        "carry <b>": {
                            "share": 0.62,
                            "num": 1240,
                            "location_accuracy": 0.1111,
                            "location_accuracy_interval": [0.05, 0.17],
                        },
                    },
                },
                "change": {
                    "location_accuracy": {"value": -0.413, "interval": None, "verdict": "unknown"}
                },
            },
            "stages": {"cold start": 101.25, "self-play": 240.5, "self-play: generate": 200.0},
            "seconds": 350.0,
            "monitor": "halt",
        },
    }
    for name, document in documents.items():
        (run / f"{name}.json").write_text(json.dumps(document))
    sample = {"task": "t1", "reward": 1.0, "problem": "a4b1c7d10 <script>alert(1)</script>"}
    (run / "transcripts" / "round 0.jsonl").write_text(json.dumps(sample) + "\n")
    for number in range(1, 5):
        text = f"transcript of round {number}: a4=40"
        (run / "transcripts" / f"round_{number}.md").write_text(text)
    return run


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


def drawings(page: Page) -> list[str]:
    prefix = "data:image/svg+xml;base64,"
    assert all(load.startswith(prefix) for load in page.loads)
    return [base64.b64decode(load.removeprefix(prefix)).decode() for load in page.loads]


def test_report_of_a_full_run(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    path = write_report(run)
    assert path == run / "report.html"
    html = path.read_text()
    page = Page(html)
    assert not page.open
    assert "Not in this run directory" not in html
    assert "Sparring run tiny-seed0" in html and ">halted</span>" in html
    for cell in ("35.2%", "51.1%", "[48.0, 54.0]", "+15.9 points", "-0.140", "240.5"):
        assert cell in html
    assert "rejected: near_duplicate" in html
    assert re.search(r"all rounds</td><td class=n>828</td><td class=n>332</td>", html)
    assert "Entropy Threshold" in html and "token_entropy" in html
    assert "alert(1)" in html and "script" not in page.tags
    assert "transcripts/round%200.jsonl" in page.links
    assert "transcript of round 2" in html and "transcript of round 4" not in html
    accuracy, rewards, entropies, critic, fresh, load, times = drawings(page)
    assert "gold probe, each round" in accuracy and "0.511" in accuracy
    assert "learner: mean" in rewards and "critic: mean" in rewards
    assert "token entropy" in entropies and "monitor: halt" in entropies
    assert "rule's pass rate" in rewards
    assert "AUROC" in critic and "ECE" in critic and "false accusations" in critic
    assert "location accuracy" in fresh and "AUROC" not in fresh
    assert "MoE layer 1" in load
    assert all(stage in times for stage in STAGES)
    assert "learner: generate" not in times, "it is a part of a stage that stands there"


def test_the_stages_of_a_run_add_up_once(tmp_path: Path) -> None:
    """Blocks and their parts stood in one table and in one stack: 50 s of 28.8."""
    html = write_report(write_run(tmp_path)).read_text()
    cells = re.findall(r"<tr>(.*?)</tr>", html[html.index("<th>stage</th>") :])
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in cells[:5]]
    assert rows == [
        ["cold", "start", "101.2"], ["self-play", "240.5"], ["other", "8.2"],
        ["in", "all", "350.0"], ["within", "it:", "self-play:", "generate", "200.0"],
    ]  # fmt: skip


def test_the_page_says_in_words_what_got_worse(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path)).read_text()
    assert "Worse beyond its interval:</b> Critic: sound solutions falsely accused</p>" in html
    assert re.search(
        r"class=\"down\">\+36.3 points <span[^>]*>\[\+30.0, \+40.0\]</span> <b>worse", html
    )
    assert re.search(r"class=\"muted\">\+0.100 <span[^>]*>\[-0.010, \+0.200\]</span></span>", html)
    assert "Critic: ECE if perfectly calibrated, mean</td><td class=n>0.062<" in html
    for cell in ("4.0%", "40.3%", "73.4%", "32.1%", "98.7%", "-41.3 points"):
        assert cell in html
    assert "carry &lt;b&gt;</td><td class=n>62.0%</td><td class=n>1,240</td>" in html
    assert "11.1%" in html and "[5.0, 17.0]" in html


def test_report_needs_nothing_from_outside(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path)).read_text()
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not any("://" in link for link in page.links)
    assert "@import" not in html and "url(" not in html
    for svg in drawings(page):
        loaded = re.findall(r'(?:href|src)="([^"]*)"', svg)
        assert all(target.startswith(("#", "data:")) for target in loaded)
        assert "DOCTYPE" not in svg


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_an_empty_directory_says_what_is_missing(tmp_path: Path) -> None:
    html = write_report(tmp_path).read_text()
    for name in ("metrics.jsonl", "status.json", "config.json", "versions.json", "summary.json"):
        assert f"{name} is missing" in html
    assert html.count("No data: needs") == len(PLOTS) + 3
    assert not Page(html).loads


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
    assert len(Page(html).loads) == 3  # accuracy, rewards, expert load


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


def test_importing_the_report_imports_no_matplotlib(checkout: Path) -> None:
    code = "import sys, pipelines.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=checkout).returncode == 0
