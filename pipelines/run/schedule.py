"""A resumed role's learning rate, where the settings of its schedule have changed.

A checkpoint holds the rate that its own schedule gave. After a change of `run.rounds` or of the
learning rate the next step takes what the present schedule says at that step. Where nothing has
changed, neither does a bit. Leaves out the optimizer's other state (`training/role_state.py`).
"""

import copy

import torch
from transformers import get_scheduler

from pipelines.training.role_spec import RoleSpec


def moved(state: dict[str, object], spec: RoleSpec) -> tuple[dict[str, object], str]:
    """A role's saved state with the rate of the present schedule, and what changed in words.

    Args:
        state: of `training/role_state.py`.
        spec: the role's, whose options and number of steps make the schedule.

    Returns:
        The state itself and "" where nothing changed, where the role has not trained, or where the
        schedule is none of TRL's that depend on the step alone.
    """
    scheduler, optimizer, options = state["scheduler"], state["optimizer"], spec.grpo
    if not isinstance(scheduler, dict) or not isinstance(optimizer, dict):
        return state, ""
    step, bases = scheduler["last_epoch"], scheduler.get("base_lrs", [])
    if len(set(bases)) != 1 or "lr_lambdas" not in scheduler:
        return state, ""
    schedule = get_scheduler(
        options.lr_scheduler_type,
        torch.optim.SGD([torch.zeros(1)], lr=options.learning_rate),
        num_warmup_steps=options.get_warmup_steps(spec.run_steps),
        num_training_steps=spec.run_steps,
        scheduler_specific_kwargs=options.lr_scheduler_kwargs,
    )
    assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR), "the saved one was"
    rate, before = options.learning_rate * schedule.lr_lambdas[0](step), scheduler["_last_lr"][0]
    if rate == before and options.learning_rate == bases[0]:
        return state, ""
    scheduler, optimizer = copy.copy(scheduler), copy.copy(optimizer)
    scheduler["base_lrs"] = [options.learning_rate for _ in bases]
    scheduler["_last_lr"] = [rate for _ in bases]
    optimizer["param_groups"] = [
        group | {"lr": rate, "initial_lr": options.learning_rate}
        for group in optimizer["param_groups"]
    ]
    name = getattr(options.lr_scheduler_type, "value", options.lr_scheduler_type)
    said = (
        f"resume: {spec.name}: learning rate {rate:.3g} at step {step + 1}, before {before:.3g}; "
        f"its {name} schedule ends at step {spec.run_steps}"
    )
    return state | {"scheduler": scheduler, "optimizer": optimizer}, said
