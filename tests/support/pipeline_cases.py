"""What the pipeline tests share: checkpoints made on the spot, and how a run is started and read.

A checkpoint whose solutions can be judged takes a short cold start of a very small model on
three-term sums (some ten seconds); everything else works on random weights that matter.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)
from trl import GRPOConfig
from weights import make_weights_matter

from model.configuration import tiny_config
from model.modeling import SparringMoeForCausalLM
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.moe import Policy
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Engine
from pipelines.rollouts.sampler import Sampler
from pipelines.rollouts.servers.engine import ServerEngine
from pipelines.rollouts.servers.process import ServerProcess
from pipelines.rollouts.servers.start import find_server
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.transformers_engine import TransformersEngine
from pipelines.settings.tables import RolloutTable
from pipelines.sync.push import WeightSync
from pipelines.training.role_spec import RoleSpec
from pipelines.training.trainer import RoleTrainer

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "tiny.toml"
ENGINE = "transformers" if importlib.util.find_spec("vllm") is None else "vllm"
TASKS = ("tasks.params.min_terms=3", "tasks.params.max_terms=3")
COLD_START = (
    *TASKS,
    "sft.slip_rate=0.1",  # solves one task in five rather than one in ten: rounds admit something
    "sft.num_solutions=700",
    "sft.num_critiques=300",
    "sft.easy.num_solutions=0",
    "sft.model={hidden_size=64, num_hidden_layers=2}",
    "sft.trainer.max_steps=300",
    "sft.trainer.warmup_steps=10",
    "sft.trainer.lr_scheduler_kwargs={num_decay_steps=350}",
    "sft.trainer.per_device_train_batch_size=16",
    "sft.trainer.learning_rate=5e-3",
)
# The shortest run that has every stage: one generation batch of four groups a block.
SHORT_RUN = (
    *TASKS,
    "learner.steps_per_round=2",
    "critic.steps_per_round=1",
    "critic.imitation_steps=1",
    "learner.max_completion_length=32",
    "learner.grpo.per_device_train_batch_size=16",
    "critic.grpo.per_device_train_batch_size=8",
    "learner.grpo.num_generations=4",
    "critic.grpo.num_generations=4",
    "critic.critiques_per_audit=1",
    "evaluate.num_tasks=8",
    "evaluate.num_samples=2",
    "evaluate.num_probe_tasks=8",
    "evaluate.num_audit_tasks=24",
    "rollout.kv_cache_gib=0.05",
    "rollout.max_num_seqs=32",
    f"rollout.engine={ENGINE}",
)

# A run of one step per round on random weights: whoever asks nothing of what it learns.
SMALLEST_RUN = (
    "rollout.engine=transformers",
    "learner.steps_per_round=1",
    "learner.max_completion_length=6",
    "learner.grpo.per_device_train_batch_size=8",
    "critic.steps_per_round=0",
    "critic.imitation_steps=0",
    "critic.max_completion_length=6",
    "evaluate.num_tasks=2",
    "evaluate.num_probe_tasks=2",
    "evaluate.num_audit_tasks=2",
)


def judgeable_checkpoint(directory: Path) -> Path:
    """A model that writes solutions and critiques that parse, from `sft.py`'s own code."""
    from pipelines.run.cold_start import cold_start
    from pipelines.settings.load import load_settings

    return cold_start(load_settings(CONFIG, [*COLD_START, f"sft.directory={directory}"]))


def random_moe(tokenizer: PreTrainedTokenizerBase, **overrides: object) -> SparringMoeForCausalLM:
    """Our model with weights that matter."""
    config = tiny_config(
        len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **{"hidden_size": 64, "num_hidden_layers": 2, **overrides},
    )  # fmt: skip
    return make_weights_matter(SparringMoeForCausalLM(config).eval())


