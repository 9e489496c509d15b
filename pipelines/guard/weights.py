"""A foreign run's checkpoints: the last clean one, and its weights back in the model.

Leaves out writing them, which the trainer does.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from transformers import PreTrainedModel


def saved_steps(output: Path, last: int) -> list[int]:
    """The steps, up to one, whose checkpoints stand in a trainer's output directory."""
    names = [folder.name.removeprefix("checkpoint-") for folder in output.glob("checkpoint-*")]
    return sorted(int(name) for name in names if name.isdigit() and int(name) <= last)


def clean_checkpoint(output: Path, saved: Iterable[int], step: int | None) -> Path | None:
    """The newest checkpoint of a run that is not younger than a step.

    Args:
        output: the trainer's output directory.
        saved: the steps at which this run saved one.
        step: of the last clean check; None where there was none.
    """
    if step is None:
        return None
    folders = [output / f"checkpoint-{one}" for one in sorted(saved) if one <= step]
    return next((folder for folder in reversed(folders) if folder.is_dir()), None)


@torch.no_grad()
def put_back(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Give a model the weights, or the adapter, of a checkpoint that the trainer saved."""
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_peft_weights(str(folder)))
        return
    saved = type(model).from_pretrained(folder, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
