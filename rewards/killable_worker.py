"""The parent's side of a killable scoring process.

A scorer may hang inside C code that no exception or signal handler can interrupt, so it
runs in a process of its own: every question has a deadline, and a process that misses
it is killed and replaced. The process is a fresh interpreter (neither a fork nor a
multiprocessing spawn, which would import the training script again), so it never loads
torch. It ends with its parent, however the parent ends.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from rewards.verdict import Outcome, Verdict, score_verdict

START_SECONDS = 120.0  # imports SymPy or reasoning-gym, perhaps on a busy machine
EXIT_SECONDS = 1.0

WorkerKind = Literal["math", "puzzle", "text", "function"]
Status = Literal["scored", "unreadable", "timeout", "error"]
_PROJECT_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Reply:
    """What came of one question.

    `scored` has a score, or the `value` of a user's function; `unreadable` means that the answer
    itself could not be read; `timeout` and `error` mean that nothing was learned about the answer.
    `died` marks the `error` of a process that ended instead of replying.
    """

    status: Status
    score: float | None = None
    detail: str = ""
    died: bool = False
    value: object = None

    def verdict(self, verifier: str, version: str) -> Verdict:
        """The verdict that this reply amounts to."""
        if self.status in ("timeout", "error"):
            outcome: Outcome = "timeout" if self.status == "timeout" else "error"
            return Verdict(outcome, verifier, version, None, self.detail)
        if self.status == "unreadable":
            return Verdict("invalid", verifier, version, 0.0, self.detail)
        assert self.score is not None, "a scored reply has a score"
        return score_verdict(self.score, verifier, version)


class _Message(TypedDict, total=False):
    """A line from the process, as `rewards.scoring_process` writes it."""

    ready: bool
    fatal: str
    id: int
    status: Status
    score: float | None
    detail: str
    value: object


class KillableWorker:
    """One scoring process, started at the first question and replaced when it dies.

    Close it to end the process.
    """

    def __init__(self, kind: WorkerKind, argument: str = "") -> None:
        self._kind, self._argument = kind, argument
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[[subprocess.Popen[bytes]], KillableWorker] | None = None
        self._buffer = b""
        self._num_questions = 0
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id while the process lives."""
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and alive else None

    def ask(self, job: Mapping[str, object], timeout_seconds: float) -> Reply:
        """Put one job to the process and wait for its reply, at most `timeout_seconds`.

        Starting the process does not count against the deadline.

        Raises:
            RuntimeError: the process cannot be started.
        """
        with self._lock:
            if self.pid is None:
                self._start()
            try:
                return self._exchange(job, timeout_seconds)
            except BaseException:  # Ctrl-C: a late reply must not answer the next question
                self._stop(wait=False)
                raise

    def close(self) -> None:
        """End the process; asking again starts a new one."""
        with self._lock:
            self._stop(wait=True)

    def _exchange(self, job: Mapping[str, object], timeout_seconds: float) -> Reply:
        deadline = time.monotonic() + timeout_seconds
        self._num_questions += 1
        question = {**job, "id": self._num_questions, "timeout_seconds": timeout_seconds}
        try:
            self._write(json.dumps(question).encode() + b"\n", deadline)
            message = self._read(deadline)
        except TimeoutError:
            self._stop(wait=False)
            return Reply("timeout", detail=f"no verdict within {timeout_seconds:g} s")
        except (EOFError, BrokenPipeError):
            detail = f"the {self._kind} worker died: {self._obituary()}"
            return Reply("error", detail=detail, died=True)
        assert message["id"] == self._num_questions, f"reply {message} answers another question"
        return Reply(
            message["status"], message.get("score"), message.get("detail", ""),
            value=message.get("value"),
        )  # fmt: skip

    def _start(self) -> None:
        self._stop(wait=False)
        paths = [str(_PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            # -P keeps the working directory, and so a file named like a library, off the path.
            [
                *(sys.executable, "-P", "-W", "ignore", "-m", "rewards.scoring_process"),
                *(self._kind, self._argument),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, **environment},
        )
        assert self._process.stdin is not None, "a worker's input is a pipe"
        os.set_blocking(self._process.stdin.fileno(), False)
        self._finalizer = weakref.finalize(self, _kill, self._process)
        self._buffer = b""
        try:
            message = self._read(time.monotonic() + START_SECONDS)
            reason = message.get("fatal", "")
        except TimeoutError:
            reason = f"not ready after {START_SECONDS:g} s"
        except EOFError:
            reason = self._obituary()
        except BaseException:
            self._stop(wait=False)
            raise
        if reason:
            self._stop(wait=False)
            raise RuntimeError(
                f"the {self._kind} worker does not start ({reason}): run `python -m "
                f"rewards.scoring_process {self._kind} {self._argument}`".rstrip()
                + " from the checkout to see why"
            )

    def _write(self, line: bytes, deadline: float) -> None:
        assert self._process is not None and self._process.stdin is not None, "worker not started"
        descriptor = self._process.stdin.fileno()
        while line:
            _wait(descriptor, select.POLLOUT, deadline)
            line = line[os.write(descriptor, line) :]

    def _read(self, deadline: float) -> _Message:
        assert self._process is not None and self._process.stdout is not None, "worker not started"
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            _wait(descriptor, select.POLLIN, deadline)
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: _Message = json.loads(line)
        return message

    def _obituary(self) -> str:
        assert self._process is not None, "no worker to report on"
        try:
            code = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        self._stop(wait=False)
        return f"exit status {code}" if code is None or code >= 0 else f"signal {-code}"

    def _stop(self, *, wait: bool) -> None:
        """End the process, by closing its input if it may take a moment, else at once."""
        process, self._process = self._process, None
        if process is None:
            return
        if wait and process.stdin is not None:
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):  # _kill follows
                process.wait(EXIT_SECONDS)
        _kill(process)
        if self._finalizer is not None:
            self._finalizer.detach()


def _wait(descriptor: int, event: int, deadline: float) -> None:
    """Wait until the pipe is ready; poll, as select fails on descriptors above 1023."""
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()
