"""`sparring-data generate --shard` and `merge` with a checkpoint that was trained for seconds."""

from pathlib import Path

import pytest
from dataset_cases import command, records, refused

from data.dataset_folder import DatasetFolder
from data.held_out import read_held_out
from data.shard import Shard
from pipelines.dataset import main

FEW = ["--num", "6", "--no-critic", "rollout.engine=transformers"]


def test_shards_are_disjoint_and_merge_into_a_sound_set(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = [tmp_path / "one", tmp_path / "two"]
    for number, out in enumerate(shards, start=1):
        assert main(command(base, out, *FEW, "--shard", f"{number}/2")) == 0
    first, second = map(records, shards)
    assert all(Shard(1, 2).holds(record.task_id) for record in first)
    assert all(Shard(2, 2).holds(record.task_id) for record in second)
    assert not {one.sampling_seed for one in first} & {one.sampling_seed for one in second}
    other = command(base, shards[0], *FEW, "--shard", "2/2", "--resume")
    assert "shard 1/2 -> 2/2" in refused(capsys, other)
    assert "--shard must be i/n" in refused(capsys, command(base, shards[0], "--shard", "3/2"))

    out = tmp_path / "out"
    assert main(["merge", str(out), *map(str, shards)]) == 0
    ids = {record.id for record in (*first, *second)}
    assert {record.id for record in records(out)} == ids
    progress = DatasetFolder(out).progress()
    assert progress is not None and progress.accepted == 12
    assert main(["verify", str(out)]) == 0
    assert main(["export", str(out), "--format", "sft", "--out", str(tmp_path / "sft.jsonl")]) == 0
    assert read_held_out(out) == read_held_out(shards[0])
    assert "was merged" in refused(capsys, command(base, out, *FEW, "--resume"))
