"""Does a run in bfloat16 follow the one in float32? And what does an adapter lose by being merged?

    python benchmarks/exp_precision.py run      200 GRPO steps an arm and seed; a killed one goes on
    python benchmarks/exp_precision.py merge    a young and an old adapter, policy against engine
    python benchmarks/exp_precision.py table    what there is so far

`bfloat16` trains float32 weights under bfloat16 autocast and samples from their cast; with LoRA the
frozen base is in bfloat16 and the engine serves W + BA in float32. `served` trains in float32 and
samples in bfloat16. `again` is float32 with other tasks and other samples from the same cold start:
what two right runs differ by. All arms of a seed begin with one cold start of `exp_monitor.py`,
without a critic, and cannot be halted. Results go to benchmarks/results/precision.json. Leaves out
accelerators.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from campaign import call, play_all
from exp_monitor import FAMILIES, base_of, cold_start
from exp_pointing import ALONE
from harness import ROOT, context, mean_interval, write_result

from pipelines.process import prepare_process

NUM_ROUNDS, STEPS = 10, 20
OTHER_SEED = 1000
ADAPTED = 'target_modules=["q_proj", "kv_b_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]'
LORA = ("learner.lora.r=16", "learner.lora.lora_alpha=32", f"learner.lora.{ADAPTED}")
SIZES = (
    *ALONE, f"run.rounds={NUM_ROUNDS}", f"learner.steps_per_round={STEPS}",
    "learner.max_completion_length=64", "learner.grpo.per_device_train_batch_size=64",
    "evaluate.num_tasks=1", "evaluate.num_audit_tasks=1", "evaluate.num_probe_tasks=64",
    "evaluate.num_samples=4", "learner.grpo.lr_scheduler_type=constant",
    "learner.grpo.beta=1e-6",  # moves nothing; TRL then logs the divergence from the start
    "monitor.offers=[]", "monitor.threshold=1e9",  # only watched
)  # fmt: skip
HALF = ('learner.dtype="bfloat16"', 'critic.dtype="bfloat16"')
FLOAT32 = ("learner.grpo.bf16=false", "critic.grpo.bf16=false")
BF16 = ("learner.grpo.bf16=true", "critic.grpo.bf16=true")
ARMS: Mapping[str, Sequence[str]] = {
    "whole/float32": (),
    "whole/again": (),
    "whole/served": (*HALF, *FLOAT32),
    "whole/bfloat16": (*HALF, *BF16),
    "lora/float32": LORA,
    "lora/again": LORA,
    "lora/bfloat16": (*LORA, *HALF, *BF16),
}
RATES = {"whole": 3e-4, "lora": 1e-3}
KEPT = ("reward/mean", "policy/kl", "rollout/mismatch_mean")
Precision = Literal["float32", "bfloat16"]
PRECISIONS: Sequence[Precision] = get_args(Precision)
TEXTS = ("3+4+5=", "1+2+9+4=\n1+2=3\n3+9=12\n", "8+8+1+7+5=\n8+8=16\n16+1=17\n17+7=24\n")


@dataclass(frozen=True)
class Job:
    """One run of one arm."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder, and its key in the results."""
        return f"{self.arm}/{self.seed}"


def overrides_of(job: Job) -> list[str]:
    """What makes an arm, in the order that counts."""
    rate = RATES[job.arm.partition("/")[0]]
    return [*FAMILIES["sums"], *SIZES, f"learner.grpo.learning_rate={rate:g}", *ARMS[job.arm]]


def play(job: Job, folder: Path) -> dict[str, object]:
    """One run, or the rest of it; returns its curves."""
    directory, log = folder / job.name, folder / "logs" / f"{job.name.replace('/', '-')}.log"
    program = ROOT / "pipelines" / "rl.py"
    if (directory / "config.json").exists():
        call(program, ["--resume", str(directory)], log)
    else:
        seed = job.seed + OTHER_SEED * job.arm.endswith("again")
        given = ["--config", str(ROOT / "configs" / "tiny.toml"), f"run.seed={seed}"]
        given += [f"sft.directory={base_of('sums', job.seed, folder)}"]
        call(program, [*given, f"run.directory={directory}", *overrides_of(job)], log)
    rows = list(map(json.loads, (directory / "metrics.jsonl").read_text().splitlines()))
    steps = [row for row in rows if row["kind"] == "step" and row["role"] == "learner"]
    found: dict[str, object] = {key: [rounded(row[key]) for row in steps] for key in KEPT}
    probes = [row["probe/mean_at_k"] for row in rows if row["kind"] == "round"]
    return found | {"probe/mean_at_k": probes, "overrides": overrides_of(job)}


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def blocks(values: Sequence[float]) -> list[float]:
    """Means of the rounds' steps."""
    return [statistics.fmean(values[i : i + STEPS]) for i in range(0, len(values), STEPS)]


