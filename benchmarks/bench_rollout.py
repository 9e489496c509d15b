"""A GRPO step in seconds and tokens: ours against stock TRL, same weights, tasks and lengths.

    python benchmarks/bench_rollout.py [--only moe] [--lengths 128] [--completions 128]

Scenarios (all at `--model`, "small" unless told):
    moe      the MoE, completions of exactly 64, 128 and 256 tokens
    ahead    servers that draw the next batch during the update; a turn is the demo's block, 6 steps
    ragged   the MoE, completions that end on their own, half of 128 tokens on average
    dense    a Llama of the same size, and TRL's vLLM path with vLLM's own reload for its sync
    stages   ours with a critic that criticises every completion: seconds a stage
    trials   how TRL's vLLM path ends as it is

Workers are processes that step in turn (`turns.py`); what they run is in `rollout_variants.py`,
their weights in `rollout_models.py`. Ratios are of tokens a second in the same turn. Leaves out
learning: the weights are random.
"""

import argparse
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness import context, summarise, write_result
from rollout_models import SEED, SIZES, make_checkpoint
from rollout_variants import GROUP, PROOFS, STAGES, StepJob, Variant, work
from turns import Named, Row, WorkerError, take_turns

from pipelines.process import prepare_process
from pipelines.settings.tables import RolloutTable

NUM_WARMUP = 3  # steps
STOCK = Variant("stock TRL", "transformers", "bf16")  # bf16 is GRPOConfig's default
STOCK_FLOAT32 = Variant("stock TRL", "transformers", "float32")
STOCK_VLLM = Variant("stock TRL", "vLLM", "bf16")
REPAIRED_VLLM = Variant("stock TRL", "vLLM, sync repaired", "bf16")
OURS = Variant("ours", "vLLM", "float32")
OURS_WITH_CRITIC = Variant("ours", "vLLM", "float32", critic=True)
COMPARED = (
    Variant("ours", "vLLM", "float32", compiled=True),
    Variant("ours", "vLLM", "bf16", compiled=True),
    Variant("ours", "transformers", "float32"),
    Variant("ours", "transformers", "bf16"),
    STOCK,
    STOCK_FLOAT32,
)
AHEAD = (
    Variant("ours", "vLLM server", "float32", ahead=True),
    Variant("ours", "vLLM server", "bf16", compiled=True, ahead=True),
)
ALL = (OURS, Variant("ours", "vLLM server", "float32"), *COMPARED)


@dataclass(frozen=True)
class Scenario:
    """A model, how long its completions are, and what is compared on it."""

    family: str
    ragged: bool
    variants: tuple[Variant, ...]
    steps_a_turn: int = 1


SCENARIOS = {
    "moe": Scenario("moe", False, ALL),
    "ahead": Scenario("moe", False, (*AHEAD, STOCK, STOCK_FLOAT32), steps_a_turn=6),
    "ragged": Scenario("moe", True, COMPARED),
    "dense": Scenario("dense", False, (*COMPARED, REPAIRED_VLLM)),
    "stages": Scenario("moe", False, (OURS_WITH_CRITIC,)),
}

# Without the variable vLLM's kernel for latent attention does not take the tiny model's shape.
TRIALS = {
    "dense": ("dense", {}),
    "moe": ("moe", {}),
    "moe, VLLM_MLA_DISABLE=1": ("moe", {"VLLM_MLA_DISABLE": "1"}),
}


def measure(
    scenario: Scenario, options: argparse.Namespace, length: int
) -> dict[str, dict[str, object]]:
    """Run one scenario at one length; the summary of each variant."""
    with tempfile.TemporaryDirectory() as folder:
        mean_of = length if scenario.ragged else None
        size = make_checkpoint(folder, scenario.family, options.model, mean_of)
        print(f"  {size:,} parameters", flush=True)
        per_turn = scenario.steps_a_turn
        # Compiles, allocates, and holds the two probes after the first two syncs.
        warmup = math.ceil(NUM_WARMUP / per_turn)
        numbers = (length, options.completions, warmup + options.repeats, per_turn)
        jobs = [Named(v.name, StepJob(v, folder, *numbers)) for v in scenario.variants]
        rows = take_turns(jobs, work, warmup, options.repeats)
    if not scenario.ragged:
        wanted = options.completions * length
        uneven = {name: [r["tokens"] for r in own] for name, own in rows.items()}
        assert all(t == wanted for own in uneven.values() for t in own), f"uneven work: {uneven}"
    return {name: summary(name, rows) for name in rows}


