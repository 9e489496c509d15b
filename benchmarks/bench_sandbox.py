"""What the code verifier says of reference programs and of mutants of them, and how fast.

    python benchmarks/bench_sandbox.py HumanEval.jsonl.gz [--parts quality speed] [--workers 1 2]

The file has programming problems in HumanEval's or MBPP's form; it is not part of the project.
`quality` judges each reference, mutants of four kinds (one operator changed, one number one larger,
the function's body empty, a constant in its place) and a program that says yes to all. A mutant
that passes is kept with the lines that differ: it is equal to the reference, or the problem's tests
do not see the difference. `speed` judges references in warm sandboxes, in sandboxes started for
each, and, as the peer, by `python -c` with program and tests in one interpreter and no sandbox at
all, in turns: a busy machine slows all alike. "Per core" are programs per second of processor time,
this process's and its children's. Results go to benchmarks/results/sandbox.json, each part on its
own.
"""

import argparse
import ast
import difflib
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from harness import RESULTS, context, summarise, write_result
from mutants import KINDS, entry_of, mutants

from data.errors import UserError
from data.records import Generator, Task, make_task
from data.rows import Fields, Row, read_jsonl
from data.verifier_parameters import CodeParameters, read_parameters
from rewards.code_verifier import read_report
from rewards.program_tests import yes_to_all
from rewards.sandbox.pool import choose
from rewards.sandbox.sandbox import Sandbox
from rewards.sandbox.settings import Kind, SandboxSettings
from rewards.solution import Solution
from rewards.verifiers import Verifiers

NUM_SPEED = 32  # programs of one turn
TURNS = 5
CHUNK = 64


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
    found: list[str] = []
    for first in range(0, len(pairs), CHUNK):
        found += [one.outcome for one in verifiers.verify_all(pairs[first : first + CHUNK])]
        if sys.stderr.isatty():
            print(f"\r{len(found)} of {len(pairs)}", end="", file=sys.stderr, flush=True)
    return found


def quality(tasks: Sequence[Task], timeout: float, workers: int) -> dict[str, object]:
    """Counts of outcomes by kind, and every mutant that passes."""
    asked = [(task, "reference", task.reference) for task in tasks]
    asked += [(task, "yes to all", yes_to_all(parameters(task).tests)) for task in tasks]
    asked += [(task, kind, text) for task in tasks for kind, text in mutants(task)]
    with closing(Verifiers(timeout, workers)) as verifiers:
        outcomes = judge(verifiers, [(task, text) for task, _, text in asked])
    judged = [(*one, outcome) for one, outcome in zip(asked, outcomes, strict=True)]
    counts = {
        kind: dict(Counter(outcome for _, k, _, outcome in judged if k == kind))
        for kind in ("reference", "yes to all", *KINDS)
    }
    wrong = [entry_of(task) for task, k, _, o in judged if k == "reference" and o != "correct"]
    survivors = [
        {"task": entry_of(task), "kind": kind, **difference(task.reference, text)}
        for task, kind, text, outcome in judged if kind != "reference" and outcome == "correct"
    ]  # fmt: skip
    return {
        "num_tasks": len(tasks), "counts": counts, "references_that_fail": wrong,
        "survivors": survivors, "timeout_seconds": timeout,
    }  # fmt: skip


def difference(reference: str, mutant: str) -> dict[str, str]:
    """The lines that differ, as both are unparsed."""
    pair = [ast.unparse(ast.parse(one)).splitlines() for one in (reference, mutant)]
    lines = list(difflib.ndiff(*pair))
    return {
        name: " / ".join(line[2:].strip() for line in lines if line.startswith(mark))
        for name, mark in (("was", "- "), ("is", "+ "))
    }


def parameters(task: Task) -> CodeParameters:
    return read_parameters(CodeParameters, task.verifier, task.entry)


