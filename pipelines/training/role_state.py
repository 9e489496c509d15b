"""What a round boundary keeps of a role, and how a later process goes on from it.

Leaves out the files (`policy/checkpoint.py`, `run/checkpoints.py`).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from pipelines.policy.checkpoint import put_tensors

if TYPE_CHECKING:
    from pipelines.training.trainer import RoleTrainer


def role_state(role: "RoleTrainer") -> dict[str, object]:
    """Everything beside the weights."""
    trained = role.optimizer is not None
    return {
        "global_step": role.state.global_step,
        "num_input_tokens_seen": role.state.num_input_tokens_seen,
        "weights_version": role.sampler.version,
        "temperature": role.temperature,
        "optimizer": role.optimizer.state_dict() if trained else None,
        "scheduler": role.lr_scheduler.state_dict() if trained else None,
    }


def restore_role(
    role: "RoleTrainer", state: dict[str, object], tensors: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Put the weights back now, and the optimizer when the next block prepares it."""
    put_tensors(role.policy, tensors)
    role.state.global_step = state["global_step"]
    role.state.num_input_tokens_seen = state["num_input_tokens_seen"]
    if state["temperature"] != role.temperature:
        role.set_temperature(state["temperature"])
    role.sampler.restore(state["weights_version"])
    if state["optimizer"] is not None:
        role.pending_state = {"optimizer": state["optimizer"], "scheduler": state["scheduler"]}
