"""What the code verifier says of reference programs and of mutants of them, and how fast.

    python benchmarks/bench_sandbox.py HumanEval.jsonl [--workers 1 2 4] [--limit N] [--timeout 5]

The file has programming problems in HumanEval's or MBPP's form, perhaps gzipped; it is not part of
the project. Of each reference four kinds of mutants are judged: one operator changed, one number
off by one, the function's body empty, and a constant in its place. A mutant that passes is printed:
it is equal to the reference, or the problem's tests do not see the difference. "Per core" are
verdicts per second of processor time, this process's and its sandboxes' together; the peer is an
interpreter started for each program without any sandbox. Results go to
benchmarks/results/sandbox.json.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from harness import context, write_result
from mutants import KINDS, entry_of, mutants

from data.errors import UserError
from data.records import Generator, Task, make_task
from data.rows import Fields, Row, read_jsonl
from rewards.sandbox.settings import SandboxSettings
from rewards.solution import Solution
from rewards.verifiers import Verifiers

NUM_SPEED = 48  # verdicts of which the speed is measured


def read_tasks(path: Path, limit: int) -> list[Task]:
    rows = list(read_jsonl(path, Fields(verifier="code")))
    for row in rows:
        if not isinstance(row, Row):
            raise UserError(str(row))
    origin = Generator(name=path.name, version="1", seed=0, difficulty="")
    return [
        make_task(
            family="code", question=row.question, reference=row.answer, verifier=row.verifier,
            entry=row.parameters, generator=origin,
        )
        for row in rows[:limit] if isinstance(row, Row)
    ]  # fmt: skip


def judge(verifiers: Verifiers, asked: Sequence[tuple[Task, str]]) -> list[str]:
    """The outcome of each program."""
    pairs = [(task, Solution(text, (), text, None)) for task, text in asked]
    return [verdict.outcome for verdict in verifiers.verify_all(pairs)]


def quality(tasks: Sequence[Task], timeout: float, workers: int) -> dict[str, object]:
    found: dict[str, object] = {"num_tasks": len(tasks)}
    with closing(Verifiers(timeout, workers)) as verifiers:
        references = judge(verifiers, [(task, task.reference) for task in tasks])
        found["references"] = dict(Counter(references))
        for task, outcome in zip(tasks, references, strict=True):
            if outcome != "correct":
                print(f"reference of {entry_of(task)} is {outcome}")
        asked = [(task, kind, text) for task in tasks for kind, text in mutants(task)]
        outcomes = judge(verifiers, [(task, text) for task, _, text in asked])
    for kind in KINDS:
        of_kind = [o for (_, k, _), o in zip(asked, outcomes, strict=True) if k == kind]
        found[kind] = dict(Counter(of_kind))
        print(f"{kind:12} {dict(Counter(of_kind))}")
    for (task, kind, _), outcome in zip(asked, outcomes, strict=True):
        if outcome == "correct" and kind in ("empty", "constant"):
            print(f"passes although {kind}: {entry_of(task)}")
    survivors = Counter(
        entry_of(task) for (task, _, _), outcome in zip(asked, outcomes, strict=True)
        if outcome == "correct"
    )  # fmt: skip
    found["survivors"] = dict(survivors)
    return found


def speed(tasks: Sequence[Task], timeout: float, workers: int) -> dict[str, float]:
    """Verdicts per second, and per second of processor time."""
    asked = [(task, f"{task.reference}\n# {n}") for n in range(NUM_SPEED) for task in tasks][
        :NUM_SPEED
    ]
    with closing(Verifiers(timeout, workers)) as verifiers:
        judge(verifiers, asked[: 2 * workers])  # starts them
        before, started = _cpu_seconds(), time.perf_counter()
        judge(verifiers, asked)
        wall = time.perf_counter() - started
    return {"per_second": NUM_SPEED / wall, "per_core": NUM_SPEED / (_cpu_seconds() - before)}


def interpreter_speed() -> dict[str, float]:
    """The peer: `python -c` for each program, with nothing around it."""
    before, started = _cpu_seconds(), time.perf_counter()
    for _ in range(NUM_SPEED):
        subprocess.run([sys.executable, "-S", "-c", "import math, typing"], check=True)
    wall = time.perf_counter() - started
    return {"per_second": NUM_SPEED / wall, "per_core": NUM_SPEED / (_cpu_seconds() - before)}


def _cpu_seconds() -> float:
    """Of this process and its children that have ended, their children included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--limit", type=int, default=10**9, help="the first tasks only")
    parser.add_argument("--timeout", type=float, default=5.0)
    args = parser.parse_args()
    tasks = read_tasks(args.path, args.limit)
    result: dict[str, object] = {"quality": quality(tasks, args.timeout, max(args.workers))}
    print("references", result["quality"])
    for workers in args.workers:
        result[f"speed, {workers} workers"] = measured = speed(tasks, args.timeout, workers)
        print(f"{workers} workers: {measured}")
    result["speed, interpreter"] = interpreter_speed()
    print(f"interpreter: {result['speed, interpreter']}")
    write_result("sandbox", {**context({}), "settings": SandboxSettings().model_dump(), **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
