"""One job of a guest: a program and its examiner are forked, fed, watched, ended and reported on.

The keeper forks the program *before* it reads the job, so that no trace of the tests can be in the
program's memory; the program is the first process of a pid namespace of its own. Both wait,
confined, until the job is there: that is what makes a sandbox warm.

    run's process → keeper → program: sources        keeper → examiner: tests
                             examiner ⇄ program: calls and plain data
    run's process ← keeper ← examiner: one line per assertion
"""

import base64
import fcntl
import json
import os
import select
import signal
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rewards.sandbox import examiner, kernel, program
from rewards.sandbox.confine import Limits, confine

NEARLY = 0.9  # of a limit of processor time: the kernel's two counts of it differ a little
NO_MORE_JOBS = 3  # exit status
_JOBS, _REPLIES = 0, 1  # the guest's own pipes
_BEAT_SECONDS = 0.1
_REPORT_BYTES = 1 << 20
_ABOVE = 200  # no descriptor in use is higher
_LENGTH = struct.Struct(">I")
_UNCONFINED = b"!"
_CONFINED = b"."


def keep(limits: Limits) -> int:
    """Serve one job; the exit status of this process."""
    job = _Job(limits)
    fault = job.start()
    given = _read_job()
    if given is None:
        job.end()
        return NO_MORE_JOBS
    if fault:
        job.end()
        _write_reply({"ended": "fault", "fault": fault})
        return 0
    reply = job.run(given)
    if reply is None:
        return NO_MORE_JOBS
    _write_reply(reply)
    return 0


def _read_job() -> dict[str, Any] | None:
    """The next job; None once the run's process is gone or has no more."""
    head = _read_exactly(_LENGTH.size)
    body = head and _read_exactly(_LENGTH.unpack(head)[0])
    return json.loads(body) if body else None


def _read_exactly(size: int) -> bytes:
    found = b""
    while len(found) < size:
        chunk = os.read(_JOBS, size - len(found))
        if not chunk:
            return b""
        found += chunk
    return found


def _write_reply(reply: Mapping[str, object]) -> None:
    body = json.dumps(reply).encode()
    data = _LENGTH.pack(len(body)) + body
    while data:
        data = data[os.write(_REPLIES, data) :]


@dataclass
class _Child:
    """A forked process, and the keeper's ends of its pipes.

    Attributes:
        send: bytes still to be written, by descriptor.
        read: what has been read, by descriptor.
    """

    pid: int
    ready: int
    send: dict[int, bytes] = field(default_factory=dict)
    read: dict[int, bytes] = field(default_factory=dict)

    def confined(self) -> str:
        """Wait until it is; why it is not, or ""."""
        said = b""
        while chunk := os.read(self.ready, 4096):
            said += chunk
        os.close(self.ready)
        return "" if said == _CONFINED else said.removeprefix(_UNCONFINED).decode() or "it died"


