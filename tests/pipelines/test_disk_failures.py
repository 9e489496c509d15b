"""A full disk and a bad folder of `sparring-data`: one line, and nothing is lost."""

import errno
import os
from pathlib import Path

import pytest
from set_cases import sum_record, write_set

from data import atomic
from data.dataset_folder import DatasetFolder
from data.shard import Shard
from pipelines.dataset import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that the command fails with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [write_set(tmp_path / str(n), [[sum_record(n)]], shard=Shard(n, 2)) for n in (1, 2)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_one_line_and_leaves_no_half_set(
    shards: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", full)
    assert os.strerror(number) in refused(capsys, "merge", tmp_path / "out", *shards)
    assert "--resume" in refused(capsys, "export", shards[0], "--format", "sft", "--out",
                                 tmp_path / "rows.jsonl")  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}


def test_a_full_disk_keeps_complete_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_set(tmp_path / "set", [[sum_record(1)]], status="open")
    folder = DatasetFolder(path)
    progress, real, calls = folder.progress(), os.fsync, []
    assert progress is not None

    def soon_full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:  # the shard of the batch is written, its ledger and progress are not
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", soon_full)
    with pytest.raises(OSError):
        folder.commit([sum_record(2, round_=1)], progress)
    monkeypatch.undo()
    assert folder.progress() == progress
    folder.clean_up(progress)
    assert [one.id for one in folder.records()] == [sum_record(1).id]
    assert folder.missing(progress) == []


@pytest.mark.parametrize("out", ["file/below", "file", "/proc/nobody/set"])
def test_a_folder_that_cannot_be_made_is_one_line(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "file").write_text("mine")
    place = tmp_path / out  # an absolute one stays as it is
    named = out.removesuffix("/set")  # what cannot be made
    assert named in refused(capsys, "merge", place, *shards)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_bug_keeps_its_traceback(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("a bug of ours")

    monkeypatch.setattr("pipelines.synthesis.merge._require_sound", broken)
    with pytest.raises(OSError, match="a bug of ours"):
        main(["merge", str(tmp_path / "out"), *map(str, shards)])
