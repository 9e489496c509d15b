"""What do two processes bring a generation? One, two shards at once, and the same two on Ray Data.

    python benchmarks/exp_shards.py --base CHECKPOINT [--num 4000] [--repeats 3]

Each way makes a set of as many accepted records, from the start of the program to the end of the
merge, one thread each; the ways take turns, and what is printed is each one's samples a second over
that of the single process of the same turn. Ray is left out where it is not installed.
benchmarks/results/shards.json has every turn. CHECKPOINT is a cold start of the demo's kind, such
as those that `exp_monitor.py` makes. Leaves out several machines.
"""

import argparse
import importlib.util
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from exp_kills import begin, command, finish
from harness import ROOT, context, write_result

from data.dataset_folder import DatasetFolder

WAYS = ("one", "shards", "ray")


def one(given: Sequence[str], out: Path, log: Path) -> None:
    finish(given, log)


def shards(given: Sequence[str], out: Path, log: Path) -> None:
    """Two shards side by side, then the merge."""
    parts = [out.with_name(f"{out.name}_{number}") for number in (1, 2)]
    started = []
    for number, part in enumerate(parts, start=1):
        asked = [str(part) if word == str(out) else word for word in given]
        place = asked.index("--num") + 1
        asked[place] = str(-(-int(asked[place]) // 2))
        started.append(begin([*asked, "--shard", f"{number}/2"], log))
    assert [process.wait() for process in started] == [0, 0], f"see {log}"
    finish([*given[:3], "merge", str(out), *map(str, parts)], log)


def ray(given: Sequence[str], out: Path, log: Path) -> None:
    finish([*given, "--ray", "2"], log)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "shards")
    parser.add_argument("--num", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    ways: dict[str, Callable[[Sequence[str], Path, Path], None]] = {"one": one, "shards": shards}
    if importlib.util.find_spec("ray") is not None:
        ways["ray"] = ray
    turns: list[dict[str, dict[str, float]]] = []
    for turn in range(options.repeats):
        turns.append({})
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            out = options.folder / f"{turn}_{name}"
            start = time.perf_counter()
            ways[name](command(options.base, out, options.num), out, options.folder / "log")
            seconds = time.perf_counter() - start
            num = sum(1 for _ in DatasetFolder(out).records())
            turns[-1][name] = {"seconds": seconds, "samples": num, "rate": num / seconds}
            print(
                f"turn {turn}, {name}: {seconds:.0f} s, {num / seconds:.1f} samples/s", flush=True
            )
    ratios = {name: [turn[name]["rate"] / turn["one"]["rate"] for turn in turns] for name in ways}
    for name, found in ratios.items():
        print(
            f"{name}: {statistics.median(found):.2f} x one ({min(found):.2f} to {max(found):.2f})"
        )
    made = {"context": context({"generation": 0}), "turns": turns, "ratios": ratios}
    print(f"written: {write_result('shards', made)}")


if __name__ == "__main__":
    sys.exit(main())