def compare(kind: str, arm: str, results: Mapping[str, Mapping], seeds: Sequence[int]) -> str:
    """How far an arm is from the float32 arm of its seed: means over seeds, 95% intervals.

    Of reward and gold probe the difference of the means over the second half of the steps, of the
    divergence their ratio; "apart" is the mean distance of the curves' rounds, in the same unit.
    """
    cells = [f"{kind}, {arm}", str(len(seeds))]
    pairs = [(results[f"{kind}/{arm}/{s}"], results[f"{kind}/float32/{s}"]) for s in seeds]
    for key in ("reward/mean", "probe/mean_at_k", "policy/kl"):
        by_round = list if key.startswith("probe/") else blocks
        curves = [(by_round(own[key]), by_round(other[key])) for own, other in pairs]
        half = [[statistics.fmean(curve[NUM_ROUNDS // 2 :]) for curve in pair] for pair in curves]
        far = [statistics.fmean(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in curves]
        if key == "policy/kl":
            cells.append(signed([own / other for own, other in half], ".2f"))
            far = [
                one / statistics.fmean(other) for one, (_, other) in zip(far, curves, strict=True)
            ]
        else:
            cells.append(signed([own - other for own, other in half], "+.3f"))
        cells.append(f"{statistics.fmean(far):.3f}")
    own = [statistics.fmean(run["rollout/mismatch_mean"]) for run, _ in pairs]
    return f"| {' | '.join([*cells, f'{statistics.fmean(own):.2g}'])} |"


def signed(values: Sequence[float], form: str) -> str:
    mean, low, high = mean_interval(values).values()
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def tables(content: Mapping[str, Mapping]) -> Iterator[str]:
    """The runs side by side, then the adapters."""
    results = content.get("results", {})
    yield "| arm | seeds | reward | apart | probe | apart | KL | apart | mismatch |"
    yield f"|{'---|' * 9}"
    for kind in RATES:
        for arm in ("again", "served", "bfloat16"):
            whole = (f"{kind}/{arm}/", f"{kind}/float32/")
            seeds = [s for s in range(100) if all(f"{start}{s}" in results for start in whole)]
            if seeds:
                yield compare(kind, arm, results, seeds)
    for name, found in content.get("merged", {}).items():
        told = ", ".join(f"{key} {value:.3g}" for key, value in found.items())
        yield f"{name}: {told}"


def merged(folder: Path) -> dict[str, dict[str, float]]:
    """What merging costs the bfloat16 run's adapters, the youngest and the oldest."""
    prepare_process()
    found: dict[str, dict[str, float]] = {}
    base = base_of("sums", 0, folder)
    kept = sorted((folder / "lora" / "bfloat16" / "0" / "checkpoints").glob("round_*"))
    for checkpoint in (kept[0], kept[-1]):
        for precision in PRECISIONS:
            for served in PRECISIONS:
                place = f"{checkpoint.name}, base {precision}, served in {served}"
                found[place] = cost(base, checkpoint / "learner_adapter", precision, served)
                print(place, found[place], flush=True)
    return found


def cost(base: Path, adapter: Path, precision: Precision, served: Precision) -> dict[str, float]:
    """Policy against engine on fixed sequences (nats), and the share of BA that is lost."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import model  # noqa: F401  registers our classes
    from pipelines.policy.checkpoint import export_policy
    from pipelines.policy.scoring import policy_logprobs
    from pipelines.policy.tensors import served_tensors
    from pipelines.rollouts.spec import EngineSpec
    from pipelines.rollouts.vllm_engine import VllmEngine
    from pipelines.settings.tables import RolloutTable
    from pipelines.sync.agreement import largest_difference, mean_difference

    def loaded() -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, precision))

    policy = PeftModel.from_pretrained(loaded(), adapter)
    whole = {name: tensor.float().clone() for name, tensor in served_tensors(policy)}
    moved = math.sqrt(
        sum(float((whole[n] - t.float()).norm() ** 2) for n, t in served_tensors(loaded()))
    )
    sent = {name: tensor.to(getattr(torch, served)).float() for name, tensor in whole.items()}
    base_lost = {
        n: t.float() - t.to(getattr(torch, served)).float() for n, t in served_tensors(loaded())
    }
    lost = math.sqrt(sum(float((whole[n] - t - base_lost[n]).norm() ** 2) for n, t in sent.items()))
    tokenizer = AutoTokenizer.from_pretrained(base)
    sequences = [tokenizer(text)["input_ids"] for text in TEXTS]
    exact = policy_logprobs(policy, sequences, "float32")
    with tempfile.TemporaryDirectory() as place:
        export_policy(policy, Path(place))
        tokenizer.save_pretrained(place)
        table = RolloutTable(max_model_len=192, kv_cache_gib=0.1)
        engine = VllmEngine(EngineSpec(Path(place), table, served, (tokenizer.eos_token_id,)))
        theirs = engine.score(sequences)
        engine.close()
    return {
        "engine_mean_nats": mean_difference(exact, theirs),
        "engine_max_nats": largest_difference(exact, theirs)[0],
        "adapter_mean_nats": mean_difference(exact, policy_logprobs(loaded(), sequences)),
        "adapter_lost_share": lost / moved,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["run", "merge", "table"])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "monitor")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    path = ROOT / "benchmarks" / "results" / "precision.json"
    content: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}
    results = content.setdefault("results", {})
    wanted = [Job(arm, seed) for seed in options.seeds for arm in options.arms]
    wanted = [j for j in wanted if results.get(j.name, {}).get("overrides") != overrides_of(j)]
    if options.stage == "run":
        for seed in dict.fromkeys(job.seed for job in wanted):
            cold_start("sums", seed, options.folder, ())

        def keep(job: Job, result: Mapping[str, object]) -> None:
            results[job.name] = result
            content["context"] = context({"all": len(options.seeds)})
            write_result("precision", content)

        play_all(wanted, lambda job: play(job, options.folder), keep)
    if options.stage == "merge":
        content["merged"] = merged(options.folder)
        content["merged_context"] = context({"run": 0})
        write_result("precision", content)
    print(*tables(content), sep="\n")


if __name__ == "__main__":
    main()
