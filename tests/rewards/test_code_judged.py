"""Fakes of soft tests do not pass and are not masked; right programs pass, whatever they return."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hostile_world import descendants
from other_fakes import OTHER_FAKES, RIGHT, Judged
from verifier_cases import answered, task_of

from rewards.code_verifier import CodeVerifier
from rewards.program_tests import library_imports, yes_to_all
from rewards.proof import planted
from rewards.sandbox.pool import choose
from rewards.sandbox.sandbox import Sandbox
from rewards.sandbox.settings import SandboxSettings
from rewards.verdict import Verdict

SMALL = SandboxSettings(memory_mb=128)
ADDS = "def add(a, b): return a + b"
ADD = {"tests": ["assert add(1, 2) == 3"]}


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    with closing(CodeVerifier(10, sandbox=SMALL)) as found:
        yield found


def judged(verifier: CodeVerifier, one: Judged) -> Verdict:
    return verifier.verify(task_of("code", one.reference, **one.parameters), answered(one.program))


@pytest.mark.parametrize("fake", OTHER_FAKES, ids=lambda one: one.name)
def test_fakes_do_not_pass_and_are_not_masked(fake: Judged, verifier: CodeVerifier) -> None:
    verdict = judged(verifier, fake)
    assert verdict.outcome == "incorrect" and verdict.reward == 0.0, verdict


@pytest.mark.parametrize("right", RIGHT, ids=lambda one: one.name)
def test_right_programs_pass(right: Judged, verifier: CodeVerifier) -> None:
    assert judged(verifier, right).passed, judged(verifier, right)


def test_tests_that_cannot_be_put_are_errors(verifier: CodeVerifier) -> None:
    task = task_of("code", "?", tests=["assert f(lambda x: x) == 1"])
    verdict = verifier.verify(task, answered("def f(g): return g(1)"))
    assert verdict.outcome == "error" and "cannot pass a function" in verdict.detail


def test_a_program_that_says_yes_to_all_is_planted(verifier: CodeVerifier) -> None:
    soft = task_of("code", ADDS, tests=["assert add(1, 2).startswith('3')"])
    hard = task_of("code", ADDS, **ADD)
    for task, passes in ((soft, True), (hard, False)):
        yes = yes_to_all(task.entry["tests"])  # type: ignore[arg-type]
        assert yes in planted(task, [task], 0)
        assert verifier.verify(task, answered(yes)).passed is passes


def test_what_tests_leave_to_a_program_is_imported_as_in_the_reference() -> None:
    reference = (
        "import math, numpy\nimport os.path\nfrom heapq import nlargest as most\n"
        "from . import queue\nstring = 3\n"
    )
    tests = ("assert most(1, f(math.pi)) == string.x, numpy", "assert bisect.bisect(f(), os.sep)")
    assert library_imports(reference, tests).splitlines() == [
        "import math", "import os.path", "from heapq import nlargest as most", "import bisect",
    ]  # fmt: skip
    assert library_imports("no Python", ("assert (",)) == ""


# -- the sandbox's own accidents ------------------------------------------------------------------


def test_a_guest_that_dies_is_replaced_before_a_verdict(verifier: CodeVerifier) -> None:
    task = task_of("code", "?", **ADD)
    assert verifier.verify(task, answered(ADDS)).passed
    for depth in (0, 1, 2):  # what started it, the guest itself, its keeper
        (pid,) = verifier.worker_pids
        os.kill(below(pid, depth), signal.SIGKILL)
        time.sleep(0.2)
        assert verifier.verify(task, answered(ADDS)).passed
        assert verifier.worker_pids != [pid]


def below(pid: int, depth: int) -> int:
    """The first child of a process, or that one's, once all wait for the next job."""
    deadline = time.monotonic() + 20
    while len(descendants(pid)) < 4:  # guest, keeper, program and examiner
        assert time.monotonic() < deadline, f"only {descendants(pid)} wait"
        time.sleep(0.02)
    for _ in range(depth):
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return pid


class Dying(Sandbox):
    """One whose guest is dead whenever it is asked."""

    def _asked(self, body: bytes) -> dict[str, Any]:
        if self._process is None:
            self._start()
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        return super()._asked(body)


def test_a_guest_that_dies_twice_is_a_fault() -> None:
    with closing(Dying(SMALL, 10.0, choose(SMALL))) as sandbox:
        outcome = sandbox.run_script(["print(1)"])
        assert outcome.ended == "fault" and outcome.fault and sandbox.pid is None


def test_a_machine_that_stands_still_costs_no_deadline() -> None:
    with closing(CodeVerifier(2, sandbox=SMALL)) as verifier:
        task = task_of("code", "?", cases=[{"stdin": "", "stdout": "AB"}])
        program = "import time\ntime.sleep(1)\nprint('AB')"
        assert verifier.verify(task, answered(program)).passed
        (pid,) = verifier.worker_pids
        verdicts = []
        thread = threading.Thread(
            target=lambda: verdicts.append(verifier.verify(task, answered(program)))
        )
        thread.start()
        time.sleep(0.3)
        stopped = [pid, *descendants(pid)]
        for one in stopped:
            os.kill(one, signal.SIGSTOP)
        time.sleep(6)
        for one in stopped:
            os.kill(one, signal.SIGCONT)
        thread.join()
        assert [one.passed for one in verdicts] == [True], verdicts


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_guest_outlives_the_thread_that_it_was_started_by() -> None:
    with closing(Sandbox(SMALL, 10.0, "bubblewrap")) as sandbox:
        thread = threading.Thread(target=sandbox.start)
        thread.start()
        thread.join()
        pid = sandbox.pid
        time.sleep(0.3)
        assert sandbox.run_script(["print(1)"]).stdout == b"1\n" and sandbox.pid == pid
