"""What TensorBoard and W&B wrote of a run and its resumption, read back from their own files."""

import json
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
from accelerate import PartialState
from doc_blocks import block
from pipeline_cases import SMALLEST_RUN, arguments, random_moe, rows, save
from wandb_file import wandb_run

from pipelines import rl
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.run.trackers import numbers, start_trackers

pytestmark = pytest.mark.timeout(600)


def shown(begins: str, name: str) -> str:
    """The `run.trackers=…` of docs/use.md's lines for a tracker, as a shell hands it on."""
    words = shlex.split(block(begins), comments=True)
    (found,) = (word for word in words if word.startswith("run.trackers="))
    assert json.loads(found.partition("=")[2]) == [name]
    return found


def a_run_and_its_resumption(folder: Path, trackers: str) -> Path:
    """Two rounds of one step, the second one resumed."""
    moe, directory = save(random_moe(character_tokenizer()), folder / "moe"), folder / "run"
    given = arguments(moe, directory, *SMALLEST_RUN, "run.rounds=1", trackers)
    assert rl.main(given) == 0
    assert rl.main(["--resume", str(directory), "run.rounds=2"]) == 0
    assert not [row for row in rows(directory, "note") if "run.trackers" in str(row["note"])]
    return directory


def logged(directory: Path) -> list[dict[str, float]]:
    """What metrics.jsonl says that trackers were given."""
    found = [numbers(row) for row in rows(directory) if row["kind"] in ("step", "round")]
    assert len(found) == 4 and all(len(row) > 20 for row in found)
    return found


def test_tensorboards_event_files_have_every_number(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = a_run_and_its_resumption(tmp_path, shown("pip install tensorboard", "tensorboard"))
    events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    expected: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for at, row in enumerate(logged(directory)):
        for key, value in row.items():
            expected[key].append((at, pytest.approx(float(value), rel=1e-6)))
    assert set(events.Tags()["scalars"]) == set(expected)
    for key, values in expected.items():
        assert [(one.step, one.value) for one in events.Scalars(key)] == values, key


def test_wandbs_offline_files_have_every_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    directory = a_run_and_its_resumption(tmp_path, shown("pip install wandb", "wandb"))
    files = sorted(directory.glob("wandb/offline-run-*/*.wandb"))
    names, configs, histories = zip(*map(wandb_run, files), strict=True)
    assert len(files) == 2 and len(set(names)) == 1, "one run, of two parts"
    assert configs[0]["learner.model"] == str(tmp_path / "moe") and not configs[1]
    assert set(histories[0]) == {0, 1} and set(histories[1]) == {2, 3}, "counted on"
    found = histories[0] | histories[1]
    for at, row in enumerate(logged(directory)):
        assert found[at] == pytest.approx(row), at


def test_the_rows_of_a_round_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come a second time: TensorBoard hides the first ones, W&B keeps both."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    PartialState()  # a run's trainers have made it
    for before, values in ((0, (1.0, 2.0, 3.0)), (1, (4.0, 5.0))):
        started = start_trackers(("tensorboard", "wandb"), tmp_path, {"a": 1}, before)
        for value in values:
            assert started.log({"kind": "round", "value": value}) == []
        started.finish()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("value")] == [(0, 1), (1, 4), (2, 5)]
    first, second = (wandb_run(file)[2] for file in sorted(tmp_path.rglob("*.wandb")))
    assert [first[at]["value"] for at in (0, 1, 2)] == [1, 2, 3]
    assert [second[at]["value"] for at in (1, 2)] == [4, 5]
