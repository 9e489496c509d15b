"""The incident record: complete, JSON-able, and readable as Markdown."""

import json
import math

from critic.monitor.decide import check
from critic.monitor.incident import incident_markdown, incident_record
from critic.monitor.settings import MonitorSettings
from critic.monitor.state import MonitorState

GOOD: dict[str, float | None] = {
    "token_entropy": 0.5,
    "answer_entropy_across": 2.6,
    "answer_entropy_within": 1.1,
    "mutual_information": 1.5,
    "distinct_ratio": 0.8,
    "effective_groups": 0.7,
    "probe_gain": 0.0,
    "probe_nll": 0.9,
    "probe_mean_at_8": 0.4,
    "proxy_gold_gap": 0.05,
    "critic_ece": 0.1,
}


def incident(history: list[dict[str, float | None]]) -> dict[str, object]:
    settings, state = MonitorSettings(), MonitorState()
    for signals in history:
        state, health = check(state, signals, settings)
    samples: list[dict[str, object]] = [
        {"problem": "a4b1", "solution": "a4=40 ```` | x", "reward": math.nan, "n": index}
        for index in range(30)
    ]
    return incident_record(health, state, history, samples, settings)


def test_record_says_what_happened_and_where_to_go_back_to() -> None:
    bad = {**GOOD, "probe_mean_at_8": 0.2, "effective_groups": math.nan}
    record = incident([GOOD] * 4 + [bad] * 4)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["last_clean_check"] == 3
    assert record["quarantined_checks"] == [4, 5, 6, 7]
    assert record["num_samples"] == 30
    page = incident_markdown(record)
    assert page.startswith("# Incident: halt at check 7\n")
    assert "channel E still alarms" in page
    assert "Last clean check: 3." in page
    assert "| probe_mean_at_8 | E | falling | 0.4 |" in page
    assert "effective_groups (N): not a finite number (nan)" in page
    assert "`````\na4=40 ```` | x\n`````" in page


def test_record_of_a_run_that_was_never_clean() -> None:
    record = incident([{}, {}])
    assert record["last_clean_check"] is None
    assert record["quarantined_checks"] == [0, 1]
    assert "No check was clean" in incident_markdown(record)
