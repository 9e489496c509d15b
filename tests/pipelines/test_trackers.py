"""Experiment trackers get every step's and round's numbers, over a resume too, and break no run."""

import importlib.util
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from own_tracker import Lines
from pipeline_cases import (
    ROOT,
    arguments,
    environment,
    random_moe,
    refused,
    rows,
    run,
    save,
)

from pipelines import rl
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.run.trackers import Trackers, flat, numbers, start_trackers

pytestmark = pytest.mark.timeout(600)
OWN = f"{ROOT / 'tests' / 'support' / 'own_tracker.py'}:Lines"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("trackers") / "moe")


def tracked(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "tracked.jsonl").read_text().splitlines()]


def test_a_run_and_its_resumption_are_tracked_as_one(checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trackers = (f"run.trackers=[{OWN!r}, {OWN.replace('Lines', 'Broken')!r}]",)
    given = arguments(checkpoint, run, "rollout.engine=transformers", "run.rounds=1", *trackers)
    assert rl.main(given) == 0
    assert rl.main(["--resume", str(run), "run.rounds=2"]) == 0

    found = tracked(run)
    (config,) = (row for row in found if "config" in row)
    assert config["config"]["learner.model"] == str(checkpoint)
    finished = [row["finished"] for row in found if "finished" in row]
    assert finished == [config["name"]] * 2 and config["name"].startswith("run-"), "one run"
    logged = [row for row in found if "at" in row]
    expected = [row for row in rows(run) if row["kind"] in ("step", "round")]
    assert [row["at"] for row in logged] == list(range(len(expected))), "one count over the resume"
    for theirs, ours in zip(logged, expected, strict=True):
        prefix = f"{ours['role']}/" if ours["kind"] == "step" else ""
        for key in ("reward/mean", "gate/admitted", "time/step"):
            assert theirs.get(f"{prefix}{key}") == ours.get(key)
        assert all(isinstance(value, int | float) for value in theirs.values())
    assert any(key.startswith("monitor/signals/") for key in logged[-1]), "tables are laid flat"
    notes = [str(row["note"]) for row in rows(run, "note") if "run.trackers" in str(row["note"])]
    assert len(notes) == 2 and all("Broken failed and gets no more rows" in note for note in notes)


def test_only_numbers_are_handed_on() -> None:
    row = {"kind": "round", "round": 1, "a": float("nan"), "b": [1], "c": {"d": 2.5, "e": None}}
    assert numbers(row) == {"round": 1, "c/d": 2.5}
    assert numbers({"kind": "step", "role": "critic", "x": True}) == {"critic/x": True}
    assert flat({"a": {"b": {"c": None}}}) == {"a.b.c": "None"}
    lines = Trackers({})
    assert lines.log({"kind": "note", "note": "x"}) == [] and lines.num_rows == 0


def test_no_tracker_writes_nothing(tmp_path: Path) -> None:
    start_trackers((), tmp_path, {}, 0).finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("trackers", "said"),
    [
        ("['wanb']", 'run.trackers = [\'wanb\']: unknown tracker "wanb": did you mean "wandb"?'),
        ("['absent.py:Tracker']", "run.trackers: absent.py:Tracker: there is no file absent.py"),
        (f"[{OWN}s]".replace("[", "['").replace("]", "']"), "has no function or class 'Liness'"),
        (f"['{OWN.replace('Lines', 'NO_TRACKER')}']", "is not a subclass of accelerate's General"),
        *(
            (
                f"['{name}']",
                f"run.trackers: {name} needs the package {name}, which is not installed",
            )
            for name in ("tensorboard", "wandb", "trackio")
            if importlib.util.find_spec(name) is None
        ),
    ],
)
def test_a_tracker_that_cannot_be_used_is_refused(
    checkpoint: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    trackers: str,
    said: str,
) -> None:
    command = arguments(checkpoint, tmp_path / "run", f"run.trackers={trackers}")
    line = refused(capfd, rl.main, [*command, "rollout.engine=transformers"])
    assert said in line and not (tmp_path / "run").exists(), line


TRACKIO = """
import sys
from pathlib import Path
from accelerate import PartialState
from pipelines.run.trackers import start_trackers

PartialState()  # a run's trainers have made it
for num_rows in (0, 1):  # a run, and the same resumed
    started = start_trackers(("trackio",), Path(sys.argv[1]), {"a": {"b": 1}}, num_rows)
    assert started.log({"kind": "round", "round": num_rows, "reward/mean": 0.5}) == []
    started.finish()
"""


def test_trackio_takes_rows(tmp_path: Path) -> None:
    """Where it is installed: its data base. The others by name: test_tracker_files.py."""
    pytest.importorskip("trackio")
    # In a process of its own, since trackio reads where its folder is when it is imported.
    done = run(
        [sys.executable, "-c", TRACKIO, str(tmp_path)], environment(TRACKIO_DIR=str(tmp_path))
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.db")
    with closing(sqlite3.connect(file)) as base:
        found = base.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert [step for _, step, _ in found] == [0, 1] and len({name for name, _, _ in found}) == 1
    assert [json.loads(row) for _, _, row in found] == [
        {"round": num, "reward/mean": 0.5} for num in (0, 1)
    ]


def test_the_own_tracker_is_accelerates_interface(tmp_path: Path) -> None:
    Lines("x", str(tmp_path)).start()  # inherited; its constructor checks what a tracker must have
