"""The code verifier: a Python program passes if it passes all of its tests, in a sandbox.

Assertions (HumanEval's, MBPP's) run in another process than the program (`sandbox/examiner.py`);
outputs are compared here. A program that does not compile is invalid; one that fails, hangs, eats
its memory or prints without end is incorrect: that is its own fault, unlike another verifier's
timeout. `error` is left for tests that are broken and for the sandbox's own failures. The score is
the share of tests that passed.
"""

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.records import Task
from data.verifier_parameters import Case, CodeParameters, read_parameters
from rewards.program_tests import library_imports
from rewards.program_text import spellings
from rewards.sandbox.pool import SandboxPool
from rewards.sandbox.sandbox import Outcome, Sandbox
from rewards.sandbox.settings import SandboxSettings
from rewards.solution import Solution
from rewards.verdict import FULL_SCORE, Verdict

NAME = "code"
_REVISION = "2"
_STOPPED = {
    "deadline": "it did not end within its time",
    "cpu": "it used more than its processor time",
    "output": "it printed too much",
}


class CodeVerifier:
    """Judges programs, in as many sandboxes as there are workers; close it to end them.

    Args:
        timeout_seconds: a program's processor time for all of its tests, or for one case; by the
            clock it has twice as much.
        workers: the most sandboxes.
        sandbox: what a program may use.
    """

    def __init__(
        self,
        timeout_seconds: float = 5.0,
        workers: int = 1,
        sandbox: SandboxSettings | None = None,
    ) -> None:
        self._pool = SandboxPool(sandbox or SandboxSettings(), timeout_seconds, workers)
        # What a program does may change with Python itself.
        self.version = f"{_REVISION} with Python {platform.python_version()}"

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the sandboxes' guests that live."""
        return self._pool.pids

    def verify(self, task: Task, solution: Solution) -> Verdict:
        """Judge one program.

        Raises:
            UserError: the task's parameters are not those of the verifier, or no sandbox works.
            RuntimeError: a sandbox that worked does so no longer.
        """
        parameters = read_parameters(CodeParameters, NAME, task.entry)
        if solution.answer is None:
            return self._verdict("invalid", 0.0, f"malformed: {solution.defect}")
        sources = spellings(solution.answer, parameters.prompt, parameters.entry_point)
        if parameters.cases:
            return self._by_cases(sources, parameters.cases)
        imports = library_imports(task.reference, parameters.tests)
        outcome = self._pool.use(
            lambda sandbox: sandbox.run_tests(
                sources, parameters.tests, entry_point=parameters.entry_point,
                names=parameters.names, prompt=parameters.prompt,
                setup=f"{imports}\n{parameters.setup}",
            )
        )  # fmt: skip
        return self._by_report(outcome, read_report(outcome.report))

    def close(self) -> None:
        """End the sandboxes."""
        self._pool.close()

    def _by_report(self, outcome: Outcome, report: "Report") -> Verdict:
        if outcome.ended == "fault":
            return self._verdict("error", None, f"the sandbox failed: {outcome.fault}")
        if report.end == "uncompilable":
            return self._verdict("invalid", 0.0, f"does not compile: {report.text}")
        if report.end == "fault":
            return self._verdict("error", None, f"the tests are broken: {report.text}")
        if report.end == "done" and report.text:
            return self._verdict("error", None, report.text)
        complete = report.end == "done"
        if complete and report.num_tests == 0:  # by what the program returned: a loop over nothing
            return self._verdict("incorrect", 0.0, "no assertion was reached")
        if complete and report.num_failed == 0:
            return self._verdict("correct", 1.0, f"{report.num_passed} tests passed")
        why = report.why or report.text
        if not complete:
            why = _STOPPED.get(outcome.ended) or report.text or "it ended before its tests did"
            if report.end == "fatal":
                why = f"it fails when it is run: {report.text}"
        passed = f"{report.num_passed} of {report.num_tests} tests passed"
        passed += "" if complete else ", the others were not run"
        return self._verdict("incorrect", report.share if complete else 0.0, f"{passed}: {why}")

    def _by_cases(self, sources: Sequence[str], cases: Sequence[Case]) -> Verdict:
        """Run the program on each input; a case that fails does not end the others."""
        num_passed, why = 0, ""
        for number, case in enumerate(cases, start=1):
            outcome = self._pool.use(_script(sources, case.stdin))
            if outcome.ended == "fault":
                return self._verdict("error", None, f"the sandbox failed: {outcome.fault}")
            fault = _fault(outcome, case)
            num_passed += not fault
            why = why or (fault and f"case {number}: {fault}")
            if outcome.ended in _STOPPED:  # a hang costs its deadline once, not once a case
                break
        if not why:
            return self._verdict("correct", 1.0, f"{num_passed} cases passed")
        detail = f"{num_passed} of {len(cases)} cases passed: {why}"
        return self._verdict("incorrect", num_passed / len(cases), detail)

    def _verdict(self, outcome: str, score: float | None, detail: str) -> Verdict:
        assert score is None or (score >= FULL_SCORE) == (outcome == "correct"), (outcome, score)
        return Verdict(outcome, NAME, self.version, score, detail)  # type: ignore[arg-type]


def _script(sources: Sequence[str], stdin: str) -> Callable[[Sandbox], Outcome]:
    return lambda sandbox: sandbox.run_script(sources, stdin)


def _fault(outcome: Outcome, case: Case) -> str:
    """What is wrong with a run on one input; "" if nothing."""
    if outcome.ended in _STOPPED:
        return _STOPPED[outcome.ended]
    if outcome.exit != 0:
        said = outcome.stderr.decode(errors="replace").strip().splitlines()
        end = f"signal {outcome.signal}" if outcome.exit is None else f"status {outcome.exit}"
        return f"it ended with {end}" + (f": {said[-1]:.200}" if said else "")
    try:
        written = outcome.stdout.decode()
    except UnicodeDecodeError:
        return "its output is not UTF-8"
    if _lines(written) != _lines(case.stdout):
        return f"it printed {written!r:.100} where {case.stdout!r:.100} is right"
    return ""


def _lines(text: str) -> list[str]:
    """Lines as they are compared: without spaces at their ends, and empty ones at the end."""
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip("\n").split("\n")


@dataclass
class Report:
    """What the examiner said.

    Attributes:
        end: how the tests ended: "done", "fatal" (the program fails when it is run),
            "uncompilable", "ended" (the program was gone), "fault" (the tests are broken), or "".
        text: what it said with that.
        why: the first failed assertion.
    """

    num_passed: int = 0
    num_failed: int = 0
    end: str = ""
    text: str = ""
    why: str = ""

    @property
    def num_tests(self) -> int:
        """Assertions that were evaluated."""
        return self.num_passed + self.num_failed

    @property
    def share(self) -> float:
        """Of the assertions, those that passed."""
        return self.num_passed / self.num_tests if self.num_tests else 0.0


def read_report(text: str) -> Report:
    """Read the examiner's lines; one that was cut off is passed over."""
    report = Report()
    for line in text.split("\n")[:-1]:
        kind, _, said = line.partition(" ")
        words = str(json.loads(said)) if said else ""
        if kind == "+":
            report.num_passed += 1
        elif kind == "-":
            report.num_failed += 1
            report.why = report.why or words
        else:
            report.end, report.text = kind, words
    return report
