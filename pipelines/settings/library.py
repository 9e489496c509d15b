"""Tables that are passed to a library's own config class, and what the loop owns of them."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

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
TRUNCATED_SAMPLING = {"top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"}


def check_library_table(
    dotted: str,
    table: LibraryTable,
    config_class: type,
    owned: frozenset[str] = frozenset(),
    choices: Mapping[str, tuple[object, ...]] = MappingProxyType({}),
) -> None:
    """Check the keys of a table against the library's dataclass, and against what the loop owns.

    Args:
        dotted: the table's name, such as "learner.grpo".
        table: the user's.
        config_class: the library's dataclass.
        owned: keys that the loop sets.
        choices: for some keys, the values that they may have.

    Raises:
        UserError: an unknown key or choice (the nearest is named), a key that the loop sets
            itself, or sampling truncation, which would bias the importance ratio.
    """
    known = [field.name for field in dataclasses.fields(config_class)]
    for key in table:
        if key in TRUNCATED_SAMPLING:
            raise UserError(
                f"{dotted}.{key} truncates or reshapes the sampling distribution, which biases "
                "GRPO's importance ratio: remove it (temperature is set beside the table)"
            )
        if key in owned:
            raise UserError(f"{dotted}.{key} is set by the loop: remove it from the configuration")
        if key not in known:
            hint = did_you_mean(key, known)
            raise UserError(f"unknown key {dotted}.{key} in {config_class.__name__}: {hint}")
        if table[key] not in choices.get(key, (table[key],)):
            hint = did_you_mean(str(table[key]), map(str, choices[key]))
            raise UserError(f"{dotted}.{key} = {table[key]!r} is not a choice: {hint}")
