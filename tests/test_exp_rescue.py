"""The arms of the rescue comparison differ in the monitor alone; what is kept is what counts."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from exp_rescue import ARMS, kept, outcome, overrides_of, table
from harness import ROOT

from critic.monitor.settings import MonitorSettings
from pipelines.settings.load import load_settings


def test_arms_differ_in_what_the_monitor_may_do_alone() -> None:
    arms = {arm: load_settings(ROOT / "configs" / "tiny.toml", overrides_of(arm)) for arm in ARMS}
    plain = [settings.model_dump(exclude={"monitor"}) for settings in arms.values()]
    assert all(one == plain[0] for one in plain)
    default = MonitorSettings()
    assert arms["alone"].monitor.watch_only and arms["alone"].monitor.offers == ()
    for arm, offers in (("halts", ()), ("intervenes", ("verified_only",))):
        monitor = arms[arm].monitor
        assert (
            (monitor.watch_only, monitor.offers) == (default.watch_only, offers) == (False, offers)
        )
    assert plain[0]["feedback"]["gate"] == "none" and plain[0]["feedback"]["steps"] > 0


def run(*held_out: float, halted: bool = False, back_to: int | None = None) -> dict[str, object]:
    found: dict[str, object] = {"start": 0.4, "held_out": [*held_out], "halted": halted}
    return found | ({"rolled_back_to": back_to} if halted else {})


def test_a_halted_run_keeps_what_it_was_rolled_back_to() -> None:
    assert kept(run(0.41, 0.3, 0.1, halted=True, back_to=0)) == 0.41
    assert kept(run(0.3, 0.1, halted=True)) == 0.4
    assert kept(run(0.41, 0.3, 0.1)) == pytest.approx(0.2)


def test_a_halted_run_is_read_though_its_last_round_was_not_examined(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"kind": "cold_start", "evaluation/mean_at_k": 0.4}]
    for number, (state, found) in enumerate([("ok", 0.41), ("ok", 0.39), ("halt", None)]):
        row = {"kind": "round", "round": number, "monitor/state": state, "monitor/actions": []}
        rows.append(row if found is None else row | {"evaluation/mean_at_k": found})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "status.json").write_text('{"state": "halted"}')
    (tmp_path / "incident.json").write_text('{"last_clean_check": 1}')
    found = outcome(tmp_path)
    assert found["held_out"] == [0.41, 0.39] and found["halted"] and kept(found) == 0.39


def test_a_run_that_was_halted_has_not_recovered_but_lost_nothing() -> None:
    shown = table(
        {
            "alone/0": run(0.4, 0.4, 0.4),  # of a seed that served a choice
            "alone/7": run(0.3, 0.2, 0.2),
            "halts/7": run(0.3, 0.2, halted=True),
            "intervenes/7": run(0.3, 0.4, 0.38),
        }
    ).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|") for line in shown[2:]}
    counts = {arm: [cell.strip().split(" ")[0] for cell in row[6:9]] for arm, row in cells.items()}
    assert counts["alone"] == ["0/1", "0/1", "0/1"]
    assert counts["halts"] == ["0/1", "1/1", "1/1"]
    assert counts["intervenes"] == ["1/1", "0/1", "1/1"]
