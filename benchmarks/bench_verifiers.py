"""Verdicts per second of every verifier: per core, and as the number of workers grows.

    python benchmarks/bench_verifiers.py [--num 2000] [--workers 1 2 4] [--repeats 5]

Each verifier judges a batch of distinct answers, a third of them right, after its workers have
started. "Per core" are verdicts per second of processor time, this process's and its workers'
together. The peer is the same judgement without a process of its own: math-verify itself, or the
scorer called here. Variants take turns. Results go to benchmarks/results/verifiers.json. Leaves
out answers that hang (they cost their deadline) and a judge behind an API.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import reasoning_gym
from harness import context, summarise, write_result
from math_verify import parse, verify

from data.records import Generator, Task, VerifierName
from data.verifier_parameters import KINDS, read_parameters
from rewards.solution import Solution
from rewards.text_scorers import score_text
from rewards.verifiers import Verifiers

SEED = 0
SCHEMA = {
    "type": "object", "required": ["name", "age"], "additionalProperties": False,
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
}  # fmt: skip
TIMEOUT_SECONDS = 20.0
Pairs = Sequence[tuple[Task, Solution]]


@dataclass(frozen=True)
class Case:
    """What one verifier is asked.

    Attributes:
        make: a reference and its task's entry, from a random number and a generator.
        peer: judges one answer in this process; None where there is nothing to compare with.
    """

    verifier: VerifierName
    make: Callable[[int, random.Random], tuple[str, dict[str, object]]]
    peer: Callable[[Task, str], object] | None = None


def number(n: int, rng: random.Random) -> tuple[str, dict[str, object]]:
    return str(n), {}


def formula(n: int, rng: random.Random) -> tuple[str, dict[str, object]]:
    return rf"\frac{{{n}\sqrt{{{rng.choice((2, 3, 5, 7))}}}}}{{11}}", {}


def person(n: int, rng: random.Random) -> tuple[str, dict[str, object]]:
    return json.dumps({"name": f"Ann {n}", "age": n}), {"schema": SCHEMA}


def code(n: int, rng: random.Random) -> tuple[str, dict[str, object]]:
    return f"ABC-{n:07d}", {"pattern": r"[A-Z]{3}-\d{7}"}


def both(n: int, rng: random.Random) -> tuple[str, dict[str, object]]:
    form = {"verifier": "regex", "parameters": {"pattern": r"\d+"}}
    return str(n), {"parts": [form, {"verifier": "numeric"}]}


def puzzle(family: str) -> Callable[[int, random.Random], tuple[str, dict[str, object]]]:
    def make(n: int, rng: random.Random) -> tuple[str, dict[str, object]]:
        entry = json.loads(json.dumps(reasoning_gym.create_dataset(family, size=1, seed=n)[0]))
        return entry["answer"], entry

    return make


def by_math_verify(task: Task, answer: str) -> object:
    return verify(parse(f"${task.reference}$"), parse(f"${answer}$"))


def by_the_scorer(task: Task, answer: str) -> object:
    parameters = read_parameters(KINDS[task.verifier], task.verifier, task.entry)
    return score_text({
        "verifier": task.verifier, "reference": task.reference, "answer": answer,
        "parameters": parameters.model_dump(by_alias=True),
    })  # fmt: skip


CASES = {
    "exact": Case("exact", number),
    "math: numbers": Case("math", number, by_math_verify),
    "math: formulas": Case("math", formula, by_math_verify),
    "numeric": Case("numeric", number, by_the_scorer),
    "json_schema": Case("json_schema", person, by_the_scorer),
    "regex": Case("regex", code, by_the_scorer),
    "composite": Case("composite", both),
    "puzzle: text": Case("puzzle", puzzle("basic_arithmetic")),
    "puzzle: scorer": Case("puzzle", puzzle("spiral_matrix")),
}


def batch(case: Case, num: int, rng: random.Random) -> Pairs:
    """Distinct answers to some tasks; one of three is right."""
    pairs = list[tuple[Task, Solution]]()
    while len(pairs) < num:
        reference, entry = case.make(rng.randrange(10**6), rng)
        task = Task(
            id=str(len(pairs)), family="bench", question="?", reference=reference,
            verifier=case.verifier, split="train", entry=entry,
            generator=Generator(name="bench", version="1", seed=0, difficulty=""),
        )  # fmt: skip
        wrong = (reference.replace("1", "2") + "7", reference.replace("3", "4") + "9")
        for answer in (reference, *wrong):
            pairs.append((task, Solution(answer, (), answer, None)))
    return pairs[:num]


def processor_seconds(pids: Sequence[int]) -> float:
    """Processor time so far of this process and of others."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


