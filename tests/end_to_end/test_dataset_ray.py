"""`sparring-data generate --ray N`: the shards that an array of jobs would make, joined."""

import importlib.util
from pathlib import Path

import pytest
from dataset_cases import command, records, refused

from pipelines.dataset import main
from pipelines.synthesis.on_ray import shards_folder

pytestmark = pytest.mark.timeout(600)
NEEDED = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is optional")


def test_what_cannot_be_spread_is_refused_at_once(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = command(base, tmp_path / "set")
    assert "--ray must be at least 1" in refused(capsys, [*given, "--ray", "0"])
    assert "leave out --shard" in refused(capsys, [*given, "--ray", "2", "--shard", "1/2"])
    there = importlib.util.find_spec
    hidden = lambda name, *more: None if name == "ray" else there(name, *more)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", hidden)
    said = refused(capsys, [*given, "--ray", "2"])
    assert 'pip install "ray[data]"' in said and "--shard i/n" in said
    assert not (tmp_path / "set").exists()


@NEEDED
@pytest.mark.slow
def test_rows_of_a_ray_data_set_are_the_shards_of_an_array(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "ray"
    assert main([*command(base, out), "--ray", "2"]) == 0
    parts = [tmp_path / "part1", tmp_path / "part2"]
    for number, part in enumerate(parts, start=1):
        given = command(base, part, "--shard", f"{number}/2")
        given[given.index("--num") + 1] = str(-(-int(given[given.index("--num") + 1]) // 2))
        assert main(given) == 0
    merged = tmp_path / "merged"
    assert main(["merge", str(merged), *map(str, parts)]) == 0
    assert [one.id for one in records(out)] == [one.id for one in records(merged)]
    assert records(out) == records(merged)
    assert sorted(path.name for path in shards_folder(out).iterdir()) == ["1-of-2", "2-of-2"]


@NEEDED
@pytest.mark.slow
def test_a_shard_that_fails_is_one_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tasks run out: the worker's own words, and none of Ray's frames."""
    few = tmp_path / "few.jsonl"
    few.write_text('{"question": "Calculate 1 + 2.", "answer": "3"}\n' * 1)
    given = command(
        base, tmp_path / "set", "tasks.source=jsonl", f"tasks.path={few}", "tasks.family=few",
        "tasks.params={}",
    )  # fmt: skip
    said = refused(capsys, [*given, "--ray", "2"])
    assert "a shard failed: " in said and "--resume goes on" in said
