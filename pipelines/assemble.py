"""Builds what a run is made of: models, tokenizer, engines, syncs and the two roles."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from trl import GRPOConfig

import model  # noqa: F401  registers our classes
from data.records import Task
from pipelines.fp8_rollouts import check_fp8, fp8_checkpoint, train_in_fp8
from pipelines.games import Judging, Prompt
from pipelines.manifest import checkpoint_manifest
from pipelines.roles import Policy, RoleTrainer, prompts_per_block
from pipelines.rollout import SyncedEngine, VllmEngine, require_vllm
from pipelines.server_engine import ServerEngine, open_engine
from pipelines.settings import GRPO_OWNED, RoleTable, Settings, check_library_table
from pipelines.sync import WeightSync, check_lora, unwrapped_name
from pipelines.transformers_engine import TransformersEngine
from rewards.dialect import Solution

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


def on_cpu() -> bool:
    """Whether this machine has no accelerator."""
    return not torch.accelerator.is_available()


def check_launch(settings: Settings) -> None:
    """Refuse a launch that did not start what the configuration says.

    Raises:
        ValueError: WORLD_SIZE, Accelerate's world and `run.num_processes` differ.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    wanted = settings.run.num_processes
    if launched != wanted:
        raise ValueError(
            f"run.num_processes = {wanted} but the launcher started {launched}: on CPU use "
            "`accelerate launch "
            f"--multi_gpu --num_processes {wanted}` (plain --cpu starts one process), or set "
            f"run.num_processes={launched}"
        )


def check_settings(settings: Settings) -> None:
    """Everything about the configuration that can be refused before a model is loaded.

    Raises:
        ValueError: what to change.
    """
    for name, role in (("learner", settings.learner), ("critic", settings.critic)):
        check_library_table(f"{name}.grpo", role.grpo, GRPOConfig, GRPO_OWNED)
        check_library_table(f"{name}.lora", role.lora, LoraConfig, frozenset())
    if settings.rollout.engine == "vllm":
        require_vllm()
    for name, role in (("learner", settings.learner), ("critic", settings.critic)):
        check_checkpoint(f"{name}.model", role_path(settings, role))
        if settings.rollout.precision == "fp8":
            check_fp8(name, role_path(settings, role), role)


def role_path(settings: Settings, role: RoleTable) -> str:
    """Where a role starts: its own checkpoint, or the cold start."""
    if role.model:
        return local_folder(role.model)
    assert settings.sft is not None, "Settings refuses this"
    return str(settings.sft.directory)


def local_folder(path: str) -> str:
    """A checkpoint's folder; a hub id (`owner/name`, no such folder) is downloaded first.

    Raises:
        ValueError: neither a folder nor a model that the hub gives us.
    """
    if Path(path).exists() or path.count("/") != 1 or path.startswith(("runs/", ".", "~")):
        return path
    try:
        return snapshot_download(
            path, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model"]
        )
    except (OSError, ValueError) as error:  # offline, unknown, gated: huggingface_hub's own words
        raise ValueError(
            f"{path} is no folder, and the hub does not give it: {_first_line(error)}"
        ) from None


def check_checkpoint(dotted: str, path: str) -> None:
    """Refuse a directory that holds no causal language model.

    Raises:
        ValueError: what is missing.
    """
    folder = Path(path)
    if not folder.exists():
        raise ValueError(
            f"{dotted}: {path} does not exist: run pipelines/sft.py first, or name a checkpoint "
            "directory"
        )
    for needed in ("config.json", "tokenizer_config.json"):
        if not (folder / needed).exists():
            raise ValueError(
                f"{dotted}: {path} has no {needed}: it is not a saved model with its tokenizer"
            )
    kinds = set(_architectures(folder / "config.json"))
    if kinds and not kinds & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        raise ValueError(
            f"{dotted}: {path} holds {', '.join(sorted(kinds))}, which is no causal language model"
        )
    checkpoint_manifest(folder)


def _architectures(config: Path) -> list[str]:
    try:
        table = json.loads(config.read_text())
        return list(table.get("architectures") or [])
    except (ValueError, AttributeError):
        raise ValueError(f"{config} is no JSON table: save the checkpoint again") from None


