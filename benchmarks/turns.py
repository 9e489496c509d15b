"""Workers that take one step at a time, in turn, so that a noisy machine disturbs all alike.

Each worker is a process of its own. One that fails or hangs ends the measurement: every worker is
ended, and the error names it and carries its traceback. Leaves out what a step is.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

Job = TypeVar("Job")
Row = dict[str, float]
START_TIMEOUT_SECONDS, STEP_TIMEOUT_SECONDS = 900, 300
END_TIMEOUT_SECONDS = 30


class WorkerError(RuntimeError):
    """A worker failed, died or hung; the message names it."""


@dataclass(frozen=True)
class Named(Generic[Job]):
    """A worker's job, and its name in results and errors."""

    name: str
    job: Job


@dataclass(frozen=True)
class Worker:
    """A started worker."""

    name: str
    process: BaseProcess
    pipe: Connection

    def ask(self, timeout: float = STEP_TIMEOUT_SECONDS) -> Row:
        """Let it take one step.

        Raises:
            WorkerError: it failed, died or took longer than `timeout` seconds.
        """
        try:
            self.pipe.send("step")
            if not self.pipe.poll(timeout):
                raise WorkerError(f"{self.name}: no step within {timeout:.0f} s")
            answer = self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join(END_TIMEOUT_SECONDS)
            code = self.process.exitcode
            raise WorkerError(f"{self.name}: the worker died, exit code {code}") from None
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer


def _run(work: Callable[[Job, Connection], None], job: Job, pipe: Connection) -> None:
    # A group of its own, so that whatever the worker starts can be ended with it.
    os.setpgid(0, 0)
    try:
        work(job, pipe)
    except Exception:
        with contextlib.suppress(BrokenPipeError):  # it was waiting for a turn that will not come
            pipe.send({"error": traceback.format_exc()})
        raise SystemExit(1) from None


@contextlib.contextmanager
def started(
    jobs: Sequence[Named[Job]], work: Callable[[Job, Connection], None]
) -> Iterator[list[Worker]]:
    """Start a process a job, side by side; all of them are ended on the way out."""
    spawn = multiprocessing.get_context("spawn")
    workers: list[Worker] = []
    try:
        for named in jobs:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_run, args=(work, named.job, theirs), daemon=True)
            process.start()
            theirs.close()  # so that a dead worker ends recv() instead of hanging it
            workers.append(Worker(named.name, process, ours))
        yield workers
    finally:
        for worker in workers:
            worker.pipe.close()  # one that waits for its next turn ends by itself
        for worker in workers:
            _end(worker.process)


def _end(process: BaseProcess) -> None:
    process.join(END_TIMEOUT_SECONDS)
    if process.is_alive():
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.join()


def take_turns(
    jobs: Sequence[Named[Job]],
    work: Callable[[Job, Connection], None],
    num_warmup: int,
    num_measured: int,
) -> dict[str, list[Row]]:
    """Step all workers in turn; the measured rows of each, warm-up left out.

    Args:
        jobs: one a worker.
        work: what a worker runs; it must receive before each step, and send a row after it.
        num_warmup: steps of each before the measured ones.
        num_measured: steps of each.

    Returns:
        Rows by name; row i of every name is of the same turn.

    Raises:
        WorkerError: a worker failed, died or hung.
    """
    rows: dict[str, list[Row]] = {named.name: [] for named in jobs}
    with started(jobs, work) as workers:
        for turn in range(num_warmup + num_measured):
            first = turn % len(workers)  # so that nobody always follows the same neighbour
            for worker in [*workers[first:], *workers[:first]]:
                row = worker.ask(STEP_TIMEOUT_SECONDS if turn else START_TIMEOUT_SECONDS)
                if turn >= num_warmup:
                    rows[worker.name].append(row)
    return rows
