"""What a worker of bench_rollout.py runs: GRPO steps of our role trainer, or of TRL's as it stands.

All variants see the same weights, tasks, rewards, batch and options of TRL. Each is a process of
its own, since importing our model replaces transformers' class. A step is all from prompts to
updated weights: sync, generation, verification, critiques where there are any, loss, optimizer.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rollout_models import SEED

if TYPE_CHECKING:
    from transformers import TrainerCallback
    from trl import GRPOConfig

    from data.records import Task
    from pipelines.rollouts.sample import Sample, Scored
    from pipelines.settings.tables import RolloutTable
    from pipelines.training.trainer import RoleTrainer

GROUP, MAX_PROMPT, NUM_PROBES = 8, 24, 8
STAGES = ("generate", "sync", "verify", "critique")  # the rest of a step is its update
# What proving costs beyond sending: each is a part of "sync" or comes before it.
PROOFS = ("checksum", "coverage", "canary")
CRITIQUE_TOKENS = 56  # the demo's


@dataclass(frozen=True)
class Variant:
    """Whose trainer, what samples, and in which precision.

    `bf16` is TRL's default: float32 weights, computed under bfloat16 autocast. vLLM knows no
    autocast, so that its weights are bfloat16 then.
    """

    trainer: Literal["ours", "stock TRL"]
    rollouts: Literal["transformers", "vLLM", "vLLM server", "vLLM, sync repaired"]
    precision: Literal["float32", "bf16"]
    critic: bool = False
    compiled: bool = False
    ahead: bool = False

    @property
    def name(self) -> str:
        named = {"compiled": self.compiled, "one ahead": self.ahead, "critic": self.critic}
        chosen = [name for name, told in named.items() if told]
        return ", ".join([self.trainer, self.rollouts, self.precision, *chosen])


@dataclass(frozen=True)
class StepJob:
    """What one worker runs, on a checkpoint of `rollout_models.py`."""

    variant: Variant
    checkpoint: str
    length: int
    num_completions: int
    num_turns: int
    steps_a_turn: int = 1

    @property
    def num_steps(self) -> int:
        return self.num_turns * self.steps_a_turn


class Judge:
    """The reward of every variant: the puzzle verifier, and a share of digits so groups differ."""

    def __init__(self, num: int) -> None:
        from data.sources import make_source
        from rewards.dialect import dialect
        from rewards.verifiers import Verifiers

        params = {
            "min_terms": 3, "max_terms": 8, "min_digits": 1, "max_digits": 1, "operators": ["+"],
            "allow_parentheses": False, "allow_negation": False,
        }  # fmt: skip
        source = make_source("reasoning_gym", family="basic_arithmetic", params=params)
        self.tasks: list[Task] = source.draw("train", num, SEED)
        self.dialect, self.verifiers = dialect("chain"), Verifiers(5.0)
        self.prompts = [self.dialect.render_problem(task) for task in self.tasks]

    def reward(self, row: int, text: str) -> float:
        solution = self.dialect.parse_solution(text, truncated=True)
        verdict = self.verifiers.verify(self.tasks[row], solution)
        digits = sum(character.isdigit() for character in text) / max(len(text), 1)
        return float(verdict.passed) + digits


def work(job: StepJob, pipe: Connection) -> None:
    """A worker process: one variant at one length."""
    from pipelines.process import prepare_process

    prepare_process()
    judge = Judge(job.num_steps * job.num_completions // GROUP)
    with tempfile.TemporaryDirectory() as folder:
        if job.variant.trainer == "ours":
            OurSteps(job, pipe, judge, folder).run()
        else:
            run_stock(job, pipe, judge, folder)


def _grpo_config(job: StepJob, folder: str, **options: object) -> "GRPOConfig":
    """The same options of TRL for all; gradient checkpointing is off, which makes steps faster."""
    from trl import GRPOConfig

    return GRPOConfig(**{
        "output_dir": folder, "per_device_train_batch_size": job.num_completions,
        "num_generations": GROUP, "max_completion_length": job.length, "temperature": 1.0,
        "max_steps": job.num_steps, "beta": 0.0, "learning_rate": 1e-5, "seed": SEED,
        "lr_scheduler_type": "constant", "bf16": job.variant.precision == "bf16",
        "gradient_checkpointing": False, "logging_steps": 1, "report_to": "none",
        "save_strategy": "no", "shuffle_dataset": False, "use_vllm": False, "use_cpu": True,
        "disable_tqdm": True, **options,
    })  # fmt: skip


class _Turn:
    """Waits for the parent's word before its steps, and times each.

    Also in seconds of this process's processor time, which others on the machine disturb less; a
    server's is not in it.
    """

    def __init__(self, pipe: Connection, num_steps: int) -> None:
        self.pipe, self.seconds, self.cpu_seconds = pipe, 0.0, 0.0
        self.num_steps, self.rows = num_steps, list[dict[str, float]]()

    def callback(self) -> "TrainerCallback":
        from transformers import TrainerCallback

        turn = self

        class Gate(TrainerCallback):
            def on_step_begin(self, *_: object, **__: object) -> None:
                if not turn.rows:
                    assert turn.pipe.recv() == "step"
                self.start, self.cpu_start = time.perf_counter(), time.process_time()

            def on_step_end(self, *_: object, **__: object) -> None:
                turn.seconds = time.perf_counter() - self.start
                turn.cpu_seconds = time.process_time() - self.cpu_start

        return Gate()

    def tell(self, row: dict[str, float]) -> None:
        parts = dict.fromkeys(STAGES, 0.0) | row
        update = self.seconds - sum(parts[name] for name in STAGES)
        own = {"step": self.seconds, "cpu": self.cpu_seconds, "update": update}
        self.rows.append(own | parts)
        if len(self.rows) == self.num_steps:
            names = self.rows[0]
            self.pipe.send({n: statistics.fmean(row[n] for row in self.rows) for n in names})
            self.rows.clear()


# -- stock TRL -----------------------------------------------------------------------------------


def run_stock(job: StepJob, pipe: Connection, judge: Judge, folder: str) -> None:
    """TRL's trainer on transformers' model, as a reader of TRL's documentation would write it."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    assert "model" not in sys.modules, "our classes would replace transformers'"
    turn, row = _Turn(pipe, job.steps_a_turn), dict[str, float]()

    class TimedTrainer(GRPOTrainer):
        """Stock, with stopwatches."""

        def _generate_single_turn(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
            row["sync"], start = 0.0, time.perf_counter()
            generated = super()._generate_single_turn(*args, **kwargs)
            row["generate"] = time.perf_counter() - start - row["sync"]
            return generated

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                turn.tell(row)

    def reward(
        completions: list[str], completion_ids: list[list[int]], task: list[int], **_: object
    ) -> list[float]:
        start = time.perf_counter()
        rewards = [judge.reward(index, t) for index, t in zip(task, completions, strict=True)]
        row["tokens"] = float(sum(map(len, completion_ids)))
        row["verify"] = time.perf_counter() - start
        return rewards

    rows = [{"prompt": prompt, "task": i} for i, prompt in enumerate(judge.prompts)]
    trainer = TimedTrainer(
        model=job.checkpoint, reward_funcs=reward, train_dataset=Dataset.from_list(rows),
        args=_grpo_config(job, folder, **_stock_engine(job)), callbacks=[turn.callback()],
    )  # fmt: skip
    assert type(trainer.model).__module__.startswith("transformers.models.")
    if job.variant.rollouts != "transformers":
        generation = trainer.vllm_generation
        repaired = job.variant.rollouts == "vLLM, sync repaired"
        sync = partial(_reload, generation) if repaired else generation.sync_weights
        generation.sync_weights = partial(_timed, sync, row)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def _stock_engine(job: StepJob) -> dict[str, object]:
    """TRL's own options for its rollouts."""
    if job.variant.rollouts == "transformers":
        return {}
    return {
        "use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.1,
        "vllm_max_model_length": job.length + MAX_PROMPT,
    }  # fmt: skip


def _timed(sync: Callable[[], None], row: dict[str, float]) -> None:
    start = time.perf_counter()
    sync()
    row["sync"] = time.perf_counter() - start


def _reload(generation) -> None:  # type: ignore[no-untyped-def]
    """The sync that TRL's lacks on CPU, where vLLM has packed its weights away after loading."""
    weights = {"weights_iterator": generation._iter_named_params()}
    generation.llm.collective_rpc("reload_weights", kwargs=weights)
    generation.llm.reset_prefix_cache()


# -- ours ----------------------------------------------------------------------------------------


class OurSteps:
    """One block of our role trainer, as the loop plays it."""

    def __init__(self, job: StepJob, pipe: Connection, judge: Judge, folder: str) -> None:
        from transformers import AutoTokenizer

        from critic.format import critique_dialect

        self.job, self.judge, self.folder = job, judge, folder
        self.turn, self.row = _Turn(pipe, job.steps_a_turn), dict[str, float]()
        self.tokenizer = AutoTokenizer.from_pretrained(job.checkpoint)
        self.critiques = critique_dialect("chain")
        self.learner = self._role("learner", job.length)
        self.critic = self._role("critic", CRITIQUE_TOKENS) if job.variant.critic else None

    def run(self) -> None:
        self.learner.add_callback(self.turn.callback())
        try:
            size = self.job.steps_a_turn * self.job.num_completions // GROUP
            for first in range(0, len(self.judge.prompts), size):  # nothing flies between turns
                self.first = first
                prompts = self.judge.prompts[first : first + size]
                self.learner.play(prompts, self._score, f"turn {first // size}")
        finally:
            for role in filter(None, (self.learner, self.critic)):
                role.sampler.engine.close()

    def _table(self) -> "RolloutTable":
        from pipelines.settings.tables import RolloutTable

        asked = self.job.length + MAX_PROMPT
        options: dict[str, object] = {}
        options["compile"] = self.job.variant.compiled
        if self.job.variant.rollouts == "vLLM server":
            options["placement"] = "server"
        critique = MAX_PROMPT + CRITIQUE_TOKENS if self.job.variant.critic else 0
        return RolloutTable(max_model_len=asked + critique, **options)

    def _role(self, name: str, length: int) -> "RoleTrainer":
        import torch
        from transformers import AutoModelForCausalLM

        import model  # noqa: F401  registers our classes
        from pipelines.policy.manifest import checkpoint_manifest
        from pipelines.rollouts.sampler import Sampler
        from pipelines.rollouts.servers.start import open_engine
        from pipelines.rollouts.spec import EngineSpec
        from pipelines.rollouts.transformers_engine import TransformersEngine
        from pipelines.rollouts.vllm_engine import VllmEngine
        from pipelines.sync.push import WeightSync
        from pipelines.training.role_spec import RoleSpec
        from pipelines.training.trainer import RoleTrainer

        folder, table, variant = Path(self.job.checkpoint), self._table(), self.job.variant
        policy = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        ids, sync = self.tokenizer, None
        if variant.rollouts == "transformers":
            engine = TransformersEngine(
                policy, (ids.eos_token_id,), ids.pad_token_id, table.max_model_len
            )
        else:
            dtype = "float32" if variant.precision == "float32" else "bfloat16"
            manifest = checkpoint_manifest(folder)
            if variant.rollouts == "vLLM server":
                engine = open_engine(name, EngineSpec(folder, table, dtype, (ids.eos_token_id,)))
                engine.await_ready(manifest)
            else:
                engine = VllmEngine(EngineSpec(folder, table, dtype, (ids.eos_token_id,)))
            probes = [ids(prompt)["input_ids"] for prompt in self.judge.prompts[:NUM_PROBES]]
            often = (table.probe_every, table.probe_threshold)
            sync = WeightSync(engine, manifest, probes, *often, dtype=getattr(torch, dtype))
        grpo = _grpo_config(self.job, self.folder, max_completion_length=length)
        limits = (length, grpo.temperature)
        sampler = Sampler(name, engine, ids, grpo.seed, *limits, policy, sync)
        spec = RoleSpec(name, grpo, run_steps=self.job.num_steps, draw_ahead=variant.ahead)
        return RoleTrainer(spec, policy, sampler, self._tell)

    def _score(self, indices: Sequence[int], samples: Sequence["Sample"]) -> list["Scored"]:
        from pipelines.rollouts.sample import Scored

        self.row["tokens"] = float(sum(len(sample.token_ids) for sample in samples))
        pairs = [(self.first + i, sample) for i, sample in zip(indices, samples, strict=True)]
        scored = [Scored(self.judge.reward(index, sample.text)) for index, sample in pairs]
        if self.critic is not None:  # random text is never well-formed, so the game asks of none
            with self.learner.timed("critique"):
                render = self.critiques.render_prompt
                asked = [render(self.judge.prompts[index], sample.text) for index, sample in pairs]
                self.critic.sample(asked, f"critique {self.learner.num_steps}")
        return scored

    def _tell(self, row: dict[str, object]) -> None:
        """After each step, with the trainer's own times."""
        self.turn.tell(self.row | {n: float(str(row.get(f"time/{n}", 0.0))) for n in STAGES} | {
            f"sync/{n}": float(str(row.get(f"time/sync/{n}", 0.0))) for n in (*PROOFS, "probe")
        })  # fmt: skip
