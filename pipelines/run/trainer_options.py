"""A table of the configuration as the options of TRL's trainer, refused before anything is loaded.

Leaves out which keys a table may have (`settings/library.py`).
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from transformers import Trainer, TrainingArguments, get_scheduler

from pipelines.errors import as_user_error

REFUSALS = (ValueError, TypeError, AttributeError, ImportError, OSError)
Options = TypeVar("Options", bound=TrainingArguments)


def trainer_options(
    dotted: str, kind: type[Options], table: Mapping[str, object], owned: Mapping[str, object]
) -> Options:
    """A trainer's options, whose optimizer and schedule can be made.

    Args:
        dotted: the table's name, such as "learner.grpo".
        kind: TRL's class of options.
        table: the user's options.
        owned: those that the loop sets.

    Raises:
        UserError: the library refuses an option.
    """
    with as_user_error(dotted, *REFUSALS):
        options = kind(**table, **owned)  # type: ignore[arg-type]
    with as_user_error(dotted, *REFUSALS):  # else the first step would be the first to notice
        if not options.optim_target_modules:  # those optimizers look into the model
            Trainer.get_optimizer_cls_and_kwargs(options)
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        get_scheduler(
            options.lr_scheduler_type,
            optimizer,
            num_warmup_steps=options.get_warmup_steps(1),
            num_training_steps=1,
            scheduler_specific_kwargs=options.lr_scheduler_kwargs,
        )
    return options
