"""The incident record: complete, JSON-able, and readable as Markdown."""

import json
import math

from critic.monitor.calibrate import BEFORE, ERRORS
from critic.monitor.decide import begin, check
from critic.monitor.incident import incident_markdown, incident_record
from critic.monitor.readings import Reading
from critic.monitor.settings import MonitorSettings

GOOD = {**BEFORE, "gold_accuracy": 0.4}


def incident(history: list[dict[str, float]]) -> dict[str, object]:
    settings = MonitorSettings()
    rows = [{n: Reading(value=v, error=ERRORS[n]) for n, v in row.items()} for row in history]
    state = begin(rows[0], settings)
    for readings in rows:
        if state.level != "halt":
            state, health = check(state, readings, settings)
    samples: list[dict[str, object]] = [
        {"problem": "a4b1", "solution": "a4=40 ```` | x", "reward": math.nan, "n": index}
        for index in range(30)
    ]
    return incident_record(health, state, history, samples, settings)


def test_record_says_what_happened_and_where_to_go_back_to() -> None:
    bad = {**GOOD, "gold_accuracy": 0.2, "effective_groups": math.nan}
    record = incident([GOOD] * 4 + [bad] * 4)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["last_clean_check"] == 3
    assert record["quarantined_checks"] == [4, 5, 6]
    assert record["num_samples"] == 30
    page = incident_markdown(record)
    assert page.startswith("# Incident: halt at check 6\n")
    assert "channel E still alarms" in page
    assert "Last clean check: 3." in page
    assert "| gold_accuracy | E | falling | 0.4 | 0.025 |" in page
    assert "no reading, so not judged: effective_groups" in page
    assert "`````\na4=40 ```` | x\n`````" in page


def test_samples_are_read_at_a_glance_and_nothing_of_them_is_left_out() -> None:
    record = incident([GOOD] * 2 + [{**GOOD, "gold_accuracy": 0.1}] * 4)
    sample = {"task": "61ef", "solution": "2 * 3 * 4", "reward": 1 / 3, "defect": None,
              "begun_with": "", "marks": [], "length": 0, "said": "a._b_.c"}  # fmt: skip
    page = incident_markdown({**record, "samples": [sample], "num_samples": 1})
    _, shown = page.split("### 1\n\n")
    plain = "task: 61ef · reward: 0.333333 · defect: - · begun_with: (empty) · marks: - · length: 0"
    assert shown.startswith(f"{plain}\n\n**solution**\n\n```\n2 * 3 * 4\n```\n")
    assert "```\na._b_.c\n```" in shown, "it would be italic"


def test_record_of_a_run_that_was_never_clean() -> None:
    good, broken = [{**GOOD}], [{**GOOD, "gold_form": 0.7, "gold_accuracy": 0.2}]
    record = incident(good + broken * 4)
    assert record["last_clean_check"] == 0
    assert record["quarantined_checks"] == [1, 2, 3]
    record["last_clean_check"] = None
    assert "No check was clean" in incident_markdown(record)
