"""Every decision again from a run's metrics, bit for bit, wherever it was resumed."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critic.monitor.calibrate import BEFORE, noisy
from critic.monitor.decide import begin, check
from critic.monitor.readings import Reading
from critic.monitor.replay import readings_row, replay
from critic.monitor.settings import DEFAULT_RULES, GOLD, MonitorSettings
from critic.monitor.state import Health, MonitorState
from data.errors import UserError

Readings = dict[str, Reading | None]
SETTINGS = MonitorSettings()
numbers = st.one_of(st.floats(), st.floats(-1, 3), st.sampled_from([math.nan, 1e300]))
a_reading = st.none() | st.builds(Reading, value=numbers, error=st.floats(0, 0.2) | st.floats())
some_checks = st.lists(
    st.dictionaries(st.sampled_from(sorted(DEFAULT_RULES)), a_reading, max_size=12),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=40)
@given(some_checks)
def test_replay_equals_live_bit_for_bit_resumed_at_any_check(rows: list[Readings]) -> None:
    state, live = begin(rows[0], SETTINGS), []
    lines = [json.dumps({"kind": "cold_start", "round": 0, **readings_row(rows[0])})]
    for number, readings in enumerate(rows):
        state = MonitorState.model_validate_json(state.model_dump_json())
        state, health = check(state, readings, SETTINGS)
        live.append(health)
        lines.append(json.dumps({"kind": "step", "round": number, "reward/mean": 0.5}))
        lines.append(json.dumps({"kind": "round", "round": number, **readings_row(readings)}))
    assert replay([json.loads(line) for line in lines], SETTINGS) == live
    for health in live:
        assert Health.model_validate_json(health.model_dump_json()) == health


def test_replay_takes_the_rerun_of_a_killed_round() -> None:
    rng = random.Random(0)
    rows = [noisy(BEFORE, rng) for _ in range(6)]
    lines: list[dict[str, object]] = [
        {"kind": "round", "round": t, **readings_row(row)} for t, row in enumerate(rows)
    ]
    killed: dict[str, object] = {"kind": "round", "round": 3, **readings_row({})}
    assert replay([*lines[:3], killed, *lines[3:]]) == replay(lines) and len(replay(lines)) == 6


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"monitor/signals": {GOLD: 0.5}}, "an earlier version wrote it"),
        ({"monitor/signals": [1.0], "monitor/errors": {}}, "must be a table"),
        ({"monitor/signals": {GOLD: "0.5"}, "monitor/errors": {GOLD: 0.1}}, "must be a number"),
        ({"monitor/signals": {GOLD: 0.5}, "monitor/errors": {GOLD: True}}, "must be a number"),
        ({"monitor/signals": {GOLD: 0.5}, "monitor/errors": {}}, "needs its standard error"),
    ],
)
def test_replay_refuses_what_it_cannot_judge(row: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=f"row 1.*{told}"):
        replay([row])
