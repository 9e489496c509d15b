"""What is refused before a model is loaded, and before anything is written."""

import os
from collections.abc import Sequence

from peft import LoraConfig
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

import model  # noqa: F401  registers our classes
from data.records import Task
from pipelines.errors import UserError
from pipelines.game.referee import Referee
from pipelines.policy.checkpoint import chat_ids, check_checkpoint, local_folder, role_path
from pipelines.policy.fp8 import check_fp8
from pipelines.rollouts.sample import Prompt
from pipelines.rollouts.vllm_engine import require_vllm
from pipelines.settings.library import GRPO_CHOICES, GRPO_OWNED, check_library_table
from pipelines.settings.tables import RoleTable, Settings
from rewards.solution import Solution


def check_launch(settings: Settings) -> None:
    """Refuse a launch that did not start what the configuration says.

    Raises:
        UserError: WORLD_SIZE, Accelerate's world and `run.num_processes` differ.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    wanted = settings.run.num_processes
    if launched != wanted:
        raise UserError(
            f"run.num_processes = {wanted} but the launcher started {launched}: on CPU use "
            f"`accelerate launch --multi_gpu --num_processes {wanted}` (plain --cpu starts one "
            f"process), or set run.num_processes={launched}"
        )


def check_settings(settings: Settings) -> None:
    """Everything about the configuration that can be refused before a model is loaded.

    Raises:
        UserError: what to change.
    """
    for name, role in (("learner", settings.learner), ("critic", settings.critic)):
        check_library_table(f"{name}.grpo", role.grpo, GRPOConfig, GRPO_OWNED, GRPO_CHOICES)
        check_library_table(f"{name}.lora", role.lora, LoraConfig)
    if settings.rollout.engine == "vllm":
        require_vllm()
    if settings.critic.auditor:
        if settings.critic.lora or settings.rollout.precision == "fp8":
            raise UserError(
                "critic.auditor is a whole checkpoint in the critic's engine: it does not go with "
                'critic.lora or rollout.precision = "fp8"'
            )
        check_checkpoint("critic.auditor", local_folder(settings.critic.auditor))
    for name, role in (("learner", settings.learner), ("critic", settings.critic)):
        check_checkpoint(f"{name}.model", role_path(settings, role))
        if settings.rollout.precision == "fp8":
            check_fp8(name, role_path(settings, role), role)


def check_context(
    settings: Settings, tokenizer: PreTrainedTokenizerBase, referee: Referee, tasks: Sequence[Task]
) -> None:
    """Refuse a context that cannot hold the tasks' prompts and what is sampled after them.

    Raises:
        UserError: names the role, the numbers and the setting to raise.
    """
    unsolved = Solution("", (), None, None)
    learner, critic = settings.learner, settings.critic
    needed = {
        "learner": max(_num_tokens(tokenizer, referee.problem(task), learner) for task in tasks),
        "critic": learner.max_completion_length
        + max(
            _num_tokens(tokenizer, referee.critique_prompt(task, unsolved), critic)
            for task in tasks
        ),
    }
    for name, role in (("learner", learner), ("critic", critic)):
        whole = needed[name] + role.max_completion_length
        if whole > settings.rollout.max_model_len:
            raise UserError(
                f"rollout.max_model_len = {settings.rollout.max_model_len} is too small: the "
                f"{name}'s prompts have up to {needed[name]} tokens and its completions "
                f"{role.max_completion_length}: raise it to at least {whole}, or lower "
                "*.max_completion_length"
            )


def _num_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, role: RoleTable) -> int:
    if not isinstance(prompt, str):
        return len(chat_ids(tokenizer, prompt, role.chat_template_kwargs))
    return len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
