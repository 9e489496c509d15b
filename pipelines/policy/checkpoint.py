"""A policy on disk: found, checked, loaded, exported.

Leaves out the names of its tensors (`policy/tensors.py`) and the checkpoints of a run, with their
optimizers (`run/checkpoints.py`).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import model  # noqa: F401  registers our classes
from data.atomic import write_bytes_atomic
from data.json_table import read_table
from pipelines.errors import UserError, as_user_error
from pipelines.policy.adapter import load_adapter
from pipelines.policy.folder import check_folder, is_hub_id
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.moe import Policy, moe_of
from pipelines.policy.tensors import check_lora, policy_tensors, unwrapped_name
from pipelines.settings.role_table import RoleTable

# How transformers refuses a checkpoint, its config or its tokenizer.
LOADING = (OSError, RuntimeError, KeyError, ValueError, ImportError, SafetensorError)


def export_policy(policy: Policy, folder: Path) -> None:
    """Save a policy as a plain checkpoint, LoRA merged, under the names that the sync sends.

    Merged weights are saved in float32, and said to be: rounded to the type of a bfloat16 base they
    would hardly differ from it.
    """
    if isinstance(policy, PeftModel):
        merged = {name: tensor.float() for name, tensor in policy_tensors(policy)}
        base = policy.get_base_model()
        # Ours takes either names; transformers' would give those on disk once more.
        named = {} if moe_of(base) else {"save_original_format": False}
        base.save_pretrained(folder, state_dict=merged, **named)
        config = read_table(folder / "config.json") | {"dtype": "float32"}
        write_bytes_atomic(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")
    else:
        policy.save_pretrained(folder)


def trained_tensors(policy: Policy) -> dict[str, torch.Tensor]:
    """Copies of what training changes: trainable parameters, and every persistent buffer."""
    parameters = dict(policy.named_parameters(remove_duplicate=False))  # tied names too
    trainable = {name for name, p in parameters.items() if p.requires_grad}
    frozen = parameters.keys() - trainable
    return {
        n: t.detach().clone()
        for n, t in policy.state_dict().items()
        if n in trainable or n not in frozen
    }


def put_tensors(policy: Policy, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Give a policy what `trained_tensors` took of it, or of one like it."""
    own = policy.state_dict()
    for name, tensor in tensors:
        own[name].copy_(tensor)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors by name, whole or not at all; `read_tensors` reads them."""
    write_bytes_atomic(path, save({name: one.contiguous() for name, one in tensors.items()}))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """What `save_tensors` wrote."""
    return load(path.read_bytes())


def same_tensors(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of weights agree in every name and bit."""
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name].to(tensor.device)) for name, tensor in one.items()
    )


def check_checkpoint(dotted: str, path: str) -> None:
    """Refuse a directory that holds no causal language model.

    Raises:
        UserError: what is missing.
    """
    folder = check_folder(dotted, path)
    kinds = set(_architectures(folder / "config.json"))
    if kinds and not kinds & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        raise UserError(
            f"{dotted}: {path} holds {', '.join(sorted(kinds))}, which is not a causal language "
            "model"
        )
    checkpoint_manifest(folder)


def _architectures(config: Path) -> list[str]:
    named = read_table(config).get("architectures") or []
    return [str(name) for name in named] if isinstance(named, list) else []


def check_vocabulary(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, a: str, b: str
) -> None:
    """Refuse a learner (at `a`) and a critic (at `b`) that do not share every token.

    Raises:
        UserError: the vocabularies differ.
    """
    if ours.get_vocab() != theirs.get_vocab():
        raise UserError(
            f"learner ({a}) and critic ({b}) have different vocabularies ({len(ours)} and "
            f"{len(theirs)} tokens): start both from models with one tokenizer"
        )


def check_tokenizer(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Refuse a tokenizer that does not belong to its model, or that cannot end a reply.

    Raises:
        UserError: the model has fewer embeddings than the tokenizer tokens, or there is no end.
    """
    num_embeddings = policy.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise UserError(
            f"{path}: its tokenizer has {len(tokenizer)} tokens, its model {num_embeddings}: "
            "they do not belong together"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{path}: its tokenizer has no end token, so that no reply would end: name one as "
            "eos_token in its tokenizer_config.json"
        )


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a checkpoint.

    Raises:
        UserError: it cannot be loaded.
    """
    with as_user_error(f"cannot load a tokenizer from {path}", *LOADING):
        tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None:  # what is padded is masked, so that any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(path: str, role: RoleTable, name: str = "learner") -> Policy:
    """A role's model, with a LoRA adapter where the configuration has one: fresh, or a saved one.

    What is trained is in float32: in bfloat16 a step smaller than 1/256 of a weight, which is
    nearly every step at the usual rates, would round back to the weight.

    Raises:
        UserError: the checkpoint cannot be loaded.
    """
    policy = load_model(path, role.held_dtype)
    if not role.adapts:
        return policy
    if role.adapter:
        adapted = load_adapter(policy, role.adapter, f"{name}.adapter", role.model or path)
    else:
        with as_user_error(f"lora, on {path}", ValueError, TypeError, ImportError, KeyError):
            adapted = get_peft_model(policy, LoraConfig(task_type="CAUSAL_LM", **role.lora))
    check_lora(adapted)
    # A hub's name stays; a folder is named as it is found from anywhere on this machine.
    base = role.model if is_hub_id(role.model) else str(Path(path).absolute())
    adapted.peft_config[adapted.active_adapter].base_model_name_or_path = base
    return adapted


def load_model(path: str, dtype: str) -> PreTrainedModel:
    """A whole causal language model, its weights in a type such as "float32".

    Raises:
        UserError: the checkpoint cannot be loaded.
    """
    with as_user_error(f"cannot load a causal language model from {path}", *LOADING):
        policy, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), output_loading_info=True
        )
    if info["missing_keys"]:
        raise UserError(
            f"{path} lacks {len(info['missing_keys'])} of the model's tensors, such as "
            f"{min(info['missing_keys'])}: it is not a checkpoint of its own config.json"
        )
    _check_tied(policy, path)
    return policy


def _check_tied(policy: PreTrainedModel, path: str) -> None:
    """Refuse a head of its own in a checkpoint whose config ties it: engines would not read it.

    Raises:
        UserError: how to say which is meant.
    """
    tied = policy.config.get_text_config().tie_word_embeddings
    head, embeddings = policy.get_output_embeddings(), policy.get_input_embeddings()
    if tied and head is not None and head.weight is not embeddings.weight:
        raise UserError(
            f"{path} holds a head that is not its embeddings, though its config.json ties them: "
            "set tie_word_embeddings to false there, or remove the head's tensor"
        )


def share_base(ours: PeftModel, theirs: PeftModel) -> None:
    """Let two adapted policies of one checkpoint hold its weights once, in the first one's memory.

    No adapter writes into them: they are frozen, and the sync merges into temporaries.
    """
    base = {unwrapped_name(n): t for n, t in ours.get_base_model().state_dict().items()}
    for name, tensor in theirs.get_base_model().state_dict(keep_vars=True).items():
        if ".lora_" not in name:
            assert not tensor.requires_grad, f"{name} is trained: it cannot be shared"
            tensor.data = base[unwrapped_name(name)]