def random_llama(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> LlamaForCausalLM:
    """A small dense model with tied embeddings, as SmolLM2 is."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    return redraw(LlamaForCausalLM(config).eval(), seed)


@torch.no_grad()
def redraw(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Redraw every parameter of a dense model so that each part moves the logits."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1:
            noise = 1 + 0.1 * noise
        else:
            noise *= 1.3 * tensor.shape[-1] ** -0.5
        if "embed_tokens" in name:  # also the head: keep the logits in a trained model's range
            noise *= 0.5
        tensor.copy_(noise)
    return model


@torch.no_grad()
def redraw_adapter(policy: torch.nn.Module, seed: int, size: float = 0.05) -> None:
    """Redraw every parameter of a LoRA adapter."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if ".lora_" in name:
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def save(model: torch.nn.Module, directory: Path) -> Path:
    """A checkpoint directory with its tokenizer."""
    model.save_pretrained(directory)
    character_tokenizer().save_pretrained(directory)
    return directory


SHARED = RolloutTable(
    placement="server", transfer="file", max_model_len=160, kv_cache_gib=0.02, max_num_seqs=16,
    start_timeout_seconds=200, request_timeout_seconds=100, liveness_seconds=20,
)  # fmt: skip
# Room for 16 prompts, and for a third of the sequences at their end: vLLM preempts the others.
CRAMPED = {"num_gpu_blocks_override": SHARED.max_num_seqs + 1, "block_size": 32}


@dataclass(frozen=True)
class SharedServer:
    """A vLLM server of `random_moe`'s weights with little KV cache, and its checkpoint."""

    directory: Path
    process: ServerProcess

    def engine(self, folder: Path, **options: object) -> ServerEngine:
        """An engine of its own on the server, which does not end with it."""
        table = SHARED.model_copy(update=options)
        spec = EngineSpec(self.directory, table, "float32", (character_tokenizer().eos_token_id,))
        engine = ServerEngine(spec, [find_server(str(self.process.socket), table)], folder)
        engine.await_ready(checkpoint_manifest(self.directory))
        return engine


def start_shared_server(folder: Path) -> SharedServer:
    """Start the server; whoever makes an engine on it waits for it."""
    tokenizer = character_tokenizer()
    directory = save(random_moe(tokenizer), folder / "moe")
    spec = EngineSpec(directory, SHARED, "float32", (tokenizer.eos_token_id,))
    process = ServerProcess(
        directory, {**spec.options, **CRAMPED}, spec.attention.environment, folder, "shared"
    )
    process.start()
    return SharedServer(directory, process)


Role = TypeVar("Role", bound=RoleTrainer)


def learner_role(
    kind: type[Role],
    checkpoint: Path,
    on_step: Callable[[dict[str, object]], None] = lambda row: None,
    engine: Engine | None = None,
    sync: WeightSync | None = None,
    spec: Mapping[str, object] | None = None,
    policy: Policy | None = None,
    **options: object,
) -> Role:
    """A learner of its own, outside any run, that generates with transformers if not told else.

    Args:
        spec: more of its `RoleSpec`.
        policy: by default the checkpoint's, in float32.
        options: of its `GRPOConfig`.
    """
    config = GRPOConfig(**{
        "output_dir": str(checkpoint), "max_completion_length": 8, "temperature": 1.0, "seed": 0,
        "learning_rate": 1e-2, "lr_scheduler_type": "linear", "bf16": False, "beta": 0.0,
        "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
        "logging_steps": 1, "shuffle_dataset": False, "use_vllm": False, "max_steps": 1,
        "use_cpu": not torch.accelerator.is_available(), "disable_tqdm": True, **options,
    })  # fmt: skip
    if policy is None:
        policy = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if engine is None:
        engine = TransformersEngine(policy, (tokenizer.eos_token_id,), tokenizer.pad_token_id, 96)
    limits = (config.max_completion_length, config.temperature)
    sampler = Sampler(
        "learner", engine, tokenizer, config.seed, *limits, policy, sync,
        chat_template_kwargs=config.chat_template_kwargs,
    )  # fmt: skip
    spec = RoleSpec("learner", config, run_steps=3, **{"router_bias_rate": 1e-3, **(spec or {})})
    return kind(spec, policy, sampler, on_step)


def arguments(checkpoint: Path, directory: Path, *overrides: str) -> list[str]:
    """`rl.py`'s arguments for a short run; later overrides win."""
    return [
        *("--config", str(CONFIG)),
        *(f"run.directory={directory}", f"learner.model={checkpoint}"),
        *(f"critic.model={checkpoint}", *SHORT_RUN, *overrides),
    ]


def accelerate(num_processes: int = 1, script: str = "pipelines/rl.py") -> list[str]:
    """The README's launcher; several processes meet at a port that is free."""
    several = ["--multi_gpu", "--num_processes", str(num_processes), "--main_process_port", "0"]
    if num_processes == 1:
        several = []
    launcher = str(Path(sys.executable).with_name("accelerate"))
    return [launcher, "launch", *several, script]


def environment(**more: str) -> dict[str, str]:
    """A subprocess's environment: one thread each, as several of them share two cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def run(
    command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout to its end."""
    return subprocess.run(
        command, cwd=ROOT, env=dict(env or environment()), capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip


def rows(directory: Path, kind: str | None = None) -> list[dict[str, object]]:
    """A run's metrics so far, complete lines only."""
    path = directory / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [row for row in found if kind is None or row["kind"] == kind]


def status(directory: Path) -> dict[str, object]:
    """How the run stands."""
    return json.loads((directory / "status.json").read_text())


def refused(
    capfd: pytest.CaptureFixture[str], main: Callable[[Sequence[str]], int], command: Sequence[str]
) -> str:
    """The one line that a program's `main` ends with, in this process, for a user's mistake."""
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    printed = capfd.readouterr()
    lines = printed.err.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], printed.err
    assert "Traceback" not in printed.err + printed.out
    return lines[-1]
