"""Does a generation that is killed lose, repeat or change a record? Ten thousand, three `kill -9`.

    python benchmarks/exp_kills.py --base CHECKPOINT [--num 10000] [--kills 3]

A data set is generated twice from one seed: once in peace, once killed with SIGKILL, its whole
process group, at random moments, and continued with `--resume`. Then: the killed one holds the
same records, in number, order and content; no id is there twice; `sparring-data verify` confirms
all of them, and names a lost shard and an edited record in copies of the set.
benchmarks/results/kills.json is written at the end. CHECKPOINT is a cold start of the demo's kind,
such as those that `exp_monitor.py` makes. Leaves out other ways to stop, and a verifier that
changed, which the tests know.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from harness import ROOT, context, write_result

from data.dataset_folder import DatasetFolder

SEED = 0
POLL = 0.5  # seconds between two looks at how far it is
CONFIG = ROOT / "configs" / "tiny.toml"
TASKS = (
    "tasks.family=basic_arithmetic",
    'tasks.params={min_terms=4, max_terms=6, min_digits=1, max_digits=1, operators=["+"], '
    "allow_parentheses=false, allow_negation=false}",
    "learner.max_completion_length=64",
)


def command(base: Path, out: Path, num: int) -> list[str]:
    """What generates the set."""
    asked = ["generate", str(base), "--out", str(out), "--num", str(num), "--seed", str(SEED)]
    given = ["--config", str(CONFIG), "--no-critic", "--batch", "64", "--group", "4", *TASKS]
    return [sys.executable, "-m", "pipelines.dataset", *asked, *given]


def begin(given: Sequence[str], log: Path) -> subprocess.Popen:
    """Start a program in a process group of its own."""
    with log.open("a") as stream:
        return subprocess.Popen(given, stdout=stream, stderr=stream, start_new_session=True)


def finish(given: Sequence[str], log: Path) -> float:
    """Run it to its end; returns the seconds."""
    start = time.perf_counter()
    code = begin(given, log).wait()
    assert code == 0, f"{given[3]} ended with {code}: see {log}"
    return time.perf_counter() - start


def accepted(out: Path) -> int:
    """Records of complete batches so far."""
    progress = DatasetFolder(out).progress() if out.is_dir() else None
    return 0 if progress is None else progress.accepted


def killed(given: Sequence[str], out: Path, num: int, kills: int, log: Path) -> list[int]:
    """Generate with kills on the way; returns how many records were complete at each."""
    rng, at = random.Random(SEED), list[int]()
    for kill in range(kills):
        process = begin([*given, *(["--resume"] if kill else [])], log)
        wanted = num * (kill + rng.uniform(0.4, 1)) / (kills + 1)
        while process.poll() is None and accepted(out) < wanted:
            time.sleep(POLL)
        time.sleep(rng.uniform(0, 2))  # anywhere in a batch
        assert process.poll() is None, f"it ended before it could be killed: see {log}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        at.append(accepted(out))
        print(f"killed at {at[-1]} records", flush=True)
    finish([*given, "--resume"], log)
    return at


def contents(out: Path) -> list[tuple[str, str]]:
    """Id and content hash of each accepted record, in order."""
    found = list[tuple[str, str]]()
    for path in sorted((out / "train").glob("*.parquet")):
        table = pq.read_table(path, columns=["id", "sha256"]).to_pydict()
        found += zip(table["id"], table["sha256"], strict=True)
    return found


def verify(out: Path) -> tuple[int, dict]:
    """Exit status and findings of `sparring-data verify`."""
    given = [sys.executable, "-m", "pipelines.dataset", "verify", str(out), "--json"]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    try:
        return done.returncode, json.loads(done.stdout)
    except json.JSONDecodeError:
        return done.returncode, {"said": done.stderr[-500:]}


def lose_a_shard(out: Path) -> None:
    sorted((out / "train").glob("*.parquet"))[1].unlink()


def edit_a_record(out: Path) -> None:
    path = sorted((out / "train").glob("*.parquet"))[1]
    table = pq.read_table(path)
    column = table.column_names.index("solution")
    changed = [text.replace("1", "2", 1) for text in table.column("solution").to_pylist()[:1]]
    rest = table.column("solution").to_pylist()[1:]
    pq.write_table(table.set_column(column, table.schema.field(column), [changed + rest]), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "kills")
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    whole, out = options.folder / "whole", options.folder / "killed"
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    log = options.folder / "log"
    seconds = finish(command(options.base, whole, options.num), log)
    given = command(options.base, out, options.num)
    at = killed(given, out, options.num, options.kills, log)
    one, other = contents(whole), contents(out)
    status, found = verify(out)
    harmed = {}
    for harm in (lose_a_shard, edit_a_record):
        copy = options.folder / harm.__name__
        shutil.copytree(out, copy)
        harm(copy)
        code, said = verify(copy)
        harmed[harm.__name__] = {"status": code, "found": said}
    content = context({"generation": SEED}) | {
        "num": options.num, "killed_at": at, "records": len(other),
        "distinct": len({name for name, _ in other}), "same_as_unkilled": one == other,
        "seconds_unkilled": seconds, "samples_per_second": samples(whole) / seconds,
        "verify_status": status, "verify": found, "harmed": harmed,
    }  # fmt: skip
    print(json.dumps({k: v for k, v in content.items() if k not in ("verify", "harmed")}, indent=1))
    print(f"written: {write_result('kills', content)}")


def samples(out: Path) -> int:
    """All samples of a set."""
    progress = DatasetFolder(out).progress()
    assert progress is not None, "it is complete"
    return progress.accepted + progress.rejected


if __name__ == "__main__":
    main()