def build_roles(
    settings: Settings, on_step: OnStep, held_out: Sequence[Task], judging: Judging
) -> Roles:
    """Load both policies, start their engines, and prove that the tokenizers agree.

    Args:
        held_out: evaluation tasks; their prompts must fit, and the sync is checked on the first.

    Raises:
        ValueError: a checkpoint, a vocabulary, a batch or the context does not fit; what to change.
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
        raise ValueError(
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


def check_vocabulary(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, a: str, b: str
) -> None:
    """Refuse a learner (at `a`) and a critic (at `b`) that do not share every token.

    Raises:
        ValueError: the vocabularies differ.
    """
    if ours.get_vocab() != theirs.get_vocab():
        raise ValueError(
            f"learner ({a}) and critic ({b}) have different vocabularies ({len(ours)} and "
            f"{len(theirs)} tokens): "
            "start both from models with one tokenizer"
        )


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a checkpoint.

    Raises:
        ValueError: it cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot load a tokenizer from {path}: {_first_line(error)}") from error


def check_context(
    settings: Settings, tokenizer: PreTrainedTokenizerBase, judging: Judging, tasks: Sequence[Task]
) -> None:
    """Refuse a context that cannot hold the tasks' prompts and what is sampled after them.

    Raises:
        ValueError: names the role, the numbers and the setting to raise.
    """
    unsolved = Solution("", (), None, None)
    learner, critic = settings.learner, settings.critic
    needed = {
        "learner": max(_num_tokens(tokenizer, judging.problem(task)) for task in tasks),
        "critic": learner.max_completion_length
        + max(_num_tokens(tokenizer, judging.critique_prompt(task, unsolved)) for task in tasks),
    }
    for name, role in (("learner", learner), ("critic", critic)):
        whole = needed[name] + role.max_completion_length
        if whole > settings.rollout.max_model_len:
            raise ValueError(
                f"rollout.max_model_len = {settings.rollout.max_model_len} is too small: the "
                f"{name}'s prompts have up to {needed[name]} tokens and its completions "
                f"{role.max_completion_length}: raise it to at least {whole}, or lower "
                "*.max_completion_length"
            )


def _num_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> int:
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return len(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def _probe_ids(tokenizer: PreTrainedTokenizerBase, judging: Judging, task: Task) -> list[int]:
    text = (
        judging.dialect.render_problem(task)
        + f"{task.reference}\n"
        + judging.dialect.render_problem(task)
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[: judging.settings.rollout.max_model_len - 1]


def load_policy(path: str, role: RoleTable) -> Policy:
    """A role's model, with a fresh LoRA adapter where the configuration has one.

    Raises:
        ValueError: the checkpoint cannot be loaded.
    """
    try:
        policy, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, role.dtype), output_loading_info=True
        )
    except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"cannot load a causal language model from {path}: {_first_line(error)}"
        ) from error
    if info["missing_keys"]:
        raise ValueError(
            f"{path} lacks {len(info['missing_keys'])} of the model's tensors, such as "
            f"{min(info['missing_keys'])}: it is not a checkpoint of its own config.json"
        )
    if not role.lora:
        return policy
    adapted = get_peft_model(policy, LoraConfig(task_type="CAUSAL_LM", **role.lora))
    check_lora(adapted)
    return adapted


def share_base(ours: PeftModel, theirs: PeftModel) -> None:
    """Let two adapted policies of one checkpoint hold its weights once, in the first one's memory.

    No adapter writes into them: they are frozen, and the sync merges into temporaries.
    """
    base = {unwrapped_name(n): t for n, t in ours.get_base_model().state_dict().items()}
    for name, tensor in theirs.get_base_model().state_dict(keep_vars=True).items():
        if ".lora_" not in name:
            assert not tensor.requires_grad, f"{name} is trained: it cannot be shared"
            tensor.data = base[unwrapped_name(name)]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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
        raise ValueError(f"{name}.grpo: {error}") from None
    local = config.per_device_train_batch_size * config.steps_per_generation
    if local % config.num_generations:
        raise ValueError(
            f"{name}.grpo: per_device_train_batch_size x steps_per_generation = {local} splits "
            f"a group of num_generations = {config.num_generations} over processes: make it a "
            "multiple"
        )
    prompts_per_block(name, config, role.steps_per_round)
    return config
