"""Builds the two roles of a run: models, tokenizer, engines, syncs, samplers and trainers.

Leaves out what is refused before that (`run/checks.py`) and the run's other parts
(`run/session.py`).
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

import model  # noqa: F401  registers our classes
from data.records import Task
from pipelines.errors import UserError
from pipelines.game.referee import Referee
from pipelines.policy.chat import declare_ends
from pipelines.policy.checkpoint import (
    check_tokenizer,
    check_vocabulary,
    load_policy,
    load_tokenizer,
    share_base,
    trained_tensors,
)
from pipelines.policy.folder import local_folder, role_name, role_path
from pipelines.policy.fp8 import fp8_checkpoint, train_in_fp8
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.moe import Policy
from pipelines.process import on_cpu
from pipelines.rollouts.engine import Engine, SyncedEngine
from pipelines.rollouts.sample import Weights
from pipelines.rollouts.sampler import Sampler
from pipelines.rollouts.servers.engine import ServerEngine
from pipelines.rollouts.servers.start import open_engine
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.transformers_engine import TransformersEngine
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.run.tasks import RunTasks
from pipelines.run.trainer_options import trainer_options
from pipelines.settings.role_table import CriticTable, RoleTable
from pipelines.settings.tables import Settings
from pipelines.sync.push import WeightSync
from pipelines.training.trainer import OnStep, RoleSpec, RoleTrainer

NUM_SEQUENCES = 8  # on which the sync compares engine and policy
LONG_COMPLETION = 1024  # tokens, beyond which importance ratios are taken per token


@dataclass(frozen=True)
class Roles:
    """The two policies of a run, and the weights of a critic that only audits."""

    learner: RoleTrainer
    critic: RoleTrainer
    auditor: Weights | None = None

    def named(self) -> dict[str, RoleTrainer]:
        """Both, by name."""
        return {"learner": self.learner, "critic": self.critic}

    def close(self) -> None:
        """End the rollout servers, where there are any."""
        for role in self.named().values():
            role.sampler.engine.close()


def build_roles(settings: Settings, on_step: OnStep, tasks: RunTasks) -> Roles:
    """Load both policies and start their engines.

    Args:
        settings: the run's.
        on_step: receives one metrics row per optimizer step.
        tasks: the run's; the sync is checked on the first that are held out.

    Raises:
        UserError: a checkpoint or a batch does not fit; what to change.
    """
    tables = {"learner": settings.learner, "critic": settings.critic}
    paths = {name: role_path(settings, table) for name, table in tables.items()}
    tokenizer, referee = tasks.context.tokenizer, tasks.context.referee
    held_out = tasks.held_out.all()
    specs = {name: _spec(name, settings, table) for name, table in tables.items()}
    sequences = [_agreement_ids(tokenizer, referee, task) for task in held_out[:NUM_SEQUENCES]]
    starts = {name: _start(name, settings, path) for name, path in paths.items()}
    policies = {name: load_policy(starts[name], table, name) for name, table in tables.items()}
    for name, policy in policies.items():
        check_tokenizer(policy, tokenizer, paths[name])
    ends = {name: declare_ends(policy, tokenizer) for name, policy in policies.items()}
    engines = {
        name: _engine(name, settings, table, starts[name], ends[name])
        for name, table in tables.items()
    }
    built = {}
    for name, table in tables.items():
        policy, start = policies[name], Path(starts[name])
        if settings.rollout.precision == "fp8":
            train_in_fp8(policy)
        sampler = _sampler(
            name, settings, table, policy, start, engines[name], tokenizer, sequences
        )
        built[name] = RoleTrainer(specs[name], policy, sampler, on_step)
    roles = Roles(**built, auditor=_auditor(settings, tokenizer, built["critic"]))
    if _share_a_base(settings, paths):
        share_base(roles.learner.policy, roles.critic.policy)
    _check_world(roles.learner.accelerator.num_processes, settings.run.num_processes)
    return roles


def _auditor(
    settings: Settings, tokenizer: PreTrainedTokenizerBase, critic: RoleTrainer
) -> Weights | None:
    """The weights of the critic that only audits: the critic's engine serves them.

    Raises:
        UserError: it has another vocabulary or another shape than the critic.
    """
    path = local_folder(settings.critic.auditor)
    if not path:
        return None
    check_vocabulary(tokenizer, load_tokenizer(path), role_path(settings, settings.critic), path)
    weights, own = trained_tensors(load_policy(path, settings.critic)), critic.weights_copy()
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in own.items()}:
        raise UserError(
            f"critic.auditor = {path} is a model of another shape than the critic's, whose engine "
            "is to serve it: name a checkpoint of the same model"
        )
    return weights


def _share_a_base(settings: Settings, paths: Mapping[str, str]) -> bool:
    """Whether both roles are adapters on one checkpoint."""
    learner, critic = settings.learner, settings.critic
    one_checkpoint = paths["learner"] == paths["critic"] and learner.dtype == critic.dtype
    return learner.adapts and critic.adapts and one_checkpoint


def _check_world(started: int, wanted: int) -> None:
    if started != wanted:
        raise UserError(
            f"Accelerate's world is {started} process(es), run.num_processes is {wanted}: launch "
            "with `accelerate launch --multi_gpu --num_processes N`"
        )


def _start(name: str, settings: Settings, path: str) -> str:
    """The checkpoint that a role's policy and engine start from."""
    if settings.rollout.precision == "policy":
        return path
    return fp8_checkpoint(path, settings.run.directory / "fp8" / name)