class Variant:
    """One verifier with so many workers, started."""

    def __init__(self, pairs: Pairs, workers: int) -> None:
        self.pairs, self.verifiers = pairs, Verifiers(TIMEOUT_SECONDS, workers)
        self.rates, self.per_core = list[float](), list[float]()
        self.verifiers.verify_all(pairs[: 8 * workers])

    def turn(self) -> None:
        """Judge the batch once, timed."""
        pids = [
            pid for one in (self.verifiers.math, self.verifiers.puzzle, self.verifiers.text)
            for pid in one.worker_pids
        ]  # fmt: skip
        spent, started = processor_seconds(pids), time.perf_counter()
        verdicts = self.verifiers.verify_all(self.pairs)
        seconds, spent = time.perf_counter() - started, processor_seconds(pids) - spent
        assert all(verdict.counted for verdict in verdicts), "a verifier said nothing"
        self.rates.append(len(self.pairs) / seconds)
        self.per_core.append(len(self.pairs) / spent)


def bench(case: Case, num: int, workers: Sequence[int], repeats: int) -> dict[str, object]:
    """Verdicts per second by number of workers, per core, and the peer's."""
    pairs = batch(case, num, random.Random(SEED))
    variants = {count: Variant(pairs, count) for count in workers}
    peer = list[float]()
    for _ in range(repeats):
        for variant in variants.values():
            variant.turn()
        if case.peer is not None:
            started = time.perf_counter()
            for task, solution in pairs:
                case.peer(task, solution.text)
            peer.append(num / (time.perf_counter() - started))
    for variant in variants.values():
        variant.verifiers.close()
    result: dict[str, object] = {
        f"{count} workers": {
            "verdicts_per_second": summarise(variant.rates),
            "verdicts_per_core_second": summarise(variant.per_core),
        }
        for count, variant in variants.items()
    }
    return result | ({"peer_per_second": summarise(peer)} if peer else {})


def main() -> None:
    """Run what was asked for, print a row per verifier, write results/verifiers.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=2000, help="answers in a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=5, help="measured turns of each variant")
    parser.add_argument("--only", nargs="+", choices=[*CASES], default=[*CASES])
    options = parser.parse_args()
    content = context({"tasks, answers": SEED})
    content |= {"num": options.num, "repeats": options.repeats}
    cases = content["cases"] = dict[str, object]()
    for name in options.only:
        found = bench(CASES[name], options.num, options.workers, options.repeats)
        cases[name] = found
        print(row(name, found), flush=True)
    print(f"written: {write_result('verifiers', content)}")


def row(name: str, found: dict[str, object]) -> str:
    """Medians in one line: verdicts per second by workers, per core, and of the peer."""
    cells = [f"{name:<15}"]
    for title, rates in found.items():
        assert isinstance(rates, dict), f"{title} holds {rates!r}"
        if title == "peer_per_second":
            cells.append(f"peer {rates['median']:.0f}/s")
            continue
        per_core = rates["verdicts_per_core_second"]["median"]
        cells.append(
            f"{title} {rates['verdicts_per_second']['median']:.0f}/s ({per_core:.0f} per core)"
        )
    return "  ".join(cells)


if __name__ == "__main__":
    main()
