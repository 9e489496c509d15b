"""Plays two rounds of a tiny configuration at a fixed seed and prints what came out.

    python tools/fixed_seed_run.py [--checkout DIR] [--cases plain replay ...] [--out FILE]

A refactor proves itself with it: run it on the commit before and on the commit after, on one
machine, and compare (`diff`). It starts the programs of a checkout as a user does and reads only
what they write, so that it knows nothing of the code that moved. Every number is printed whole, as
JSON: losses, gradient norms and rewards of every optimizer step, both policies' weight hashes after
every round, the fate of every group in the ledger, and the hashes of the admitted records. A run
with servers is reproducible to rounding only, so of that case only the ledger is printed.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = (
    "tasks.params.min_terms=3",
    "tasks.params.max_terms=3",
    "sft.num_solutions=700",
    "sft.num_critiques=300",
    "sft.easy.num_solutions=0",
    "sft.model={hidden_size=64, num_hidden_layers=2}",
    "sft.trainer.max_steps=300",
    "sft.trainer.warmup_steps=10",
    "sft.trainer.lr_scheduler_kwargs={num_decay_steps=350}",
    "sft.trainer.per_device_train_batch_size=16",
    "sft.trainer.learning_rate=5e-3",
    "run.rounds=2",
    "learner.steps_per_round=2",
    "critic.steps_per_round=2",
    "learner.max_completion_length=32",
    "learner.grpo.per_device_train_batch_size=16",
    "critic.grpo.per_device_train_batch_size=8",
    "learner.grpo.num_generations=4",
    "critic.grpo.num_generations=4",
    "learner.grpo.learning_rate=1e-3",
    "critic.grpo.learning_rate=1e-3",
    "critic.critiques_per_audit=2",
    "pointing.step_checks=false",
    "evaluate.num_tasks=8",
    "evaluate.num_samples=2",
    "evaluate.num_probe_tasks=8",
    "evaluate.num_audit_tasks=24",
    "rollout.kv_cache_gib=0.05",
    "rollout.max_num_seqs=32",
    "rollout.probe_every=1",
)
LORA = "{r=4, target_modules=['q_b_proj', 'kv_b_proj', 'o_proj']}"
# Each case takes other paths through the trainer, the sampler and the sync.
CASES: dict[str, tuple[str, ...]] = {
    "plain": (
        "learner.grpo.beta=0.02",
        "learner.router_bias_rate=0.01",
        "learner.grpo.lr_scheduler_type=linear",
    ),
    "replay": (
        "rollout.routing_replay=true",
        "learner.grpo.gradient_accumulation_steps=2",
        "learner.grpo.num_iterations=2",
    ),
    "lora": (
        "rollout.engine=transformers",
        f"learner.lora={LORA}",
        f"critic.lora={LORA}",
        "critic.reward=tango",
    ),
    "processes": ("run.num_processes=2", "learner.grpo.per_device_train_batch_size=8"),
    "servers": ("rollout.placement=server", "rollout.max_staleness=1"),
}
REPRODUCIBLE_TO_ROUNDING = ("servers",)
STEP_FIGURES = ("policy/loss", "policy/grad_norm", "reward/mean", "rollout/mismatch_max")


def play(checkout: Path, base: Path, directory: Path, case: str) -> dict[str, object]:
    """Run one case to its end; returns what it wrote, without times.

    Raises:
        SystemExit: a program failed; its output is printed.
    """
    processes = 2 if case == "processes" else 1
    launch = ["--multi_gpu", "--num_processes", "2"] if processes == 2 else ["--cpu"]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", *launch]
    options = [f"sft.directory={base}", f"run.directory={directory}", *BASE, *CASES[case]]
    start(checkout, [*accelerate, "pipelines/rl.py", "--config", "configs/tiny.toml", *options])
    ledgers = sorted((directory / "ledger").glob("*.jsonl"))
    fates = {path.name: fates_of(path) for path in ledgers}
    if case in REPRODUCIBLE_TO_ROUNDING:
        return {"ledger": fates}
    rows = read_lines(directory / "metrics.jsonl")
    steps = [row for row in rows if row["kind"] == "step"]
    rounds = [row for row in rows if row["kind"] == "round"]
    return {
        "steps": [
            {key: row.get(key) for key in ("round", "role", "step", *STEP_FIGURES)} for row in steps
        ],
        "weights": [[row["policy/weights_hash"], row["critic/weights_hash"]] for row in rounds],
        "signals": [row["monitor/signals"] for row in rounds],
        "ledger": fates,
        "records": records_hash(directory / "corpus"),
    }


def start(checkout: Path, command: list[str]) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(checkout),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fates_of(ledger: Path) -> dict[str, int]:
    """How many groups met each fate."""
    counts: Counter[str] = Counter()
    for row in read_lines(ledger):
        counts[row["fate"]] += len(row["groups"])
    return dict(counts)


def records_hash(corpus: Path) -> str:
    """One hash over the admitted records' own hashes, in order."""
    import pyarrow.parquet as pq

    shards = sorted(corpus.glob("*.parquet"))
    hashes = [row["sha256"] for shard in shards for row in pq.read_table(shard).to_pylist()]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose programs are run")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, help="write the JSON here instead of printing it")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        cold_start = ["pipelines/sft.py", "--config", "configs/tiny.toml", *BASE]
        start(checkout, [sys.executable, *cold_start, f"sft.directory={base}"])
        for case in options.cases:
            found[case] = play(checkout, base, Path(scratch) / case, case)
            digest = hashlib.sha256(json.dumps(found[case], sort_keys=True).encode()).hexdigest()
            print(f"{case}: {digest[:16]}", file=sys.stderr, flush=True)
    text = json.dumps(found, indent=1) + "\n"
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
