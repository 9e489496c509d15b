"""Samplers straight from saved checkpoints: no trainer, no sync, the engine loads the weights.

Finds out what the FROM of `sparring-data generate` and `sparring-evaluate` means (a run, one of its
rounds, a checkpoint, a hub id), loads learner and critic, and fingerprints their weights as the
trainer does. Leaves out what is sampled and kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.json_table import read_table
from pipelines.errors import UserError
from pipelines.policy.adapter import load_adapter
from pipelines.policy.chat import declare_ends
from pipelines.policy.checkpoint import (
    check_checkpoint,
    check_tokenizer,
    check_vocabulary,
    load_model,
    load_tokenizer,
)
from pipelines.policy.fingerprint import WeightsId
from pipelines.policy.folder import (
    ModelName,
    checkpoint_name,
    local_folder,
    named_base,
    role_path,
)
from pipelines.policy.tensors import weights_hash
from pipelines.process import on_cpu
from pipelines.rollouts.engine import Engine
from pipelines.rollouts.sampler import Sampler
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.transformers_engine import TransformersEngine
from pipelines.rollouts.vllm_engine import VllmEngine, require_vllm
from pipelines.run.checkpoints import Checkpoints
from pipelines.run.named import folder_of, is_adapter, run_of, settings_of, settings_of_server
from pipelines.settings.role_table import RoleTable
from pipelines.settings.rollout_table import RolloutTable
from pipelines.settings.tables import Settings


@dataclass(frozen=True)
class Origin:
    """What samples and judges.

    Attributes:
        learner: checkpoint directory or hub id.
        critic: the same, or None for no critiques.
    """

    settings: Settings
    learner: str
    critic: str | None


@dataclass(frozen=True)
class Served:
    """A checkpoint that is ready to be sampled from; its engine names its weights."""

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    called: ModelName


def find_origin(
    source: Path,
    config: Path | None,
    overrides: Sequence[str],
    critic: Path | None,
    criticise: bool,
) -> Origin:
    """Read what FROM stands for, and refuse what cannot be sampled before anything is loaded.

    Args:
        source: a run directory, one of its rounds (`RUN/checkpoints/round_00003`, `RUN/best`), a
            checkpoint directory, or a hub id.
        config: the TOML configuration that a checkpoint needs; a run has its own.
        critic: judge with this checkpoint instead.
        criticise: False leaves out the critic.

    Raises:
        UserError: what is wrong with which of them.
    """
    source = folder_of(source)
    run = run_of(source)
    if run is None and not is_adapter(source):
        check_checkpoint("FROM", str(source))
    settings = settings_of(source, config, overrides)
    if run is None:
        learner = own_critic = str(source)
    elif run == source:
        learner, own_critic = _run_checkpoints(source, settings)
    else:
        learner, own_critic = str(source / "learner"), str(source / "critic")
    chosen = local_folder(str(critic)) if critic is not None else own_critic
    origin = Origin(settings, learner, chosen if criticise else None)
    if settings.rollout.engine == "vllm":
        require_vllm()
    for name, path in (("learner", origin.learner), ("critic", origin.critic)):
        if path is not None and not is_adapter(Path(path)):
            check_checkpoint(name, path)
    return origin


def served_origin(
    model: str, config: Path | None, overrides: Sequence[str], criticise: bool
) -> Origin:
    """What servers sample with: of the model only its name is known.

    Raises:
        UserError: there is no configuration, or it is faulty.
    """
    settings = settings_of_server(config, overrides)
    return Origin(settings, model, model if criticise else None)


def load_samplers(origin: Origin, seed: int, scratch: Path) -> tuple[Sampler, Sampler | None]:
    """Load learner and critic; one engine serves both where they are one checkpoint.

    Args:
        scratch: an empty folder that outlives the samplers.

    Raises:
        UserError: a checkpoint cannot be loaded, or the vocabularies differ.
    """
    settings = origin.settings
    if origin.critic is not None:
        check_vocabulary(
            load_tokenizer(origin.learner),
            load_tokenizer(origin.critic),
            origin.learner,
            origin.critic,
        )
    served = _serve(origin.learner, settings.learner, settings.rollout, scratch / "learner")
    learner = _sampler("learner", served, settings.learner, seed)
    if origin.critic is None:
        return learner, None
    types = settings.critic.served_dtype, settings.learner.served_dtype
    if origin.critic != origin.learner or types[0] != types[1]:
        served = _serve(origin.critic, settings.critic, settings.rollout, scratch / "critic")
    return learner, _sampler("critic", served, settings.critic, seed)


def _sampler(name: str, served: Served, role: RoleTable, seed: int) -> Sampler:
    limits = (role.max_completion_length, role.temperature)
    template = role.chat_template_kwargs
    return Sampler(
        name, served.engine, served.tokenizer, seed, *limits, chat_template_kwargs=template,
        called=served.called,
    )  # fmt: skip


def _run_checkpoints(source: Path, settings: Settings) -> tuple[str, str]:
    """Learner and critic of a run: those its halt selected, else those of its last round."""
    status_file = source / "status.json"
    status = read_table(status_file) if status_file.exists() else {}
    cold = role_path(settings, settings.learner), role_path(settings, settings.critic)
    if status.get("state") == "halted":
        selected = Path(str(status.get("selected_checkpoint"))).name
        if not selected.startswith("round_"):
            return cold
        folder = source / "checkpoints" / selected  # where it lies now, if the run was moved
    else:
        checkpoints = Checkpoints(source / "checkpoints", PartialState(cpu=on_cpu()))
        last = checkpoints.last_round()
        if last is None:
            raise UserError(
                f"{source} has not finished a round yet, so it holds no checkpoint: wait, or give "
                f"its cold start {cold[0]} with --config"
            )
        folder = checkpoints.folder(last)
    return str(folder / "learner"), str(folder / "critic")


def _serve(path: str, role: RoleTable, rollout: RolloutTable, scratch: Path) -> Served:
    tokenizer, dtype, called = load_tokenizer(path), role.served_dtype, checkpoint_name(path)
    if is_adapter(Path(path)):
        policy, weights = _merge_adapter(Path(path), scratch, tokenizer)
        path, dtype = str(scratch), "float32"
    else:
        policy = load_model(path, dtype)
        weights = weights_hash(policy)
    check_tokenizer(policy, tokenizer, path)
    ends = declare_ends(policy, tokenizer)
    if rollout.engine == "vllm":
        del policy  # the engine loads its own copy
        spec = EngineSpec(Path(path), rollout, dtype, ends)
        engine: Engine = VllmEngine(spec)
    else:
        engine = TransformersEngine(
            policy,
            ends,
            tokenizer.pad_token_id,
            rollout.max_model_len,
            rollout.max_num_seqs,
        )
    engine.weights = WeightsId(0, weights)  # as loaded, and it stays
    return Served(engine, tokenizer, called)


def _merge_adapter(
    path: Path, scratch: Path, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, str]:
    """Save a LoRA checkpoint as a plain one in float32, which any engine can load."""
    base_path = named_base(path)
    base = load_model(local_folder(base_path), "float32")
    adapted = load_adapter(base, str(path), "adapter", base_path)
    weights = weights_hash(adapted)
    with torch.no_grad():
        merged = adapted.merge_and_unload()
    merged.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    return merged, weights
