"""Verifiers: gold answers score full, a hang or a death is an outcome, nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
import reasoning_gym

from data.errors import UserError
from data.puzzles import ReasoningGymSource
from data.records import Generator, Task, VerifierName
from rewards.dialect import dialect
from rewards.killable_worker import KillableWorker
from rewards.math_verifier import MathVerifier
from rewards.puzzle_verifier import WHOLE, PuzzleVerifier
from rewards.solution import Solution
from rewards.verifiers import Verifiers

ROOT = Path(__file__).resolve().parents[2]
HANG = "9^{9^{9}}"  # SymPy evaluates it in C code that no signal handler interrupts,
HUNG_ON = "\\sqrt{2}"  # and is asked only where the reference is no plain number
FAMILIES = [
    "arc_agi",
    "basic_arithmetic",
    "caesar_cipher",
    "countdown",
    "spell_backward",
    "family_relationships",
    "knights_knaves",
    "simple_equations",
    "spiral_matrix",
    "sokoban",
]


def task_of(reference: str, verifier: VerifierName, entry: dict[str, object] | None = None) -> Task:
    return Task(
        id="0",
        family="test",
        question="?",
        reference=reference,
        verifier=verifier,
        split="train",
        entry=entry or {},
        generator=Generator(name="test", version="1", seed=0, difficulty=""),
    )


def answered(answer: str) -> Solution:
    text = f"<think>\n1. known\n</think>\n<answer>{answer}</answer>"
    return dialect("tagged").parse_solution(text, truncated=False)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(timeout_seconds=20)) as shared:
        yield shared


@pytest.mark.parametrize("family", FAMILIES)
def test_gold_answers_score_full(family: str, verifiers: Verifiers) -> None:
    dataset = reasoning_gym.create_dataset(family, size=2, seed=5)
    for entry in (json.loads(json.dumps(item)) for item in dataset):
        task = task_of(entry["answer"], "puzzle", entry)
        assert verifiers.verify(task, answered(entry["answer"])).passed
        assert verifiers.verify(task, answered("no such answer")).outcome == "incorrect"


def test_partial_credit_is_not_correct(verifiers: Verifiers) -> None:
    entry: dict[str, object] = {"answer": "12", "metadata": {"source_dataset": "basic_arithmetic"}}
    verdict = verifiers.verify(task_of("12", "puzzle", entry), answered("perhaps 12"))
    assert verdict.outcome == "incorrect"
    assert verdict.score == pytest.approx(0.2)


@pytest.mark.parametrize("verifier", ["puzzle", "math", "exact"])
def test_a_malformed_solution_is_invalid(verifier: VerifierName, verifiers: Verifiers) -> None:
    entry: dict[str, object] = {"answer": "1", "metadata": {"source_dataset": "basic_arithmetic"}}
    solution = dialect("tagged").parse_solution("<answer>1</answer>", truncated=False)
    verdict = verifiers.verify(task_of("1", verifier, entry), solution)
    assert (verdict.outcome, verdict.score) == ("invalid", 0.0)
    assert "bare_answer" in verdict.detail


@pytest.mark.parametrize("entry", [{}, {"answer": "1", "metadata": {"source_dataset": "nope"}}])
def test_a_puzzle_without_its_entry_is_refused(
    entry: dict[str, object], verifiers: Verifiers
) -> None:
    with pytest.raises(UserError, match="source_dataset"):
        verifiers.verify(task_of("1", "puzzle", entry), answered("1"))


def test_an_unknown_verifier_is_refused(verifiers: Verifiers) -> None:
    with pytest.raises(UserError, match="'vibes'"):
        verifiers.verify(task_of("1", cast(VerifierName, "vibes")), answered("1"))


@pytest.mark.parametrize(
    ("reference", "answer", "outcome"),
    [
        ("\\frac{1}{2}", "0.5", "correct"),
        ("1234", "1,234", "correct"),
        ("5", "x = 5", "correct"),
        ("\\sqrt{2}", "2", "incorrect"),
        ("$(1, 2)$", "(1,2)", "correct"),
        ("2", "3", "incorrect"),
        ("2", "$$", "incorrect"),
        ("", "2", "error"),
    ],
)
def test_math_answers(reference: str, answer: str, outcome: str, verifiers: Verifiers) -> None:
    pids = verifiers.math.worker_pids
    verdict = verifiers.verify(task_of(reference, "math"), answered(answer))
    assert verdict.outcome == outcome, verdict
    assert pids in ([], verifiers.math.worker_pids)  # one process serves them all
    assert "math-verify " in verdict.version


@pytest.mark.parametrize("family", sorted(WHOLE))
def test_a_puzzles_answer_is_right_as_a_whole(verifiers: Verifiers, family: str) -> None:
    """The family's own scorer passes at least one of these, which say something else."""
    paid = 0
    for task in ReasoningGymSource(family).draw("train", 4, 3):
        gold = task.reference
        assert verifiers.verify(task, answered(gold)).passed
        for other in (f"-{gold}", f"not {gold}", f"{gold} or 17", f"{gold} zzz"):
            assert not verifiers.verify(task, answered(other)).passed, other
            paid += verifiers.puzzle._judged(family, task, other).passed
    assert paid, "the scorer has been mended: take the family off the list"


