"""Data sets whose shards are of the first schema: each command goes on, and no set breaks."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from set_cases import as_version_1, make_shards_old, sum_record, write_set

from data.dataset_folder import DatasetFolder, open_records
from data.records import Record
from data.shard import Shard
from pipelines.dataset import main

WRONG = "verifier: incorrect"


def batch(number: int, make: Callable[[Record], Record]) -> list[Record]:
    """Two accepted records and one that is wrong."""
    first = 10 * number
    return [
        make(sum_record(first, round_=number)), make(sum_record(first + 1, round_=number)),
        make(sum_record(first, round_=number, reason=WRONG, seed=1)),
    ]  # fmt: skip


def old_set(path: Path, start: int = 0, shard: Shard | None = None) -> Path:
    """A set of two batches as the first version wrote it."""
    write_set(path, [batch(start + n, as_version_1) for n in (0, 1)], shard=shard)
    make_shards_old(path / "train", path / "rejected")
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return old_set(tmp_path / "old")


def versions(path: Path) -> list[int]:
    return [record.schema_version for record in open_records(path).records()]


def test_an_old_set_is_verified_exported_and_shown(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(old)]) == 0
    assert main(["inspect", str(old), "--num", "1"]) == 0
    assert main(["stats", str(old)]) == 0
    capsys.readouterr()
    assert main(["inspect", str(old), "--num", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["schema_version"], shown["rendered"], shown["max_new_tokens"]) == (1, "", 0)
    for name, num in (("sft", 4), ("prompts", 4)):
        out = tmp_path / f"{name}.jsonl"
        assert main(["export", str(old), "--format", name, "--out", str(out)]) == 0
        assert len(out.read_text().splitlines()) == num
    shards = [str(path) for path in (old / "train").iterdir()]
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps({"question": "What is asked of nobody else here, today?"}))
    clean = ["decontaminate", *shards, "--against", str(held_out), "--out", str(tmp_path / "clean")]
    assert main(clean) == 0


def test_an_old_set_that_goes_on_is_of_both_and_says_so(old: Path, tmp_path: Path) -> None:
    folder = DatasetFolder(old)
    progress = folder.progress()
    assert progress is not None
    folder.clean_up(progress)
    folder.save(folder.commit(batch(2, lambda record: record), folder.reopen(progress)))
    folder.write_card()
    assert sorted(versions(old)) == [1] * 6 + [2] * 3
    assert main(["verify", str(old)]) == 0
    loaded = datasets.load_dataset(str(old), split="train", cache_dir=tmp_path / "cache")
    assert loaded["schema_version"] == [1, 1, 1, 1, 2, 2]
    assert "schema versions: `1`, `2`" in (old / "README.md").read_text()


def test_an_old_shard_is_merged_with_a_new_one(tmp_path: Path) -> None:
    old_set(tmp_path / "a", shard=Shard(1, 2))
    write_set(tmp_path / "b", [batch(5, lambda record: record)], shard=Shard(2, 2))
    out = tmp_path / "out"
    assert main(["merge", str(out), str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert sorted(versions(out)) == [1] * 6 + [2] * 3
    assert main(["verify", str(out)]) == 0
