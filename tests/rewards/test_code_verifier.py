"""The code verifier: references pass, mutants and fakes do not, and a hang costs its own time."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fake_successes import FAKES, REFERENCE, TESTS, Fake
from verifier_cases import answered, task_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from mutants import KINDS, mutants

from data.errors import UserError
from data.records import Task
from data.rows import Fields
from data.sources import jsonl_source
from rewards.code_verifier import CodeVerifier
from rewards.proof import prove
from rewards.sandbox.settings import SandboxSettings
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers

FOLDER = Path(__file__).parent
HUMANEVAL, MBPP = FOLDER / "humaneval_form.jsonl", FOLDER / "mbpp_form.jsonl"
SQUARES = task_of("code", REFERENCE, tests=[TESTS], entry_point="answer")
ADD = {"tests": ["assert add(1, 2) == 3", "assert add(5, 5) == 10"], "names": ["add"]}
ECHO = {"cases": [{"stdin": "ab\n", "stdout": "AB"}, {"stdin": "é\n\n", "stdout": "É\n"}]}


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    small = SandboxSettings(memory_mb=128)
    with closing(Verifiers(timeout_seconds=10, workers=2, sandbox=small)) as shared:
        yield shared


def judged(verifiers: Verifiers, program: str, **parameters: object) -> Verdict:
    return verifiers.verify(task_of("code", "?", **parameters), answered(program))


# -- fakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fake", FAKES, ids=lambda one: one.name)
def test_fakes_do_not_pass_and_are_not_masked(fake: Fake, verifiers: Verifiers) -> None:
    verdict = verifiers.verify(SQUARES, answered(fake.program))
    assert verdict.outcome in ("incorrect", "invalid") and verdict.reward == 0.0, verdict


@pytest.mark.parametrize("fake", [f for f in FAKES if f.fools_naive], ids=lambda one: one.name)
def test_fakes_pass_where_program_and_tests_share_an_interpreter(fake: Fake) -> None:
    whole = f"{fake.program}\n{TESTS}\ncheck(answer)\n"
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done


def test_the_right_program_passes_and_counts(verifiers: Verifiers) -> None:
    assert len(FAKES) >= 80
    verdict = verifiers.verify(SQUARES, answered(REFERENCE))
    assert (verdict.outcome, verdict.score, verdict.detail) == ("correct", 1.0, "3 tests passed")
    half = verifiers.verify(SQUARES, answered("def answer(n): return 'Zx81-4'"))
    assert (half.outcome, half.score) == ("incorrect", 1 / 3)
    assert half.detail.startswith("1 of 3 tests passed: candidate(3) == 'Zx81-9': AssertionError")


# -- problems -------------------------------------------------------------------------------------


def problems(path: Path) -> list[Task]:
    return jsonl_source(path, Fields(verifier="code")).tasks


@pytest.mark.slow  # hundreds of programs
@pytest.mark.parametrize("path", [HUMANEVAL, MBPP], ids=lambda one: one.stem)
def test_references_pass_and_mutants_fail(path: Path, verifiers: Verifiers) -> None:
    tasks = problems(path)
    assert len(tasks) == sum(1 for _ in path.open())
    verdicts = verifiers.verify_all([(task, answered(task.reference)) for task in tasks])
    assert all(verdict.passed for verdict in verdicts), verdicts
    asked = [(task, kind, text) for task in tasks for kind, text in mutants(task)]
    assert {kind for _, kind, _ in asked} == set(KINDS)
    verdicts = verifiers.verify_all([(task, answered(text)) for task, _, text in asked])
    slipped = [
        (kind, text) for (_, kind, text), v in zip(asked, verdicts, strict=True)
        if v.passed or not v.counted
    ]  # fmt: skip
    # No test can see these: they are equal to the reference.
    equal = ("if value <= low", "if value >= high", "by %= max(2, len(text))", "< best[j] + 2")
    assert not [one for one in slipped if not any(part in one[1] for part in equal)], slipped
    proofs = prove(verifiers, tasks, 4)
    assert [(one.tpr, one.tnr) for one in proofs] == [(1.0, 1.0)], proofs


def test_a_reply_is_read_as_it_was_meant(verifiers: Verifiers) -> None:
    task = next(t for t in problems(HUMANEVAL) if t.entry["entry_point"] == "pairs_with_sum")
    prompt, reference = str(task.entry["prompt"]), task.reference
    body = reference.removeprefix(prompt)
    alone = reference[reference.index("def pairs") :]  # without its import
    for reply in (
        body,
        f"{body}\n\ndef other():\n    return\n\nprint('and so on (",
        f"```python\n{alone}\n```",
        f"Here it is:\n\n```python\nwrong = 1\n```\nNo, this:\n\n```py\n{alone}```\nDone.",
        f"```\n{body}\n```",
        f"~~~python\n{reference}",
        reference,
    ):
        assert verifiers.verify(task, answered(reply)).passed, reply
    for reply in ("```python\n```", "Use two loops.", f"```python\n{alone}```\n```\n1 2 3\n```"):
        assert verifiers.verify(task, answered(reply)).reward == 0.0, reply


def test_arguments_that_a_function_changes_are_changed(verifiers: Verifiers) -> None:
    tests = ["x = [3, 1, 2]\nput_in_order(x)\nassert x == [1, 2, 3]"]
    assert judged(verifiers, "def put_in_order(x): x.sort()", tests=tests).passed
    # But no function that returns a value can bring what it is compared with to that value.
    tests = ["x = [3, 1]\nassert put_in_order(x) == sorted(x)"]
    program = "def put_in_order(x):\n    x.clear()\n    return []"
    assert judged(verifiers, program, tests=tests).outcome == "incorrect"


def test_classes_exceptions_and_iterators(verifiers: Verifiers) -> None:
    tests = [
        "s = Stack()\ns.push(4)\ns.push([5])\nassert s.pop() == [5] and len(s) == 1",
        "try:\n    Stack().pop()\n    assert False\nexcept IndexError:\n    pass",
        "assert list(upto(3)) == [0, 1, 2]",
        "import collections\nassert counted('aab') == collections.Counter('aab')",
        "assert sum([1]) == 'mine'",
    ]
    program = (
        "import collections\n"
        "class Stack:\n    def __init__(self): self.items = []\n"
        "    def push(self, one): self.items.append(one)\n"
        "    def pop(self): return self.items.pop()\n"
        "    def __len__(self): return len(self.items)\n"
        "def upto(n): yield from range(n)\n"
        "def counted(text): return collections.Counter(text)\n"
        "def sum(x): return 'mine'\n"
    )
    verdict = judged(verifiers, program, tests=tests, names=["sum"])
    assert verdict.passed and verdict.detail == "5 tests passed", verdict


# -- cases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "score", "said"),
    [
        ("import sys\nprint(sys.stdin.readline().upper())", 1.0, ""),
        ("print(input().upper(), end='  \\n\\n')", 1.0, ""),
        ("print('AB')", 0.5, "case 2: it printed"),
        ("print(input().upper())\nraise SystemExit(3)", 0.0, "case 1: it ended with status 3"),
        ("print(input().upper())\n1 / 0", 0.0, "ZeroDivisionError"),
        ("import os, sys\nos.write(1, b'\\xff\\xfe')", 0.0, "its output is not UTF-8"),
        ("print(open(0).read(), 'x')", 0.0, "case 1"),
        ("while True: print('x' * 1000)", 0.0, "printed too much"),
        ("import os\nos.close(1)\nos.close(2)", 0.0, "case 1"),
    ],
)
def test_cases(verifiers: Verifiers, program: str, score: float, said: str) -> None:
    verdict = judged(verifiers, program, **ECHO)
    assert verdict.score == score and said in verdict.detail, verdict


# -- deadlines ------------------------------------------------------------------------------------


def test_a_hang_costs_its_own_deadline_alone() -> None:
    hangs = (
        "while True: pass",
        "import time\ntime.sleep(1e6)",
        "def add(a, b):\n    while True: pass",
        "import signal, time\nsignal.pthread_sigmask(0, range(1, 65))\ntime.sleep(1e6)",
    )
    right = "def add(a, b):\n    return a + b"
    with closing(Verifiers(timeout_seconds=2, workers=1)) as verifiers:
        for program in hangs:
            started = time.monotonic()
            verdict = judged(verifiers, program, **ADD)
            assert verdict.outcome == "incorrect" and "time" in verdict.detail, verdict
            assert time.monotonic() - started < 15
            assert judged(verifiers, right, **ADD).passed
        # Cases stop at the first hang.
        cases = [{"stdin": "", "stdout": "x"}] * 20
        started = time.monotonic()
        assert judged(verifiers, "import time\ntime.sleep(1e6)", cases=cases).reward == 0.0
        assert time.monotonic() - started < 15


# -- what is not the program's fault --------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"tests": ["assert add(1, 2 == 3"]}, "the tests are broken: SyntaxError"),
        ({"tests": ["assert add(1, 2) == 3"], "setup": "1 / 0"}, "broken: ZeroDivisionError"),
        ({"tests": ["add(1, 2)"]}, "the tests assert nothing"),
        ({"tests": ["assert 1 + 1 == 2"]}, "the tests do not ask the program"),
    ],
)
def test_broken_tests_are_errors(
    verifiers: Verifiers, parameters: dict[str, object], said: str
) -> None:
    verdict = judged(verifiers, "def add(a, b): return a + b", **parameters)
    assert verdict.outcome == "error" and said in verdict.detail, verdict


def test_parameters_are_checked(verifiers: Verifiers) -> None:
    for parameters in ({}, {"tests": ["assert f()"], "cases": [{"stdout": "x"}]}, {"test": ["x"]}):
        with pytest.raises(UserError, match="code"):
            judged(verifiers, "", **parameters)


def test_the_weak_sandbox_has_to_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = task_of("code", "?", **ADD)
    right = answered("def add(a, b): return a + b")
    monkeypatch.setattr("rewards.sandbox.launch.missing", lambda kind: "not here")
    with (
        closing(CodeVerifier(5)) as verifier,
        pytest.raises(UserError, match=r"not here.*rewards\.sandbox\.kind = \"weak\""),
    ):
        verifier.verify(task, right)
    monkeypatch.undo()
    with closing(CodeVerifier(10, sandbox=SandboxSettings(kind="weak"))) as verifier:
        assert verifier.verify(task, right).passed
        assert verifier.verify(task, answered("raise SystemExit(0)")).reward == 0.0
        assert "does not stop a program from reading every file that you can read" in caplog.text


# -- as documented --------------------------------------------------------------------------------


def test_the_examples_of_the_documentation(verifiers: Verifiers, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "use.md").read_text()
    section = page[page.index("### Programs") : page.index("### Task packs")]
    rows = [line for line in section.splitlines() if line.startswith('{"question"')]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(rows))
    tasks = jsonl_source(path).tasks
    assert len(tasks) == 2
    for task in tasks:
        assert verifiers.verify(task, answered(task.reference)).passed, task
        assert verifiers.verify(task, answered("pass")).reward == 0.0
    program = section[section.index("```python\n") + len("```python\n") :]
    done = subprocess.run(
        [sys.executable, "-c", program[: program.index("```")]], capture_output=True, text=True,
        cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.stdout == "finished 0 b'HELLO\\n'\n", done
