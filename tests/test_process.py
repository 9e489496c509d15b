"""The memory of a process: freed blocks stay with it."""

import platform
import subprocess
import sys

import pytest

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
