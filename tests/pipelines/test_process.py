"""A process: freed blocks stay with it, and its mistakes are reported."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.process import fail_clearly

ROOT = Path(__file__).resolve().parents[2]
_LARGE_BLOCK = """
import ctypes, sys
from pipelines.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
block = libc.malloc(100 * 2**20)
with open("/proc/self/maps") as maps:
    heap = next(line for line in maps if line.rstrip().endswith("[heap]"))
start, end = (int(bound, 16) for bound in heap.split()[0].split("-"))
print("heap" if start <= block < end else "mapping")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(("mode", "where"), [("default", "mapping"), ("keep", "heap")])
def test_large_blocks_come_from_the_heap_that_keeps_them(mode: str, where: str) -> None:
    command = [sys.executable, "-c", _LARGE_BLOCK, mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == (where, 0), done.stderr


@pytest.mark.parametrize(("rank", "told"), [("0", "error: no"), ("1", "error (process 1): no")])
def test_every_process_reports_its_mistake(
    rank: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server of one process alone may fail to start."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handler
    with pytest.raises(SystemExit) as ended, fail_clearly():
        raise UserError("no")
    assert (ended.value.code, capsys.readouterr().err) == (2, f"{told}\n")


_LAUNCHER = """
import subprocess, sys
code = "from pipelines.process import *\\nwith fail_clearly(): raise UserError('no such key')"
status = subprocess.run([sys.executable, "-c", code]).returncode
print(f"Traceback of a launcher: {status}", file=sys.stderr)
sys.exit(1)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no Linux")
@pytest.mark.parametrize(("name", "last"), [("accelerate", "error: no such key"), ("make", "")])
def test_below_a_launchers_traceback_our_line_is_said_again(
    tmp_path: Path, name: str, last: str
) -> None:
    """Under a program that is no launcher it is said once."""
    (tmp_path / name).write_text(_LAUNCHER)
    command = [sys.executable, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    once = ["error: no such key", "Traceback of a launcher: 2"]
    assert done.stderr.splitlines() == once + ([last] if last else [])


def test_what_an_exception_notes_follows_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended, fail_clearly():
        error = KeyboardInterrupt()
        error.add_note("go on: ...")
        raise error
    assert (ended.value.code, capsys.readouterr().err) == (130, "interrupted; go on: ...\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ValueError that nobody named as a user's mistake is ours."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(ValueError, match="ours"), fail_clearly():
        raise ValueError("ours")
