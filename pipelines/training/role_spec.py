"""What a role is, apart from its weights and its engine. Leaves out the training itself."""

from dataclasses import dataclass

from peft import PeftModel
from trl import GRPOConfig

from pipelines.errors import UserError
from pipelines.policy.moe import Policy
from pipelines.training.replay import check_replay


@dataclass(frozen=True)
class RoleSpec:
    """What a role is, apart from its weights and its engine.

    Attributes:
        name: "learner" or "critic".
        grpo: TRL's config; `use_vllm` must be False, the sampler is ours.
        run_steps: optimizer steps of the whole run, for the learning-rate schedule.
        router_bias_rate: gamma of aux-loss-free balancing (arXiv:2408.15664); 0 freezes the bias.
        routing_replay: update on the experts that the sampler chose.
        draw_ahead: draw each batch while the one before is scored and learned from.
        flaw_penalty: what each token of a located first flaw loses; see `training/advantages.py`.
    """

    name: str
    grpo: GRPOConfig
    run_steps: int
    router_bias_rate: float = 0.0
    routing_replay: bool = False
    draw_ahead: bool = False
    flaw_penalty: float = 1.0

    def prompts_per_block(self, steps: int, key: str = "") -> int:
        """How many prompts a block of optimizer steps consumes, over all processes.

        Args:
            steps: of the block.
            key: the setting that they come from; by default the role's `steps_per_round`.

        Raises:
            UserError: the block would split a generation batch.
        """
        grpo = self.grpo
        micro = steps * grpo.gradient_accumulation_steps
        reuse = grpo.steps_per_generation * grpo.num_iterations
        if micro % reuse:
            raise UserError(
                f"{key or f'{self.name}.steps_per_round'} = {steps} "
                f"(x {grpo.gradient_accumulation_steps} accumulation) is not a multiple of "
                f"steps_per_generation x num_iterations = {reuse}: change one of them"
            )
        return micro // reuse * grpo.generation_batch_size // grpo.num_generations

    def check(self, policy: Policy) -> None:
        """Refuse a policy that cannot be trained as this says.

        Raises:
            UserError: an adapter has a `router_bias_rate`; nothing can be replayed.
        """
        if self.router_bias_rate > 0 and isinstance(policy, PeftModel):
            raise UserError(
                f"{self.name}.router_bias_rate must be 0 with a LoRA adapter, got "
                f"{self.router_bias_rate}: the router's bias is not part of the adapter and would "
                "be lost with it"
            )
        if self.routing_replay:
            check_replay(self.name, policy, self.router_bias_rate)