def speed(tasks: Sequence[Task], timeout: float, workers: int) -> dict[str, object]:
    """Programs per second and per second of processor time, and both relative to the peer's."""
    asked = [(task, f"{task.reference}\n# {n}") for n in range(NUM_SPEED) for task in tasks]
    asked = asked[:NUM_SPEED]

    kind = choose(SandboxSettings())

    def warm() -> None:
        with closing(Verifiers(timeout, workers)) as verifiers:
            while len(pids := verifiers.code.worker_pids) < workers:  # starts them
                judge(verifiers, asked)
            before, start = _cpu_seconds() + sum(map(_of_tree, pids)), time.perf_counter()
            assert set(judge(verifiers, asked)) == {"correct"}
            wall, after = time.perf_counter() - start, _cpu_seconds() + sum(map(_of_tree, pids))
        add("warm", wall, after - before)

    def cold() -> None:
        in_turn("cold", lambda one: alone(one, timeout, kind))

    def peer() -> None:
        in_turn("python -c", bare)

    def in_turn(name: str, run: Callable[[tuple[Task, str]], bool]) -> None:
        before, start = _cpu_seconds(), time.perf_counter()
        with ThreadPoolExecutor(workers) as threads:
            assert all(threads.map(run, asked))
        add(name, time.perf_counter() - start, _cpu_seconds() - before)

    def add(name: str, wall: float, used: float) -> None:
        rates[name].append({"per_second": NUM_SPEED / wall, "per_core": NUM_SPEED / used})

    rates: dict[str, list[dict[str, float]]] = {"warm": [], "cold": [], "python -c": []}
    for turn in range(TURNS):
        order: list[Callable[[], None]] = [warm, cold, peer]
        for run in order[turn % 3 :] + order[: turn % 3]:
            run()
    return {
        name: {
            rate: {
                **summarise([one[rate] for one in turns]),
                "to_peer": summarise(
                    [a[rate] / b[rate] for a, b in zip(turns, rates["python -c"], strict=True)]
                ),
            }
            for rate in ("per_second", "per_core")
        }
        for name, turns in rates.items()
    }


def alone(one: tuple[Task, str], timeout: float, kind: Kind) -> bool:
    """Whether a program passes in a sandbox that is started for it and ended after it."""
    task, text = one
    given = parameters(task)
    with closing(Sandbox(SandboxSettings(), timeout, kind)) as sandbox:
        outcome = sandbox.run_tests(
            [text], given.tests, entry_point=given.entry_point, names=given.names,
            prompt=given.prompt, setup=given.setup,
        )  # fmt: skip
    report = read_report(outcome.report)
    return report.end == "done" and report.num_passed > 0 and report.num_failed == 0


def bare(one: tuple[Task, str]) -> bool:
    """Whether a program passes in one interpreter with its tests."""
    task, text = one
    given = parameters(task)
    called = f"check({given.entry_point})" if given.entry_point else ""
    whole = "\n".join([given.setup, text, *given.tests, called])
    return subprocess.run([sys.executable, "-c", whole], capture_output=True).returncode == 0


def _cpu_seconds() -> float:
    """Of this process and its children that have ended, their children included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _of_tree(pid: int) -> float:
    """Processor time of a process and all that it has or had below it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    used = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return used + sum(_of_tree(int(one)) for one in children)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument(
        "--parts", nargs="+", choices=["quality", "speed"], default=["quality", "speed"]
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--limit", type=int, default=10**9, help="the first tasks only")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds of processor time")
    args = parser.parse_args()
    tasks = read_tasks(args.path, args.limit)
    path = RESULTS / "sandbox.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    for part in args.parts:
        found: dict[str, object] = {
            "context": context({}),
            "settings": SandboxSettings().model_dump(),
        }
        if part == "quality":
            found |= quality(tasks, args.timeout, max(args.workers))
            print(json.dumps(found["counts"], indent=1), *found["survivors"], sep="\n")
        else:
            for workers in args.workers:
                found[f"{workers} workers"] = measured_rates = speed(tasks, args.timeout, workers)
                print(workers, json.dumps(measured_rates, indent=1))
        write_result("sandbox", result := {**result, part: found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
