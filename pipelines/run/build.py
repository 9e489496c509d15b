"""Builds what a run is made of: models, tokenizer, engines, syncs and the two roles."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, PreTrainedTokenizerBase
from trl import GRPOConfig

import model  # noqa: F401  registers our classes
from data.records import Task
from pipelines.errors import UserError
from pipelines.game.referee import Judging
from pipelines.policy.checkpoint import (
    check_vocabulary,
    load_policy,
    load_tokenizer,
    role_path,
    share_base,
)
from pipelines.policy.fp8 import fp8_checkpoint, train_in_fp8
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.moe import Policy
from pipelines.process import on_cpu
from pipelines.rollouts.servers.engine import ServerEngine
from pipelines.rollouts.servers.start import open_engine
from pipelines.rollouts.transformers_engine import TransformersEngine
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.run.checks import check_context
from pipelines.settings.tables import RoleTable, Settings
from pipelines.sync.push import WeightSync
from pipelines.sync.replica import SyncedEngine
from pipelines.training.trainer import RoleTrainer, prompts_per_block

OnStep = Callable[[dict[str, object]], None]
NUM_PROBES = 8


@dataclass(frozen=True)
class Roles:
    """The two policies of a run."""

    learner: RoleTrainer
    critic: RoleTrainer

    def named(self) -> dict[str, RoleTrainer]:
        return {"learner": self.learner, "critic": self.critic}

    def close(self) -> None:
        """End the rollout servers, where there are any."""
        for role in self.named().values():
            role.engine.close()


def build_roles(
    settings: Settings, on_step: OnStep, held_out: Sequence[Task], judging: Judging
) -> Roles:
    """Load both policies, start their engines, and prove that the tokenizers agree.

    Args:
        held_out: evaluation tasks; their prompts must fit, and the sync is checked on the first.

    Raises:
        UserError: a checkpoint, a vocabulary, a batch or the context does not fit; what to change.
    """
    learner_path, critic_path = (
        role_path(settings, settings.learner),
        role_path(settings, settings.critic),
    )
    tokenizer = load_tokenizer(learner_path)
    check_vocabulary(tokenizer, load_tokenizer(critic_path), learner_path, critic_path)
    check_context(settings, tokenizer, judging, held_out)
    configs = {
        "learner": _grpo_config("learner", settings, settings.learner),
        "critic": _grpo_config("critic", settings, settings.critic),
    }
    probe_ids = [_probe_ids(tokenizer, judging, task) for task in held_out[:NUM_PROBES]]
    parts = (
        ("learner", settings.learner, _start("learner", settings, learner_path)),
        ("critic", settings.critic, _start("critic", settings, critic_path)),
    )
    eos_id = tokenizer.eos_token_id
    policies = {name: load_policy(path, role) for name, role, path in parts}
    # A process's first engine decides whether vLLM makes a group for experts.
    starts = sorted(parts, key=lambda part: not _has_experts(part[2]))
    engines = {name: _engine(name, settings, role, path, eos_id) for name, role, path in starts}
    shared = (tokenizer, on_step, probe_ids)
    built = {
        name: _build_role(
            name, settings, role, path, policies[name], configs[name], engines[name], *shared
        )
        for name, role, path in parts
    }
    adapted = settings.learner.lora and settings.critic.lora
    if adapted and (learner_path, settings.learner.dtype) == (critic_path, settings.critic.dtype):
        share_base(built["learner"].policy, built["critic"].policy)
    world = built["learner"].accelerator.num_processes
    if world != settings.run.num_processes:
        raise UserError(
            f"Accelerate's world is {world} process(es), run.num_processes is "
            f"{settings.run.num_processes}: launch with `accelerate launch --multi_gpu "
            "--num_processes N`"
        )
    return Roles(built["learner"], built["critic"])


def _has_experts(path: str) -> bool:
    """Whether a checkpoint is a mixture of experts, of whatever architecture."""
    told = AutoConfig.from_pretrained(path).to_dict().items()
    return any("experts" in name and value for name, value in told)


def _start(name: str, settings: Settings, path: str) -> str:
    """The checkpoint that a role's policy and engine start from."""
    if settings.rollout.precision == "policy":
        return path
    return fp8_checkpoint(path, settings.run.directory / "fp8" / name)


def _probe_ids(tokenizer: PreTrainedTokenizerBase, judging: Judging, task: Task) -> list[int]:
    text = (
        judging.dialect.render_problem(task)
        + f"{task.reference}\n"
        + judging.dialect.render_problem(task)
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[: judging.settings.rollout.max_model_len - 1]


def _engine(
    name: str, settings: Settings, role: RoleTable, path: str, eos_id: int
) -> SyncedEngine | None:
    """The engine that the role's weights are sent to; None where its policy generates itself.

    Servers of both roles start side by side; `_build_role` waits for its own.
    """
    if settings.rollout.engine != "vllm":
        return None
    if settings.rollout.placement == "colocated":
        return VllmEngine(Path(path), settings.rollout, role.dtype, eos_id)
    rank, world_size = int(os.environ.get("RANK", "0")), settings.run.num_processes
    return open_engine(name, Path(path), settings.rollout, role.dtype, eos_id, rank, world_size)


def _build_role(
    name: str,
    settings: Settings,
    role: RoleTable,
    path: str,
    policy: Policy,
    args: GRPOConfig,
    synced: SyncedEngine | None,
    tokenizer: PreTrainedTokenizerBase,
    on_step: OnStep,
    probe_ids: list[list[int]],
) -> RoleTrainer:
    fp8 = settings.rollout.precision == "fp8"
    if fp8:
        train_in_fp8(policy)
    sync = None
    if synced is None:
        engine = TransformersEngine(
            policy,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
            settings.rollout.max_model_len,
            settings.rollout.max_num_seqs,
        )
    else:
        engine, manifest = synced, checkpoint_manifest(Path(path))
        table = settings.rollout
        if isinstance(synced, ServerEngine):
            synced.await_ready(manifest, role.dtype)
        synced.score(probe_ids[:1])  # an engine's first pass generates code: no part of any sync
        sync = WeightSync(
            synced, manifest, probe_ids, table.probe_every, table.probe_threshold, fp8
        )
    return RoleTrainer(
        name=name,
        policy=policy,
        tokenizer=tokenizer,
        args=args,
        engine=engine,
        sync=sync,
        run_steps=settings.run.rounds * role.steps_per_round,
        on_step=on_step,
        router_bias_rate=role.router_bias_rate,
        routing_replay=settings.rollout.routing_replay,
        draw_ahead=settings.rollout.max_staleness > 0,
    )


def _grpo_config(name: str, settings: Settings, role: RoleTable) -> GRPOConfig:
    """TRL's config of a role, whose batches must hold whole groups and whole blocks."""
    owned = {
        "output_dir": tempfile.gettempdir(),  # nothing is written: run_state.py saves
        "seed": settings.run.seed,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "shuffle_dataset": False,
        "use_vllm": False,
        "max_completion_length": role.max_completion_length,
        "temperature": role.temperature,
        "use_cpu": on_cpu(),
        "disable_tqdm": True,
        "max_steps": 1,
    }
    try:
        config = GRPOConfig(**role.grpo, **owned)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}.grpo: {error}") from None
    local = config.per_device_train_batch_size * config.steps_per_generation
    if local % config.num_generations:
        raise UserError(
            f"{name}.grpo: per_device_train_batch_size x steps_per_generation = {local} splits "
            f"a group of num_generations = {config.num_generations} over processes: make it a "
            "multiple"
        )
    prompts_per_block(name, config, role.steps_per_round)
    return config