def test_exact_ignores_case_and_spacing(verifiers: Verifiers) -> None:
    pairs = [(task_of("New  York", "exact"), answered(text)) for text in (" new york ", "york")]
    outcomes = [verifiers.verify(task, solution).outcome for task, solution in pairs]
    assert outcomes == ["correct", "incorrect"]


@pytest.mark.parametrize(
    ("reference", "answer"), [("10\u00b2", "102"), ("2\u2075", "25"), ("x\u2082", "x2")]
)
def test_exact_tells_a_power_from_digits(verifiers: Verifiers, reference: str, answer: str) -> None:
    task = task_of(reference, "exact")
    for given, passes in ((reference, True), (answer, False)):
        assert verifiers.verify(task, answered(given)).passed == passes


def test_a_hanging_answer_is_a_timeout_and_its_worker_is_killed() -> None:
    with closing(MathVerifier(timeout_seconds=0.5)) as verifier:
        hung = verifier.verify(task_of(HUNG_ON, "math"), answered(HANG))
        assert (hung.outcome, hung.score) == ("timeout", None)
        assert verifier.worker_pids == []


def test_a_timeout_is_followed_by_a_fresh_worker() -> None:
    with closing(KillableWorker("math")) as worker:
        hung = worker.ask({"reference": HUNG_ON, "answer": HANG}, 0.5)
        assert hung.status == "timeout"
        assert worker.ask({"reference": "1", "answer": "1"}, 20).score == 1.0


def test_a_killed_worker_is_replaced() -> None:
    with closing(MathVerifier(timeout_seconds=20)) as verifier:
        verifier.verify(task_of("1", "math"), answered("1"))
        (pid,) = verifier.worker_pids
        os.kill(pid, signal.SIGKILL)
        assert gone_within(pid, 5)
        assert verifier.verify(task_of("1", "math"), answered("1")).passed


def test_answers_that_hang_hold_up_one_worker_each() -> None:
    """Four of them in a batch cost about one deadline, and the others are judged too."""
    with closing(Verifiers(timeout_seconds=3, workers=4)) as verifiers:
        task = task_of(HUNG_ON, "math")
        verifiers.verify_all([(task, answered(f"{n}x")) for n in range(2, 8)])  # they start
        assert 1 <= len(verifiers.math.worker_pids) <= 4
        hanging = [(task, answered(f"{HANG}+{n}")) for n in range(4)]
        started = time.monotonic()
        verdicts = verifiers.verify_all([*hanging, (task, answered("\\sqrt{8}/2")), *hanging])
        spent = time.monotonic() - started
        assert verdicts[4].passed and not any(v.passed for v in verdicts[:4] + verdicts[5:])
        assert verdicts[:4] == verdicts[5:], "equal answers are judged once"
        assert spent < 12, f"{spent:.1f} s: one after another they take twelve"


