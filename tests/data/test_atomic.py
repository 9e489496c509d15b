"""A file or a folder is wholly there or not there at all, however its writing ends."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data.atomic import atomic_folder

WRITER = """
import os, sys, time
from pathlib import Path
from data.atomic import atomic_folder
with atomic_folder(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write(target: Path, **files: str) -> None:
    with atomic_folder(target) as partial:
        for name, text in files.items():
            (partial / "inner").mkdir(exist_ok=True)
            (partial / "inner" / name).write_text(text)


def test_a_folder_is_made_and_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    write(target, a="1", b="2")
    assert contents(target) == {"inner/a": "1", "inner/b": "2"}
    write(target, c="3")
    assert contents(target) == {"inner/c": "3"}, "nothing of the earlier folder stays"
    assert os.listdir(target.parent) == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_what_there_was(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "folder"
    for before in ({}, {"inner/a": "1"}):
        with pytest.raises(error), atomic_folder(target) as partial:
            (partial / "half").write_text("half")
            raise error
        assert (contents(target) if target.exists() else {}) == before
        assert not (tmp_path / "folder.partial").exists()
        write(target, a="1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_kill_leaves_what_there_was(tmp_path: Path, number: signal.Signals) -> None:
    """A partial folder may stay behind a kill; the next write deletes it."""
    target = tmp_path / "folder"
    write(target, a="1")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL, cwd=Path(__file__).resolve().parents[2],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    process.send_signal(number)
    assert process.wait(30) != 0
    assert contents(target) == {"inner/a": "1"}
    assert (tmp_path / "folder.partial").exists() == (number == signal.SIGKILL)
    write(target, b="2")
    assert contents(target) == {"inner/b": "2"} and os.listdir(tmp_path) == ["folder"]


def test_everything_is_flushed_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, fsync, rename = list[str](), os.fsync, os.rename

    def flush(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def move(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "rename", move)
    write(tmp_path / "folder", a="1", b="2")
    partial = f"{tmp_path}/folder.partial"
    needed = {partial, *(f"{partial}/inner{name}" for name in ("", "/a", "/b"))}
    assert set(done[: done.index("rename")]) == needed
    assert done[done.index("rename") + 1 :] == [str(tmp_path)], "and the parent after it"


def test_several_writers_fill_one_folder(tmp_path: Path) -> None:
    """The owner gives the name only when all have written; nobody goes on before it has."""
    barrier = threading.Barrier(3, timeout=30)
    found: list[bool] = []

    def fill(number: int) -> None:
        target = tmp_path / "folder"
        with atomic_folder(target, owner=number == 0, barrier=barrier.wait) as partial:
            (partial / str(number)).write_text(str(number))
        found.append(set(contents(target)) == {"0", "1", "2"})

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 3


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"):
        write(tmp_path / "file", a="1")
    assert contents(tmp_path) == {"file": "mine"}
