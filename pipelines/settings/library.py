"""Tables that are passed to a library's own config class, and what the loop owns of them."""

import dataclasses
import difflib
from collections.abc import Iterable

from pipelines.errors import UserError

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
TRUNCATED_SAMPLING = {"top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"}


def check_library_table(
    dotted: str, table: LibraryTable, config_class: type, owned: frozenset[str]
) -> None:
    """Check the keys of a table against the library's dataclass, and against what the loop owns.

    Raises:
        UserError: an unknown key (the nearest is named), a key that the loop sets itself, or
            sampling truncation, which would bias the importance ratio.
    """
    known = [field.name for field in dataclasses.fields(config_class)]
    for key in table:
        if key in TRUNCATED_SAMPLING:
            raise UserError(
                f"{dotted}.{key} truncates or reshapes the sampling distribution, which biases "
                "GRPO's "
                "importance ratio: remove it (temperature is set beside the table)"
            )
        if key in owned:
            raise UserError(f"{dotted}.{key} is set by the loop: remove it from the configuration")
        if key not in known:
            raise UserError(_unknown(f"{dotted}.{key}", key, known, config_class.__name__))


def _unknown(dotted: str, key: str, known: Iterable[str], owner: str) -> str:
    nearest = difflib.get_close_matches(key, list(known), n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {dotted} in {owner}: {hint}"