def test_a_batch_keeps_its_order_and_raises_what_one_would(verifiers: Verifiers) -> None:
    pairs = [(task_of(str(n % 3), "exact"), answered(str(n % 2))) for n in range(12)]
    assert verifiers.verify_all(pairs) == [verifiers.verify(*pair) for pair in pairs]
    assert verifiers.verify_all([]) == []
    with pytest.raises(UserError, match="names no reasoning-gym family"):
        verifiers.verify_all([*pairs, (task_of("1", "puzzle"), answered("1"))])


def puzzle(family: str, seed: int = 1) -> Task:
    entry = json.loads(json.dumps(reasoning_gym.create_dataset(family, size=1, seed=seed)[0]))
    return task_of(entry["answer"] or "", "puzzle", entry)


@pytest.mark.parametrize(
    ("answer", "detail"), [("exit()", "SystemExit"), ("__import__('os')._exit(3)", "status 3")]
)
def test_an_answer_that_ends_the_scorer_is_wrong(answer: str, detail: str) -> None:
    task = puzzle("spiral_matrix")  # its scorer evaluates the answer as Python
    with closing(PuzzleVerifier(timeout_seconds=20)) as verifier:
        verdict = verifier.verify(task, answered(answer))
        assert verdict.outcome == "invalid" and detail in verdict.detail
        assert verdict.counted and verdict.score == 0
        assert verifier.verify(task, answered(task.reference)).passed


@pytest.mark.parametrize("family", ["prime_factorization", "boxnet", "game_of_life"])
def test_an_answer_on_which_the_scorer_raises_is_wrong(family: str, verifiers: Verifiers) -> None:
    answers = ["2 * 3", "I do not know", "2 x 3", "2, 3", "2 \u00d7 x", "[[", '{"a": 1}', "nan"]
    for answer in answers:
        verdict = verifiers.verify(puzzle(family), Solution("", (), answer, None))
        assert verdict.outcome in ("incorrect", "invalid"), (answer, verdict)


def test_an_entry_that_no_scorer_can_read_is_an_error(verifiers: Verifiers) -> None:
    entry = {"answer": "2 x 3", "metadata": {"source_dataset": "prime_factorization"}}
    verdict = verifiers.verify(task_of("2 x 3", "puzzle", dict(entry)), answered("2 x 3"))
    assert verdict.outcome == "error"


def test_closing_ends_the_worker() -> None:
    verifier = MathVerifier(timeout_seconds=20)
    verifier.verify(task_of("1", "math"), answered("1"))
    (pid,) = verifier.worker_pids
    verifier.close()
    assert not alive(pid)


PARENT = textwrap.dedent(
    """
    import sys, threading, time
    from rewards.killable_worker import KillableWorker
    worker = KillableWorker("math")
    worker.ask({"reference": "1", "answer": "1"}, 20)
    print(worker.pid, flush=True)
    if sys.argv[1] != "leave":
        worker.ask({"reference": sys.argv[3], "answer": sys.argv[1]}, float(sys.argv[2]))
    """
)


def start_parent(*arguments: str) -> tuple[subprocess.Popen[str], int]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def test_no_worker_outlives_a_parent_that_forgets_to_close() -> None:
    parent, pid = start_parent("leave")
    assert parent.wait(20) == 0
    assert gone_within(pid, 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_busy_worker_outlives_a_parent_that_is_ended(number: signal.Signals) -> None:
    parent, pid = start_parent(
        HANG, "10", HUNG_ON
    )  # longer than a busy machine takes for what follows
    time.sleep(0.3)
    assert alive(pid)
    parent.send_signal(number)
    assert parent.wait(20) != 0
    assert gone_within(pid, 20)  # after SIGKILL: its own alarm, deadline plus grace


def test_a_timeout_must_be_positive() -> None:
    with pytest.raises(ValueError, match="timeout_seconds"):
        Verifiers(timeout_seconds=0)


def test_neither_the_parent_nor_the_worker_imports_torch() -> None:
    check = "import sys, rewards.verifiers, rewards.scoring_process, math_verify\n"
    check += "sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", check], env=environment).returncode == 0
