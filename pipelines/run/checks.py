"""What is refused before a model is loaded, and before anything is written."""

import os
from collections.abc import Sequence

from peft import LoraConfig
from trl import GRPOConfig

import model  # noqa: F401  registers our classes
from data.records import Task
from pipelines.errors import UserError
from pipelines.policy.checkpoint import check_checkpoint, local_folder, role_path
from pipelines.policy.fp8 import check_fp8
from pipelines.rollouts.vllm_engine import require_vllm
from pipelines.settings.library import GRPO_CHOICES, GRPO_OWNED, check_library_table
from pipelines.settings.tables import Settings
from rewards.proof import Proof, prove, require
from rewards.verifiers import Verifiers


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
    if settings.learner.autocast != settings.critic.autocast:
        raise UserError(
            f"learner and critic train in one process and in one precision, which are "
            f"{settings.learner.autocast} and {settings.critic.autocast}: set bf16 in "
            "learner.grpo and critic.grpo alike (it follows each dtype where it is not set)"
        )
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


def prove_rewards(settings: Settings, verifiers: Verifiers, tasks: Sequence[Task]) -> list[Proof]:
    """Let the verifiers and the user's own rewards prove themselves on tasks of the run.

    Raises:
        UserError: a verifier cannot tell right from wrong, or an own reward cannot be used.
    """
    verifiers.prove_own_rewards(tasks[0])
    table = settings.rewards
    proofs = prove(verifiers, tasks, table.proof_tasks) if table.proof_tasks else []
    require(proofs, table.min_tpr, table.min_tnr)
    return proofs
