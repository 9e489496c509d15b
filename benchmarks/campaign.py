"""Many runs of the project's programs: two at a time, each result kept as soon as it is there.

A run that fails is named, and the others go on; the script then ends with an error, and a second
call plays what is missing. Leaves out what is played and compared (`exp_*.py`).
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol, TypeVar

from harness import ROOT

AT_ONCE = 2  # each on one thread, on two cores
HALTED = 3  # by the monitor: a result like any other


class Named(Protocol):
    """One run: its folder, and its key in the results."""

    @property
    def name(self) -> str: ...


J = TypeVar("J", bound=Named)


class CallError(RuntimeError):
    """A program failed; the message names its log."""


def call(
    program: Path, arguments: Sequence[str], log: Path, processes: int = 1, threads: int = 1
) -> None:
    """Run one of the project's programs; its output goes to a log.

    Args:
        program: its file.
        arguments: of its command line.
        log: is appended to.
        processes: of the run.
        threads: of each process.

    Raises:
        CallError: it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(program), *arguments]
    if processes > 1:
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0"]
        command[1:1] = [*launch, "--num_processes", str(processes)]
    # What the caller's own path adds stays: the packages may lie there.
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths}
    with log.open("a") as stream:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=stream, check=False
        )
    if done.returncode not in (0, HALTED):
        raise CallError(f"{' '.join(command)} failed with status {done.returncode}: see {log}")


def play_all(
    jobs: Sequence[J],
    play: Callable[[J], Mapping[str, object]],
    keep: Callable[[J, Mapping[str, object]], None],
    at_once: int = AT_ONCE,
) -> None:
    """Play each job and keep its result, in whichever order they end.

    Args:
        jobs: what to play.
        play: one job; returns its result.
        keep: receives each result as soon as it is there.
        at_once: how many are played side by side.

    Raises:
        SystemExit: some failed; all others are kept.
    """
    failed = []
    with ThreadPoolExecutor(at_once) as pool:
        playing = {pool.submit(play, job): job for job in jobs}
        for future in as_completed(playing):
            job = playing[future]
            try:
                keep(job, future.result())
            except CallError as error:
                failed.append(job.name)
                print(f"{job.name}: {error}", file=sys.stderr, flush=True)
            else:
                print(f"{job.name}: done", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(jobs)} runs failed: {', '.join(failed)}")
