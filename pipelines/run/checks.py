"""What is refused before a model is loaded, and before anything is written."""

from collections.abc import Sequence

from peft import LoraConfig
from trl import GRPOConfig

import model  # noqa: F401  registers our classes
from data.records import Task
from pipelines.errors import UserError
from pipelines.policy.checkpoint import check_checkpoint
from pipelines.policy.folder import local_folder, role_path
from pipelines.policy.fp8 import check_fp8
from pipelines.rollouts.vllm_engine import require_vllm
from pipelines.run.trackers import own_tracker
from pipelines.settings.library import GRPO, LORA, check_library_table, types_of
from pipelines.settings.tables import TRACKERS, Settings
from rewards.proof import Proof, prove, require
from rewards.verifiers import Verifiers


def check_settings(settings: Settings) -> None:
    """Everything about the configuration that can be refused before a model is loaded.

    Raises:
        UserError: what to change.
    """
    for name, role in (("learner", settings.learner), ("critic", settings.critic)):
        check_library_table(f"{name}.grpo", role.grpo, GRPO, types_of(GRPOConfig))
        check_library_table(f"{name}.lora", role.lora, LORA, types_of(LoraConfig))
    for tracker in settings.run.trackers:
        if tracker not in TRACKERS:
            own_tracker(tracker)
    if settings.learner.autocast != settings.critic.autocast:
        raise UserError(
            f"learner and critic train in one process and in one precision, which are "
            f"{settings.learner.autocast} and {settings.critic.autocast}: set bf16 in "
            "learner.grpo and critic.grpo alike (it follows each dtype where it is not set)"
        )
    if settings.rollout.engine == "vllm":
        require_vllm()
    if settings.critic.auditor:
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
