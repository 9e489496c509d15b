"""Are verdicts right on answers that people and models really gave? Public files, judged again.

    python benchmarks/exp_verdicts.py labelled gsm8k=SOLUTIONS.jsonl math=math_cot_100.jsonl
    python benchmarks/exp_verdicts.py gold math=test.jsonl college=college_math.jsonl

`labelled` reads model solutions with a verdict of their publisher's, in the form of OpenAI's
grade-school-math (four models a row) or of Qwen2.5-Math's `math_cot_100` (`gt`, `code`, `score`),
and counts agreement. `gold` reads problems with solutions whose answer is boxed, or with answers:
each must pass, and the answers of two other problems must not. docs/experiments.md says where the
files are published; none is kept here. What disagrees is printed, and goes with the counts to
benchmarks/results/verdicts.json. Replies are read by the `free` dialect, judged by the math
verifier. Leaves out its speed (bench_verifiers.py).
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from harness import RESULTS, context, write_result

from data.gold import gold_answer
from data.records import Generator, Task, make_task
from rewards.dialect import dialect
from rewards.verifiers import Verifiers

SEED = 0
NUM_OTHERS = 2
TIMEOUT_SECONDS = 10.0
CHUNK = 256
# How a reply may mark its answer: grade-school-math's own mark, "A:", is no form of ours.
MARKS = {"hashes": "#### {}", "boxed": r"\boxed{{{}}}", "said": "The answer is {}."}


class Reply(NamedTuple):
    """A reply to a problem.

    Attributes:
        expected: whether it is right, by its publisher or by construction.
        kind: what it is counted under.
    """

    question: str
    reference: str
    text: str
    expected: bool
    kind: str


def labelled(rows: Iterable[Mapping]) -> Iterator[Reply]:
    """Model solutions with their publisher's verdicts."""
    for row in rows:
        if "score" in row:
            for text, right in zip(row["code"], row["score"], strict=True):
                yield Reply(row["question"], row["gt"], text, bool(right), "boxed")
            continue
        reference = row["ground_truth"].rpartition("A: ")[2]
        solutions = [one for one in row.values() if isinstance(one, dict)]
        for one in solutions:
            steps, _, answer = one["solution"].rpartition("A: ")
            for kind, mark in MARKS.items():
                text = steps + mark.format(answer.strip())
                yield Reply(row["question"], reference, text, bool(one["is_correct"]), kind)


def gold(rows: Iterable[Mapping]) -> Iterator[Reply]:
    """Every problem's own solution or answer, and other problems' answers, which are wrong."""
    rng, found = random.Random(SEED), list[tuple[str, str, str]]()
    for row in rows:
        question = row.get("problem") or row["question"]
        text = row.get("solution") if isinstance(row.get("solution"), str) else None
        if text is not None and "boxed" in text:
            found.append((question, gold_answer(text, "boxed"), text))
        elif answer := (row.get("answer") or (row.get("final_answer") or [""])[0]).strip():
            found.append((question, answer, boxed(answer)))
    for question, reference, text in found:
        yield Reply(question, reference, text, True, "its own")
        others = {rng.choice(found)[1] for _ in range(NUM_OTHERS)}
        for other in sorted(others):
            if bare(other) != bare(reference):
                yield Reply(question, reference, boxed(other), False, "another's")


def bare(answer: str) -> str:
    """An answer without spaces and without the dollar signs around it."""
    return answer.replace(" ", "").strip("$")


def boxed(answer: str) -> str:
    """A reply of one sentence."""
    is_formula = answer.startswith("$") and answer.endswith("$") and answer.count("$") == 2
    inside = answer[1:-1] if is_formula else answer
    return rf"So we get \boxed{{{inside}}}."


def task_of(reply: Reply) -> Task:
    """The reply's problem, for the math verifier."""
    origin = Generator(name="exp_verdicts", version="1", seed=SEED, difficulty="")
    return make_task(
        family="verdicts", question=reply.question, reference=reply.reference,
        verifier="math", generator=origin,
    )  # fmt: skip


def judge(replies: list[Reply], verifiers: Verifiers) -> dict[str, object]:
    """Counts by kind, expectation and outcome, and every reply that is judged otherwise."""
    reader, counts, differing = dialect("free"), Counter[str](), list[dict[str, object]]()
    for first in range(0, len(replies), CHUNK):
        chunk = replies[first : first + CHUNK]
        solutions = [reader.parse_solution(reply.text, truncated=False) for reply in chunk]
        tasks = [task_of(reply) for reply in chunk]
        verdicts = verifiers.verify_all(list(zip(tasks, solutions, strict=True)))
        for reply, solution, verdict in zip(chunk, solutions, verdicts, strict=True):
            label = "right" if reply.expected else "wrong"
            counts[f"{reply.kind}, {label}: {verdict.outcome}"] += 1
            if verdict.passed != reply.expected:
                differing.append({
                    "kind": reply.kind, "label": label, "reference": reply.reference,
                    "answer": solution.answer, "outcome": verdict.outcome,
                })  # fmt: skip
    return {"replies": len(replies), "counts": dict(sorted(counts.items())), "differing": differing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("form", choices=["labelled", "gold"])
    parser.add_argument("files", nargs="+", help="name=path of JSON lines")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    read = labelled if options.form == "labelled" else gold
    path = RESULTS / "verdicts.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    with closing(Verifiers(TIMEOUT_SECONDS, options.workers)) as verifiers:
        for name, _, file in (given.partition("=") for given in options.files):
            rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
            found = results[f"{options.form}: {name}"] = judge(list(read(rows)), verifiers)
            write_result("verdicts", {"context": context({"others": SEED}), "results": results})
            print(f"{name}: {found['counts']}; judged otherwise:", *found["differing"], sep="\n  ")


if __name__ == "__main__":
    main()
