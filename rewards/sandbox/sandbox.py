"""One sandbox, seen from the run's process: started, given jobs one at a time, ended.

    with closing(Sandbox(SandboxSettings(), timeout_seconds=5.0)) as sandbox:
        outcome = sandbox.run_script(["print(input())"], stdin="hello")

Leaves out what an outcome means for a task (`rewards/code_verifier.py`), and several sandboxes side
by side (`pool.py`).
"""

import base64
import json
import os
import select
import signal
import struct
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, Literal

from rewards.sandbox import launch
from rewards.sandbox.confine import Limits
from rewards.sandbox.guest import MAPPED, READY, UNSHARED
from rewards.sandbox.settings import Kind, SandboxSettings

START_SECONDS = 60.0  # on a busy machine
GRACE_SECONDS = 60.0  # beyond a program's deadline, for the guest itself on such a machine
WALL_PER_CPU = 2.0  # a program's deadline by the clock, relative to its processor time
_EXIT_SECONDS = 1.0
_LENGTH = struct.Struct(">I")

Ended = Literal["finished", "deadline", "cpu", "output", "fault"]


class SandboxError(RuntimeError):
    """The sandbox itself does not work; nothing is known of the program."""


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Attributes:
        ended: how: by itself, at its deadline by the clock, at its limit of processor time or of
            output; `fault` is the sandbox's own failure, and nothing was run.
        exit: a script's exit status; None if a signal ended it.
        signal: the signal; None if none did.
        stdout: the first of a script's output, no more than the limit.
        stderr: the same of its errors.
        report: the examiner's lines, of tests.
        cpu_seconds: processor time that the program used.
        wall_seconds: from when it was handed over.
        fault: what failed.
    """

    ended: Ended
    exit: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    report: str = ""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    fault: str = ""


class Sandbox:
    """A guest process that serves one job at a time; started at the first, restarted when it dies.

    Args:
        settings: what a program may use.
        timeout_seconds: its processor time; by the clock it has `WALL_PER_CPU` times as much.
        kind: which sandbox; see `choose` in `pool.py`.
    """

    def __init__(self, settings: SandboxSettings, timeout_seconds: float, kind: Kind) -> None:
        self.kind = kind
        self._limits = Limits(
            isolated=kind != "weak", cpu_seconds=timeout_seconds,
            wall_seconds=timeout_seconds * WALL_PER_CPU, memory_mb=settings.memory_mb,
            tmp_mb=settings.tmp_mb, output_kb=settings.output_kb, threads=settings.threads,
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the guest, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the guest, if there is none.

        Raises:
            SandboxError: it cannot be started; says why.
        """
        with self._lock:
            if self._process is None:
                self._start()

    def run_script(self, sources: Sequence[str], stdin: str = "") -> Outcome:
        """Run a program as `python program.py`.

        Args:
            sources: spellings of it; the first that compiles is run.
            stdin: its input.

        Raises:
            SandboxError: the guest cannot be started.
        """
        return self._job({"mode": "script", "sources": [*sources], "stdin": stdin})

    def run_tests(
        self,
        sources: Sequence[str],
        tests: Sequence[str],
        *,
        entry_point: str = "",
        names: Sequence[str] = (),
        prompt: str = "",
        setup: str = "",
    ) -> Outcome:
        """Put tests to a program's functions.

        Args:
            sources: spellings of the program; the first that compiles is run.
            tests: Python with assertions, run outside the program. If they define `check`, it is
                called with the program's `entry_point`.
            entry_point: the function that tests call `candidate`; "" for none.
            names: the program's other names that tests use, where those are Python's own too.
            prompt: code that tests may use, shown with the task.
            setup: code that precedes the tests.

        Raises:
            SandboxError: the guest cannot be started.
        """
        return self._job(
            {
                "mode": "tests", "sources": [*sources], "tests": [*tests], "names": [*names],
                "entry_point": entry_point, "prompt": prompt, "setup": setup,
            }
        )  # fmt: skip

    def close(self) -> None:
        """End the guest and all that is in it; another job starts a new one."""
        with self._lock:
            self._stop()

    def _job(self, job: Mapping[str, object]) -> Outcome:
        body = json.dumps(job).encode()
        with self._lock:
            reply = self._asked(body)
            if reply.get("guest") == "died":  # perhaps while it was idle: its successor is asked
                reply = self._asked(body)
            reply.pop("guest", None)
        for name in ("stdout", "stderr", "report"):
            reply[name] = base64.b64decode(reply.get(name, ""))
        reply["report"] = reply["report"].decode(errors="replace")
        return Outcome(**reply)

    def _asked(self, body: bytes) -> dict[str, Any]:
        """Give the guest a job; what it replies, or that it failed, and whether it died of it."""
        if self._process is None:
            self._start()
        deadline = time.monotonic() + self._limits.wall_seconds + GRACE_SECONDS
        try:
            self._write(_LENGTH.pack(len(body)) + body, deadline)
            size = _LENGTH.unpack(self._read(_LENGTH.size, deadline))[0]
            reply: dict[str, Any] = json.loads(self._read(size, deadline))
            return reply
        except (TimeoutError, EOFError, BrokenPipeError) as error:
            why = self._obituary(error)
            self._stop()
            guest = "late" if isinstance(error, TimeoutError) else "died"
            return {"ended": "fault", "fault": why, "guest": guest}
        except BaseException:  # Ctrl-C: a late reply must not answer the next job
            self._stop()
            raise

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the guest)
        environment = {**launch.ENVIRONMENT, **_paths(self.kind)}
        self._process = _starter(os.getpid()).submit(
            subprocess.Popen,
            launch.command(self.kind, self._limits), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, bufsize=0, env=environment, cwd="/", start_new_session=True,
        ).result()  # fmt: skip
        self._finalizer = weakref.finalize(self, _kill, self._process)
        assert self._process.stdin is not None, "a guest's input is a pipe"
        os.set_blocking(self._process.stdin.fileno(), False)
        deadline = time.monotonic() + START_SECONDS
        try:
            if self.kind == "namespaces":
                self._map_users(deadline)
            said = self._read(1, deadline)
            if said != READY:
                raise EOFError(f"it said {said!r}")
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            why = self._obituary(error)
            self._stop()
            raise SandboxError(f"{self.kind} does not work: {why}") from None
        except BaseException:
            self._stop()
            raise

    def _map_users(self, deadline: float) -> None:
        assert self._process is not None, "the guest has been started"
        said = self._read(1, deadline)
        if said != UNSHARED:
            raise EOFError(f"it said {said!r}")
        place = f"/proc/{self._process.pid}"
        files = {"uid_map": launch.user_map(), "gid_map": launch.group_map()}
        if os.geteuid() != 0:
            files = {"setgroups": "deny", **files}
        for name, text in files.items():
            with open(f"{place}/{name}", "w", encoding="ascii") as file:
                file.write(text)
        self._write(MAPPED, deadline)

    def _write(self, data: bytes, deadline: float) -> None:
        assert self._process is not None and self._process.stdin is not None, "guest not started"
        descriptor = self._process.stdin.fileno()
        while data:
            _wait(descriptor, select.POLLOUT, deadline)
            data = data[os.write(descriptor, data) :]

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None, "guest not started"
        descriptor, found = self._process.stdout.fileno(), b""
        while len(found) < size:
            _wait(descriptor, select.POLLIN, deadline)
            chunk = os.read(descriptor, min(size - len(found), 1 << 16))
            if not chunk:
                raise EOFError("it ended")
            found += chunk
        return found

    def _obituary(self, error: BaseException) -> str:
        """Why the guest is of no use any more, as it said itself where it did."""
        assert self._process is not None and self._errors is not None, "no guest to report on"
        if isinstance(error, TimeoutError):
            return "the sandbox did not answer in time"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"{error}, exit status {self._process.poll()}"

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        if self._errors is not None:
            self._errors.close()
        if self._finalizer is not None:
            self._finalizer.detach()


@cache
def _starter(process: int) -> ThreadPoolExecutor:
    """A process's one thread that starts its guests: bubblewrap dies with the thread it is from."""
    return ThreadPoolExecutor(1, f"sandboxes of {process}")


def _paths(kind: Kind) -> dict[str, str]:
    """Where bubblewrap is found; the guest's own environment is empty."""
    return {"PATH": os.environ.get("PATH", "")} if kind == "bubblewrap" else {}


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a guest: its namespace's first process sees its input close, or dies with its parent."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


__all__ = ["Outcome", "Sandbox", "SandboxError"]
