"""What happens around each of a role's optimizer steps: a block's own rate, and word of the step.

Leaves out the schedule, which TRL's trainer follows, and what a role does after a step
(`training/trainer.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import TrainerCallback


class Steps(TrainerCallback):
    """Scales the learning rate of a block's steps, and says to the role that one was taken.

    Args:
        finish_step: is called after each step.

    Attributes:
        rate_factor: the present block's learning rate, as a multiple of the schedule's.
    """

    def __init__(self, finish_step: Callable[[], None]) -> None:
        self.rate_factor, self._finish_step = 1.0, finish_step
        self._scheduled: list[float] = []

    @contextmanager
    def at(self, rate_factor: float) -> Iterator[None]:
        """Take the steps within the block at a multiple of the schedule's rate."""
        self.rate_factor = rate_factor
        try:
            yield
        finally:
            self.rate_factor = 1.0

    def on_pre_optimizer_step(
        self, *_: object, optimizer: torch.optim.Optimizer, **__: object
    ) -> None:
        """Scale the rate; the schedule's own comes back after the step, to the bit."""
        self._scheduled = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups if self.rate_factor != 1 else ():
            group["lr"] = group["lr"] * self.rate_factor

    def on_optimizer_step(self, *_: object, optimizer: torch.optim.Optimizer, **__: object) -> None:
        """Give the schedule its rate again."""
        for group, rate in zip(optimizer.param_groups, self._scheduled, strict=True):
            group["lr"] = rate

    def on_step_end(self, *_: object, **__: object) -> None:
        """Say that the optimizer has stepped."""
        self._finish_step()
