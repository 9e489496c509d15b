"""Tables that are passed to a library's own config class, and what the loop owns of them."""

import dataclasses
import math
from collections.abc import Mapping

from pipelines.errors import UserError, did_you_mean

LibraryTable = dict[str, object]

SFT_OWNED = frozenset(
    {
        "data_seed",
        "load_best_model_at_end",
        "output_dir",
        "push_to_hub",
        "report_to",
        "resume_from_checkpoint",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        "seed",
        "use_cpu",
    }
)
GRPO_OWNED = SFT_OWNED | {
    "do_eval",
    "do_train",
    "eval_on_start",
    "eval_strategy",
    "log_completions",
    "logging_steps",
    "max_completion_length",
    "max_steps",
    "model_init_kwargs",
    "num_train_epochs",
    "remove_unused_columns",
    "rollout_func",
    "shuffle_dataset",
    "temperature",
    "use_vllm",
    "vllm_enable_sleep_mode",
    "vllm_gpu_memory_utilization",
    "vllm_max_model_length",
    "vllm_mode",
    "vllm_server_base_url",
    "vllm_server_host",
    "vllm_server_port",
    "vllm_tensor_parallel_size",
}
# What a run has in place of an option that the loop owns.
INSTEAD: Mapping[str, str] = {
    "eval_strategy": "evaluate.every_rounds",
    "load_best_model_at_end": "evaluate.every_rounds",
    "max_completion_length": "max_completion_length beside the table",
    "max_steps": "run.rounds and steps_per_round",
    "output_dir": "run.directory",
    "push_to_hub": "run.push_to",
    "report_to": "run.trackers",
    "resume_from_checkpoint": "--resume",
    "seed": "run.seed",
    "temperature": "temperature beside the table",
    "use_vllm": "rollout.engine",
}
# Options of GRPOConfig that are plain text to it, and that TRL refuses in the first step only.
GRPO_CHOICES: Mapping[str, tuple[object, ...]] = {
    "importance_sampling_level": ("token", "sequence"),
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "vllm_importance_sampling_mode": (
        "token_truncate",
        "token_mask",
        "sequence_truncate",
        "sequence_mask",
    ),
}
# A field's types in its annotation: the values that they take, and their name for a person.
PLAIN: Mapping[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a text"),
}
LOOSE = {"fsdp", "lora_alpha"}  # take more than their annotation says
TRUNCATED_SAMPLING = {"top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"}


@dataclasses.dataclass(frozen=True)
class LibraryConfig:
    """A library's config dataclass, and what of it a table may not set.

    Attributes:
        module: that defines the class.
        name: the class.
        owned: fields that the loop sets.
        choices: for some fields, the values that they may have.
    """

    module: str
    name: str
    owned: frozenset[str] = frozenset()
    choices: Mapping[str, tuple[object, ...]] = dataclasses.field(default_factory=dict)


GRPO = LibraryConfig("trl.trainer.grpo_config", "GRPOConfig", GRPO_OWNED, GRPO_CHOICES)
SFT = LibraryConfig("trl.trainer.sft_config", "SFTConfig", SFT_OWNED)
LORA = LibraryConfig("peft.tuners.lora.config", "LoraConfig")


def types_of(config_class: type) -> dict[str, str]:
    """A dataclass's fields by their names, each with its annotation."""
    return {
        field.name: field.type.__name__ if isinstance(field.type, type) else str(field.type)
        for field in dataclasses.fields(config_class)
    }


def _misfit(value: object, annotation: str) -> str:
    """What a value should be, of a field that holds plain values; "" where it fits.

    A whole number fits where a number does, and a whole one written with a point where a whole
    number does; a truth value is no number. Fields that may hold more (a list, a choice, a class of
    the library) take anything here.
    """
    plain = annotation.replace("typing.", "").removeprefix("Optional[").removesuffix("]")
    kinds = {one.strip() for one in plain.split("|")} - {"None"}
    is_whole = isinstance(value, float) and value.is_integer() and "int" in kinds
    if is_whole or not kinds <= PLAIN.keys():
        return ""
    fits = any(type(value) in PLAIN[kind][0] for kind in kinds)
    return "" if fits else " or ".join(PLAIN[kind][1] for kind in sorted(kinds))


def check_library_table(
    dotted: str, table: LibraryTable, config: LibraryConfig, known: Mapping[str, str]
) -> None:
    """Check a table against the library's fields, and against what the loop owns.

    Args:
        dotted: the table's name, such as "learner.grpo".
        table: the user's.
        config: what the table is for.
        known: all fields of that class, with their annotations.

    Raises:
        UserError: an unknown key or choice (the nearest is named), a value of another type, a key
            that the loop sets itself, or sampling truncation, which would bias the importance
            ratio.
    """
    for key, value in table.items():
        if key in TRUNCATED_SAMPLING:
            raise UserError(
                f"{dotted}.{key} truncates or reshapes the sampling distribution, which biases "
                "GRPO's importance ratio: remove it (temperature is set beside the table)"
            )
        if key in config.owned:
            ours = f" and set {INSTEAD[key]}" if key in INSTEAD else ""
            raise UserError(
                f"{dotted}.{key} is set by the loop: remove it from the configuration{ours}"
            )
        if key not in known:
            hint = did_you_mean(key, known)
            raise UserError(f"unknown key {dotted}.{key} in {config.name}: {hint}")
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{dotted}.{key} = nan is no number: give one")
        loose = key in config.choices or key in LOOSE
        if not loose and (expected := _misfit(value, known[key])):
            raise UserError(f"{dotted}.{key} = {value!r} must be {expected}")
        choices = config.choices.get(key, (value,))
        if value not in choices:
            hint = did_you_mean(str(value), map(str, choices))
            raise UserError(f"{dotted}.{key} = {value!r} is not a choice: {hint}")
