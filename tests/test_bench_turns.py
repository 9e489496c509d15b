"""The benchmark's workers: stepped in turn, and ended with a clear error when one fails."""

import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from turns import Named, WorkerError, take_turns


def count(start: int, pipe: Connection) -> None:
    """A worker that answers with a running number; a negative one fails at its second step."""
    for number in range(start, start + 3):
        assert pipe.recv() == "step"
        if number == -1:
            raise ValueError("the step failed")
        pipe.send({"number": number, "time": time.monotonic()})


def test_workers_step_in_turn() -> None:
    jobs = [Named("a", 0), Named("b", 10)]
    rows = take_turns(jobs, count, num_warmup=1, num_measured=2)
    assert [row["number"] for row in rows["a"]] == [1, 2]
    assert [row["number"] for row in rows["b"]] == [11, 12]
    # The second turn starts with b, the third with a.
    a, b = ([row["time"] for row in rows[name]] for name in "ab")
    assert b[0] < a[0] < a[1] < b[1]


def test_a_failing_worker_is_named_and_all_are_ended() -> None:
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"broken: (.|\n)*ValueError: the step failed"):
        take_turns([Named("fine", 0), Named("broken", -2)], count, num_warmup=0, num_measured=3)
    assert time.monotonic() - began < 60
