"""Seconds per GRPO step: ours against stock TRL, same weights, tasks, batch and completion lengths.

    python benchmarks/bench_grpo.py [--repeats 7] [--lengths 64 128] [--threads N]

    ours          RoleTrainer, vLLM rollouts, weight sync with all its checks
    ours, no vLLM RoleTrainer, rollout.engine="transformers": our model's own decode
    stock TRL     GRPOTrainer, transformers' DeepseekV3ForCausalLM and `generate`

Each variant is a process of its own (importing our model would replace transformers' class) with
the same thread settings; the parent lets one of them take one step at a time, in turn. A step is
everything from prompts to updated weights: sync, generation, verification, loss, optimizer.
Weights are random. Lengths are exact without touching any sampler: the weights give the
end-of-sequence token a logit below -50, and every step asserts the number of tokens it sampled.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from harness import context, summarise, write_result

from pipelines.process import prepare_process

VARIANTS = ("ours", "ours, no vLLM", "stock TRL")
SEED, GROUP, MAX_PROMPT = 0, 8, 24
NUM_WARMUP = 3  # compiles, allocates, and holds the two probes after the first two syncs
MODELS: dict[str, dict[str, object]] = {
    "small": {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 128},  # 2.5M
    "tiny": {},  # 0.7M, the demo's
}


@dataclass(frozen=True)
class Job:
    """What one worker runs."""

    variant: str
    checkpoint: str
    length: int
    num_completions: int
    num_steps: int


def make_checkpoint(folder: str, size: str) -> int:
    """Save a random MoE that never ends a completion; returns its number of parameters."""
    from transformers import set_seed

    from model import SparringMoeForCausalLM, tiny_config
    from pipelines.tokenizer import character_tokenizer

    set_seed(SEED)
    tokenizer = character_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    policy = SparringMoeForCausalLM(tiny_config(len(tokenizer), **ids, **MODELS[size]))
    _never_end(policy, tokenizer.eos_token_id)
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in policy.parameters())


def _never_end(policy, eos_id: int) -> None:  # type: ignore[no-untyped-def]
    """Keep feature 0 of the residual stream positive, and let it count against the end alone."""
    import torch

    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if name.endswith("experts.down_proj"):
                weight[:, 0] = 0
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                weight[0] = 0
            elif name.endswith(("gate.weight", "lm_head.weight")):
                weight[:, 0] = 0
        policy.model.embed_tokens.weight[:, 0] = 0.05
        policy.lm_head.weight[eos_id, 0] = -100


class Judge:
    """The reward of every variant: the puzzle verifier, and a share of digits so groups differ."""

    def __init__(self, num: int) -> None:
        from data.sources import make_source
        from rewards.dialect import dialect
        from rewards.verify import Verifiers

        params = {
            "min_terms": 3, "max_terms": 8, "min_digits": 1, "max_digits": 1, "operators": ["+"],
            "allow_parentheses": False, "allow_negation": False,
        }  # fmt: skip
        source = make_source("reasoning_gym", family="basic_arithmetic", params=params)
        self.tasks = source.draw("train", num, SEED)
        self.dialect, self.verifiers = dialect("chain"), Verifiers(5.0)
        self.prompts = [self.dialect.render_problem(task) for task in self.tasks]

    def reward(self, row: int, text: str) -> float:
        solution = self.dialect.parse_solution(text, truncated=True)
        verdict = self.verifiers.verify(self.tasks[row], solution)
        digits = sum(character.isdigit() for character in text) / max(len(text), 1)
        return float(verdict.passed) + digits


def _grpo_config(job: Job, folder: str):  # type: ignore[no-untyped-def]
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=folder, per_device_train_batch_size=job.num_completions, num_generations=GROUP,
        max_completion_length=job.length, max_steps=job.num_steps, temperature=1.0, beta=0.0,
        learning_rate=1e-5, lr_scheduler_type="constant", bf16=False, gradient_checkpointing=False,
        logging_steps=1, report_to="none", save_strategy="no", shuffle_dataset=False, seed=SEED,
        use_vllm=False, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip


def _gate(pipe: Connection, measured: dict[str, float]):  # type: ignore[no-untyped-def]
    """A callback that waits for the parent's word before each step, and reports its seconds."""
    from transformers import TrainerCallback

    class Gate(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            assert pipe.recv() == "step"
            self.start = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            pipe.send({"step": time.perf_counter() - self.start, **measured})

    return Gate()


def run_stock(job: Job, pipe: Connection, folder: str) -> None:
    """TRL's trainer on transformers' model, as a reader of TRL's documentation would write it."""
    import sys

    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import GRPOTrainer

    assert "model" not in sys.modules, "our classes would replace transformers'"
    policy = AutoModelForCausalLM.from_pretrained(job.checkpoint, dtype="float32")
    assert type(policy).__module__.startswith("transformers.models.deepseek_v3")
    judge = Judge(job.num_steps * job.num_completions // GROUP)
    measured = {"tokens": 0.0, "generate": 0.0, "sync": 0.0}

    class TimedTrainer(GRPOTrainer):
        """Stock, with a stopwatch around its generation."""

        def _generate_single_turn(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
            start = time.perf_counter()
            generated = super()._generate_single_turn(*args, **kwargs)
            measured["generate"] = time.perf_counter() - start
            return generated

    def reward(
        completions: list[str], completion_ids: list[list[int]], row: list[int], **_: object
    ) -> list[float]:
        measured["tokens"] = float(sum(map(len, completion_ids)))
        return [judge.reward(r, text) for r, text in zip(row, completions, strict=True)]

    rows = [{"prompt": prompt, "row": i} for i, prompt in enumerate(judge.prompts)]
    trainer = TimedTrainer(
        model=policy, reward_funcs=reward, args=_grpo_config(job, folder),
        train_dataset=Dataset.from_list(rows), callbacks=[_gate(pipe, measured)],
        processing_class=AutoTokenizer.from_pretrained(job.checkpoint),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def run_ours(job: Job, pipe: Connection, folder: str) -> None:
    """One block of our role trainer, as the loop plays it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import model  # noqa: F401  registers our classes
    from pipelines.credit import Scored
    from pipelines.manifest import checkpoint_manifest
    from pipelines.roles import RoleTrainer
    from pipelines.rollout import VllmEngine
    from pipelines.settings import RolloutTable
    from pipelines.sync import WeightSync
    from pipelines.transformers_engine import TransformersEngine

    checkpoint, judge = Path(job.checkpoint), Judge(job.num_steps * job.num_completions // GROUP)
    policy = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32")
    assert type(policy).__module__ == "model.modeling"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    table = RolloutTable(max_model_len=job.length + MAX_PROMPT)
    sync = None
    if job.variant == "ours":
        engine = VllmEngine(checkpoint, table, "float32", tokenizer.eos_token_id)
        probes = [tokenizer(prompt)["input_ids"] for prompt in judge.prompts[:8]]
        manifest = checkpoint_manifest(checkpoint)
        sync = WeightSync(engine, manifest, probes, table.probe_every, table.probe_threshold)
    else:
        ids = (tokenizer.eos_token_id, tokenizer.pad_token_id)
        engine = TransformersEngine(policy, *ids, table.max_model_len)
    measured: dict[str, float] = {}
    role = RoleTrainer(
        name="learner", policy=policy, tokenizer=tokenizer, args=_grpo_config(job, folder),
        engine=engine, sync=sync, run_steps=job.num_steps, on_step=lambda row: None,
    )  # fmt: skip

    def score(indices, samples):  # type: ignore[no-untyped-def]
        measured["tokens"] = float(sum(len(sample.token_ids) for sample in samples))
        pairs = zip(indices, samples, strict=True)
        scored = [Scored(judge.reward(index, sample.text)) for index, sample in pairs]
        measured.update({name: role.timers[name] for name in ("generate", "sync")})
        measured["probe_total"] = 0.0 if sync is None else sync.seconds["probe"]
        return scored

    role.add_callback(_gate(pipe, measured))
    role.play(judge.prompts, score, "benchmark")


def work(job: Job, pipe: Connection) -> None:
    """A worker process: one variant at one length."""
    prepare_process()
    import torch

    pipe.send({"threads": torch.get_num_threads()})
    with tempfile.TemporaryDirectory() as folder:
        (run_stock if job.variant == "stock TRL" else run_ours)(job, pipe, folder)


def take_turns(jobs: Sequence[Job]) -> dict[str, list[dict[str, float]]]:
    """Start a worker a job and step them in turn; the measured steps of each, warm-up left out."""
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    steps: dict[str, list[dict[str, float]]] = {job.variant: [] for job in jobs}
    workers = []
    for job in jobs:
        pipes[job.variant], theirs = spawn.Pipe()
        workers.append(spawn.Process(target=work, args=(job, theirs), daemon=True))
        workers[-1].start()
        theirs.close()  # so that a dead worker ends recv() instead of hanging it
        print(
            f"  {job.variant}: {pipes[job.variant].recv()['threads']} torch thread(s)", flush=True
        )
    for turn in range(jobs[0].num_steps):
        for job in jobs:
            pipes[job.variant].send("step")
            row = pipes[job.variant].recv()
            assert row["tokens"] == job.num_completions * job.length, f"uneven work: {row}"
            if turn >= NUM_WARMUP:
                steps[job.variant].append(row)
    for worker in workers:
        worker.join()
    return steps


def report(steps: dict[str, list[dict[str, float]]], length: int) -> dict[str, object]:
    """Summarise one length and print its rows of the table."""
    result: dict[str, object] = {}
    medians = {}
    for variant, rows in steps.items():
        seconds = summarise([row["step"] for row in rows])
        rest = [row["step"] - row["generate"] - row["sync"] for row in rows]
        parts = {"seconds": seconds, "update": summarise(rest)}  # verification is milliseconds
        parts |= {name: summarise([row[name] for row in rows]) for name in ("generate", "sync")}
        parts["probe_seconds_total"] = rows[-1].get("probe_total", 0.0)
        result[variant], medians[variant] = parts, seconds["median"]
    for variant, parts in result.items():
        s = parts["seconds"]
        ratio = medians["stock TRL"] / s["median"]
        parts["times_faster_than_stock"] = ratio
        split = "".join(
            f"  {name} {parts[name]['median']:.2f}" for name in ("generate", "sync", "update")
        )
        print(
            f"{length:>6}  {variant:<14} {s['median']:>7.2f}  [{s['q1']:.2f}, {s['q3']:.2f}]"
            f"  {ratio:>6.2f}x {split}", flush=True,
        )  # fmt: skip
    return result


def main() -> None:
    """Run all variants at all lengths, print the table, write results/grpo.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="measured steps a variant")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128], help="tokens")
    parser.add_argument("--completions", type=int, default=32, help="a step, in groups of 8")
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS of every worker")
    parser.add_argument("--topic", default="grpo", help="name of the result file")
    options = parser.parse_args()
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    content = context({"weights, tasks, sampling": SEED})
    content |= {
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "model": MODELS[options.model],
    }
    content |= {"completions": options.completions, "group": GROUP, "repeats": options.repeats}
    with tempfile.TemporaryDirectory() as folder:
        content["parameters"] = make_checkpoint(folder, options.model)
        lengths: dict[int, object] = {}
        for length in options.lengths:
            print(f"{length} tokens, {options.completions} completions a step", flush=True)
            jobs = [
                Job(variant, folder, length, options.completions, NUM_WARMUP + options.repeats)
                for variant in VARIANTS
            ]
            steps = take_turns(jobs)
            print("tokens  variant         s/step  [quartiles]     vs stock  of which (s)")
            lengths[length] = report(steps, length)
    print(f"written: {write_result(options.topic, content | {'lengths': lengths})}")


if __name__ == "__main__":
    main()