class _Job:
    """The two processes of a job."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def start(self) -> str:
        """Fork both; why they cannot be confined, or ""."""
        null = os.open(os.devnull, os.O_RDWR)
        (calls_out, calls_in), (data_out, data_in) = os.pipe(), os.pipe()
        job_out, self._tests = os.pipe()
        self._report, report_in = os.pipe()
        ready_out, ready_in = os.pipe()
        self._examiner = _Child(
            self._fork(
                examiner.main, [null, null, null, job_out, ready_in, calls_in, data_out, report_in]
            ),
            ready_out,
        )
        _close(job_out, ready_in, calls_in, data_out, report_in)
        if self._limits.isolated:
            kernel.unshare(kernel.NEWPID)  # for the program, which is forked next
        input_out, self._input = os.pipe()
        self._output, output_in = os.pipe()
        self._errors, errors_in = os.pipe()
        job_out, self._sources = os.pipe()
        ready_out, ready_in = os.pipe()
        self._program = _Child(
            self._fork(
                program.main,
                [input_out, output_in, errors_in, job_out, ready_in, calls_out, data_in],
            ),
            ready_out,
        )
        _close(null, input_out, output_in, errors_in, job_out, ready_in, calls_out, data_in)
        return self._examiner.confined() or self._program.confined()

    def _fork(self, run: Callable[[], None], descriptors: Sequence[int]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            _place(descriptors)
            try:
                confine(self._limits)
            except OSError as error:
                os.write(program.READY, _UNCONFINED + str(error).encode())
                os._exit(1)
            os.write(program.READY, _CONFINED)
            os.close(program.READY)
            run()
        finally:
            os._exit(70)

    def run(self, job: Mapping[str, Any]) -> dict[str, object] | None:
        """Give the job to both and wait; None if nobody waits for the outcome any more."""
        script = job["mode"] == "script"
        started = time.monotonic()
        of_program = {"mode": job["mode"], "sources": job["sources"]}
        send = {self._sources: json.dumps(of_program).encode()}
        if script:
            send[self._input] = job["stdin"].encode("utf-8", "surrogatepass")
            os.close(self._tests)
            watched = dict.fromkeys((self._output, self._errors), self._limits.output_kb << 10)
        else:
            send[self._tests] = json.dumps(
                {k: v for k, v in job.items() if k != "sources"}
            ).encode()
            os.close(self._input)
            watched = {self._report: _REPORT_BYTES}
        stream = _Streams(send, watched, started + self._limits.wall_seconds)
        ended = stream.flow()
        if ended == "finished" and script:
            ended = stream.until_exit(self._program.pid)
        if ended == "orphaned":
            return None
        status, seconds = self.end()
        used_up = seconds >= NEARLY * self._limits.cpu_seconds
        if ended == "finished" and os.WIFSIGNALED(status) and used_up:
            ended = "cpu"
        return {
            "ended": ended, "cpu_seconds": seconds,
            "wall_seconds": time.monotonic() - started,
            "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            "stdout": _text(stream.found.get(self._output, b"")),
            "stderr": _text(stream.found.get(self._errors, b"")),
            "report": _text(stream.found.get(self._report, b"")),
        }  # fmt: skip

    def end(self) -> tuple[int, float]:
        """Kill both; the program's wait status and the processor time that it used."""
        for pid in (self._program.pid, self._examiner.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # of a namespace's first process: ends all of it
            if not self._limits.isolated:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        os.waitpid(self._examiner.pid, 0)
        _, status, usage = os.wait4(self._program.pid, 0)
        return status, usage.ru_utime + usage.ru_stime


class _Streams:
    """Pipes that are written and read side by side, until a deadline.

    Args:
        send: what to write, by descriptor, each closed when it is written.
        watched: the most bytes to read, by descriptor.
        deadline: by the monotonic clock; put off by as long as the machine was too busy.

    Attributes:
        found: what was read.
    """

    def __init__(self, send: dict[int, bytes], watched: dict[int, int], deadline: float) -> None:
        self._send, self._watched, self._deadline = send, watched, deadline
        self.found, self._seen = dict.fromkeys(watched, b""), time.monotonic()
        for descriptor in (*send, *watched):
            os.set_blocking(descriptor, False)

    def flow(self) -> str:
        """Until all that is read has ended: "finished", "deadline", "output" or "orphaned"."""
        reading = set(self._watched)
        while reading:
            events = self._poll(
                {
                    **dict.fromkeys(reading, select.POLLIN),
                    **dict.fromkeys(self._send, select.POLLOUT),
                }
            )
            if isinstance(events, str):
                return events
            for descriptor in events:
                if descriptor in self._send:
                    self._write(descriptor)
                elif chunk := os.read(descriptor, 1 << 16):
                    self.found[descriptor] += chunk
                    if len(self.found[descriptor]) > self._watched[descriptor]:
                        return "output"
                else:
                    reading.discard(descriptor)
        return "finished"

    def until_exit(self, pid: int) -> str:
        """Until a process has ended; it may outlive its output. See `flow` for the result."""
        descriptor = os.pidfd_open(pid)
        try:
            events = self._poll({descriptor: select.POLLIN})
        finally:
            os.close(descriptor)
        return events if isinstance(events, str) else "finished"

    def _write(self, descriptor: int) -> None:
        data = self._send[descriptor]
        try:
            data = data[os.write(descriptor, data) :]
        except BrokenPipeError:  # it does not read its input
            data = b""
        self._send[descriptor] = data
        if not data:
            del self._send[descriptor]
            os.close(descriptor)

    def _poll(self, wanted: Mapping[int, int]) -> list[int] | str:
        poll = select.poll()
        for descriptor, event in wanted.items():
            poll.register(descriptor, event)
        poll.register(_JOBS, 0)  # hung up once the run's process is gone
        while True:
            now = time.monotonic()
            # While the machine did not run this process it did not run the program either.
            self._deadline += max(0.0, now - self._seen - 2 * _BEAT_SECONDS)
            self._seen = now
            wait = min(self._deadline - now, _BEAT_SECONDS)
            if wait <= 0:
                return "deadline"
            events = [descriptor for descriptor, _ in poll.poll(wait * 1000)]
            if _JOBS in events:
                return "orphaned"
            if events:
                return events


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _place(descriptors: Sequence[int]) -> None:
    """Make these the descriptors 0, 1, 2, ... and close all others."""
    moved = [fcntl.fcntl(one, fcntl.F_DUPFD, _ABOVE) for one in descriptors]
    for target, source in enumerate(moved):
        os.dup2(source, target)
    os.closerange(len(descriptors), 1 << 20)
