"""LoRA adapters on disk: saved beside each checkpoint, and gone on from.

    learner_adapter/  adapter_config.json, adapter_model.safetensors (peft's own), adapter_base.json

`adapter_base.json` is ours: which weights the adapter was trained on, so that it cannot be put on
others of the same shape. Adapters of other programs lack it; their base is told by its name. Leaves
out the merged checkpoint (`policy/checkpoint.py`) and what is refused before torch is imported
(`policy/folder.py`).
"""

import json
import warnings
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers import PreTrainedModel

from data.atomic import write_text_atomic
from data.json_table import read_table
from pipelines.errors import UserError, as_user_error
from pipelines.policy.fingerprint import fingerprint, fingerprints_hash
from pipelines.policy.folder import ADAPTER_BASE, is_same_model, named_base
from pipelines.policy.tensors import unwrapped_name

HASH = "weights_hash_bfloat16"


def export_adapter(policy: PeftModel, folder: Path) -> None:
    """Save an adapter in peft's form, with the hash of its base."""
    policy.save_pretrained(folder, save_embedding_layers=False)
    found = {"base": named_base(folder), HASH: base_hash(policy)}
    write_text_atomic(folder / ADAPTER_BASE, json.dumps(found, indent=2))


def base_hash(policy: PreTrainedModel | PeftModel) -> str:
    """One hash over the parameters without any adapter, hex.

    Of their bfloat16 casts: a base held in bfloat16 and in float32 is the same one.
    """
    base = policy.get_base_model() if isinstance(policy, PeftModel) else policy
    found = {
        unwrapped_name(name): fingerprint(parameter.to(torch.bfloat16))
        for name, parameter in base.named_parameters()
        if ".lora_" not in name
    }
    return fingerprints_hash(dict(sorted(found.items())))


def load_adapter(base: PreTrainedModel, path: str, dotted: str, base_path: str) -> PeftModel:
    """A model with a saved adapter, which may be trained on.

    Args:
        base: what the adapter is put on.
        path: the adapter's folder.
        dotted: who asks for it, such as "learner.adapter".
        base_path: where the base is from.

    Raises:
        UserError: the adapter was trained on another model, or it does not fit this one.
    """
    folder = Path(path)
    _check_base(base, folder, dotted, base_path)
    loading = (ValueError, TypeError, KeyError, RuntimeError, ImportError, OSError)
    with as_user_error(f"{dotted}: cannot load the adapter {path}", *loading):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that do not fit, which are counted below
            adapted = PeftModel.from_pretrained(base, folder, is_trainable=True)
        saved = load_peft_weights(str(folder), device="cpu")
    own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if strange := sorted(saved.keys() ^ own.keys()):
        raise UserError(
            f"{dotted}: {path} does not fit {base_path}: {len(strange)} of its tensors are on one "
            f"side alone, such as {strange[0]}: name the model that it was trained on"
        )
    return adapted


def _check_base(base: PreTrainedModel, folder: Path, dotted: str, base_path: str) -> None:
    file, named = folder / ADAPTER_BASE, named_base(folder)
    if file.exists():
        if read_table(file).get(HASH) != base_hash(base):
            raise UserError(
                f"{dotted}: {folder} was trained on other weights than those of {base_path}: its "
                f"base was {named}, as it stood then; name that"
            )
    elif not is_same_model(named, base_path):
        raise UserError(
            f"{dotted}: {folder} was trained on {named}, which is not {base_path}: name that, or, "
            "if it is the same model in another place, mend base_model_name_or_path in "
            f"{folder / 'adapter_config.json'}"
        )