def _agreement_ids(tokenizer: PreTrainedTokenizerBase, referee: Referee, task: Task) -> list[int]:
    """A sequence on which engine and policy must agree."""
    problem = referee.dialect.render_problem(task)
    text = f"{problem}{task.reference}\n{problem}"
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[: referee.settings.rollout.max_model_len - 1]


def _engine(
    name: str, settings: Settings, role: RoleTable, path: str, ends: tuple[int, ...]
) -> SyncedEngine | None:
    """The engine that the role's weights are sent to; None where its policy generates itself.

    Servers of both roles start side by side; `_sampler` waits for its own.
    """
    if settings.rollout.engine != "vllm":
        return None
    spec = EngineSpec(Path(path), settings.rollout, role.served_dtype, ends)
    if settings.rollout.placement == "colocated":
        return VllmEngine(spec)
    rank, world_size = int(os.environ.get("RANK", "0")), settings.run.num_processes
    return open_engine(name, spec, rank, world_size)


def _sampler(
    name: str,
    settings: Settings,
    role: RoleTable,
    policy: Policy,
    start: Path,
    synced: SyncedEngine | None,
    tokenizer: PreTrainedTokenizerBase,
    sequences: list[list[int]],
) -> Sampler:
    """A role's sampler: its engine, and the sync that keeps it at the policy's weights."""
    table, sync = settings.rollout, None
    engine: Engine
    if synced is None:
        ids = (declare_ends(policy, tokenizer), tokenizer.pad_token_id)
        engine = TransformersEngine(policy, *ids, table.max_model_len, table.max_num_seqs)
    else:
        engine, manifest = synced, checkpoint_manifest(start)
        if isinstance(synced, ServerEngine):
            synced.await_ready(manifest)
        synced.score(sequences[:1])  # an engine's first pass generates code: no part of any sync
        often = (table.probe_every, table.probe_threshold)
        dtype, fp8 = getattr(torch, role.served_dtype), table.precision == "fp8"
        sync = WeightSync(synced, manifest, sequences, *often, fp8, dtype)
    limits = (role.max_completion_length, role.temperature)
    return Sampler(
        name, engine, tokenizer, settings.run.seed, *limits, policy, sync,
        chat_template_kwargs=role.chat_template_kwargs, called=role_name(settings, name, role),
    )  # fmt: skip


def _spec(name: str, settings: Settings, role: RoleTable) -> RoleSpec:
    """What a role is; its batches must hold whole groups, its blocks whole batches."""
    supervised, key = settings.feedback.steps, "feedback.steps"
    proposed = settings.proposer.steps
    if isinstance(role, CriticTable):
        supervised, proposed, key = role.imitation_steps, 0, "critic.imitation_steps"
    spec = RoleSpec(
        name=name,
        grpo=_grpo_config(name, settings, role),
        run_steps=settings.run.rounds * (role.steps_per_round + supervised + proposed),
        router_bias_rate=role.router_bias_rate,
        routing_replay=settings.rollout.routing_replay,
        draw_ahead=settings.rollout.max_staleness > 0,
        flaw_penalty=settings.pointing.flaw_penalty,
    )
    spec.prompts_per_block(role.steps_per_round)
    spec.prompts_per_block(supervised, key)
    spec.prompts_per_block(proposed, "proposer.steps")
    return spec


def _grpo_config(name: str, settings: Settings, role: RoleTable) -> GRPOConfig:
    """TRL's config of a role, whose batches must hold whole groups."""
    owned = {
        "output_dir": tempfile.gettempdir(),  # nothing is written: `run/checkpoints.py` saves
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
    # A proper reward stays proper only while no group's standard deviation divides it.
    proper = {"scale_rewards": "none"} if isinstance(role, CriticTable) else {}
    # A completion's ratio is a product over its tokens, and of a long one hardly ever near 1.
    long = role.max_completion_length > LONG_COMPLETION
    ratios = {"vllm_importance_sampling_mode": "token_truncate"} if long else {}
    table = proper | ratios | role.grpo | role.autocast
    config = trainer_options(f"{name}.grpo", GRPOConfig, table, owned)
    local = config.per_device_train_batch_size * config.steps_per_generation
    if local % config.num_generations:
        raise UserError(
            f"{name}.grpo: per_device_train_batch_size x steps_per_generation = {local} splits "
            f"a group of num_generations = {config.num_generations} over processes: make it a "
            "multiple"
        )
    return config