def summary(name: str, rows: Mapping[str, Sequence[Row]]) -> dict[str, object]:
    """Medians and spread of one variant, and its ratios to each stock variant, turn by turn."""
    own = rows[name]
    result: dict[str, object] = {
        part: summarise([row[part] for row in own]) for part in ("step", "cpu", "update", *STAGES)
    }
    result["tokens"] = [row["tokens"] for row in own]
    result["tokens_per_second"] = summarise([row["tokens"] / row["step"] for row in own])
    result["generated_per_second"] = summarise([row["tokens"] / row["generate"] for row in own])
    result["times_faster_than"] = {
        other: summarise([_speed(a) / _speed(b) for a, b in zip(own, theirs, strict=True)])
        for other, theirs in rows.items()
        if other.startswith("stock") and other != name
    }
    if any(row.get("sync/checksum") for row in own):
        result["share_of_step"] = _shares(own)
    return result


def _speed(row: Row) -> float:
    return row["tokens"] / row["step"]


def _shares(own: Sequence[Row]) -> dict[str, object]:
    """Sync and its proofs as shares of a step, with such probes as fell due in the measured turns.

    The first two are in the warm-up; then one sync in `probe_every` has one.
    """
    every = RolloutTable().probe_every
    proofs = [sum(row[f"sync/{name}"] for name in PROOFS) for row in own]
    return {
        "sync": summarise([row["sync"] / row["step"] for row in own]),
        "proof without probe": summarise(
            [p / row["step"] for p, row in zip(proofs, own, strict=True)]
        ),
        "probe_every": every,
    }


def show(results: Mapping[str, Mapping[str, object]]) -> None:
    """Print the table of one scenario at one length."""
    print(
        f"  {'variant':<48} {'s/step':>7} {'[quartiles]':>14} {'cpu s':>6} {'tok/s':>7}"
        f" {'gen t/s':>8} {'x default':>10} {'x float32':>10}  of which (s)"
    )
    for name, result in results.items():
        step, faster = result["step"], result["times_faster_than"]
        parts = "  ".join(f"{p} {result[p]['median']:.2f}" for p in (*STAGES, "update"))
        ratios = [
            f"{faster[stock.name]['median']:.2f}" if stock.name in faster else "-"
            for stock in (STOCK, STOCK_FLOAT32)
        ]
        quartiles = f"[{step['q1']:.2f}, {step['q3']:.2f}]"
        print(
            f"  {name:<48} {step['median']:>7.2f} {quartiles:>14}"
            f" {result['cpu']['median']:>6.2f}"
            f" {result['tokens_per_second']['median']:>7.0f}"
            f" {result['generated_per_second']['median']:>8.0f}"
            f" {ratios[0]:>10} {ratios[1]:>10}  {parts}", flush=True,
        )  # fmt: skip


def try_stock_vllm(family: str, environment: Mapping[str, str]) -> str:
    """How two steps of TRL's own vLLM path end: the error, or "it runs"."""
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(folder, family, "tiny", None)
        job = StepJob(STOCK_VLLM, folder, length=16, num_completions=GROUP, num_turns=2)
        os.environ.update(environment)  # workers inherit it
        try:
            take_turns([Named(STOCK_VLLM.name, job)], work, 0, job.num_turns)
        except WorkerError as error:
            return str(error).strip().splitlines()[-1]
        finally:
            for name in environment:
                del os.environ[name]
    return "it runs"


def lengths_of(name: str, options: argparse.Namespace) -> Sequence[int]:
    """All lengths for the MoE; the others are measured at the goal's 128, or the nearest."""
    if name == "moe":
        return options.lengths
    return [min(options.lengths, key=lambda length: abs(length - 128))]


def run_scenarios(options: argparse.Namespace) -> dict[str, object]:
    """Measure and print what was asked for; summaries by scenario, length and variant."""
    found: dict[str, dict[int | str, object]] = {}
    for name in filter(SCENARIOS.__contains__, options.only):
        for length in lengths_of(name, options):
            print(f"{name}: {length} tokens, {options.completions} completions a step", flush=True)
            results = measure(SCENARIOS[name], options, length)
            show(results)
            found.setdefault(name, {})[length] = results
    if "trials" in options.only:
        found["trials"] = {name: try_stock_vllm(*trial) for name, trial in TRIALS.items()}
        for name, told in found["trials"].items():
            print(f"TRL's own vLLM path, {name}: {told}", flush=True)
    return found


def main() -> None:
    """Run the scenarios, print their tables, write results/rollout.json."""
    every = [*SCENARIOS, "trials"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--repeats", type=int, default=5, help="measured steps a variant")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256], help="tokens")
    parser.add_argument("--completions", type=int, default=32, help=f"a step, in groups of {GROUP}")
    parser.add_argument("--model", choices=SIZES, default="small")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS of every worker")
    parser.add_argument("--topic", default="rollout", help="name of the result file")
    options = parser.parse_args()
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    prepare_process()
    content = context({"weights, tasks, sampling": SEED}) | vars(options)
    content |= {"group": GROUP, "omp_num_threads": os.environ.get("OMP_NUM_THREADS")}
    content["scenarios"] = run_scenarios(options)
    print(f"written: {write_result(options.topic, content)}")


if __name__ == "__main__":
    main()
