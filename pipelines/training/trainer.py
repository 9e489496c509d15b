"""A role (learner or critic) as a thin subclass of TRL's GRPOTrainer that trains in blocks.

TRL's loss, options and data flow stay; this file overrides each of its hooks once, for what
alternating blocks need: a step count and optimizer that persist over `train()` calls, rollouts of
our sampler in place of TRL's, rewards that can be masked, our advantages, and passes of the policy
that keep to the sampler's experts. Each idea is a part of its own: `rollouts/sampler.py`,
`training/block_rollouts.py`, `training/policy_pass.py`, `training/advantages.py`.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback, ProgressCallback
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from pipelines.errors import UserError, as_user_error
from pipelines.policy.checkpoint import put_tensors, trained_tensors
from pipelines.policy.moe import Policy, freeze_multi_token_layers
from pipelines.policy.scoring import policy_logprobs
from pipelines.rollouts.sample import Prompt, Sample, Scored, Scorer, Weights
from pipelines.rollouts.sampler import Sampler
from pipelines.training.advantages import advantages, ends_by_row, rewards
from pipelines.training.block_rollouts import BlockRollouts
from pipelines.training.moe_losses import ExpertLoad, add_auxiliary_losses, balance_experts
from pipelines.training.policy_pass import pass_of
from pipelines.training.role_spec import RoleSpec
from pipelines.training.role_state import restore_role, role_state
from pipelines.training.step_row import OutcomeCounts, known_figures, take_sampler_figures
from pipelines.training.steps import Steps

OnStep = Callable[[dict[str, object]], None]


class RoleTrainer(GRPOTrainer):
    """One policy with its optimizer and its sampler: the `Player` that games play with.

    Args:
        spec: what the role is.
        policy: the model to train.
        sampler: draws from it.
        on_step: receives one flat metrics row per optimizer step.

    Raises:
        UserError: the policy cannot be trained as the spec says.
    """

    def __init__(self, spec: RoleSpec, policy: Policy, sampler: Sampler, on_step: OnStep) -> None:
        spec.check(policy)
        freeze_multi_token_layers(policy)
        with as_user_error(f"{spec.name}.grpo", ValueError, ImportError, NotImplementedError):
            super().__init__(
                model=policy,
                processing_class=sampler.tokenizer,
                args=spec.grpo,
                train_dataset=Dataset.from_list([{"prompt": "", "row": 0}]),  # `play` brings one
                reward_funcs=[self._reward],
            )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.steps = Steps(self.finish_step)
        self.add_callback(self.steps)
        self.spec, self.name, self.sampler, self.on_step = spec, spec.name, sampler, on_step
        sampler.process_index = self.accelerator.process_index
        grpo = spec.grpo
        size = grpo.per_device_train_batch_size * grpo.steps_per_generation
        self.block = BlockRollouts(sampler, size, self.accelerator.num_processes, spec.draw_ahead)
        self.use_vllm, self.vllm_generation, self._last_loaded_step = True, self.block, -1
        self.expert_load, self.outcomes = ExpertLoad(), OutcomeCounts(self.accelerator.gather)
        self.passes = pass_of(self, policy, self.block, spec.routing_replay, self.expert_load)
        self._balance, self._scorer = dict[str, object](), None  # of the last step; of the block
        self._scored: list[Scored] = []  # of the batch
        self._staleness = 0  # of the last batch when it was scored, in updates of the policy
        self.pending_state: dict[str, dict[str, object]] | None = None

    # -- as a game sees it ----------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The unwrapped model."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def num_steps(self) -> int:
        """Optimizer steps taken since the run began."""
        return self.state.global_step

    @property
    def process_index(self) -> int:
        """This process's place among the run's processes, from 0."""
        return self.accelerator.process_index

    def prompts_per_block(self, steps: int) -> int:
        """How many prompts a block of optimizer steps consumes, over all processes."""
        return self.spec.prompts_per_block(steps)

    def replies_per_block(self, steps: int) -> int:
        """How many replies a block of optimizer steps imitates, over all processes."""
        return self.spec.prompts_per_block(steps) * self.num_generations

    def play(
        self, prompts: Sequence[Prompt], scorer: Scorer, purpose: str, block: str = ""
    ) -> None:
        """Train one block: sample groups for the prompts, score them, update.

        Args:
            prompts: exactly `prompts_per_block(steps)` of them for some number of steps.
            scorer: the game's judge.
            purpose, block: names in the seeds, and in its steps' rows if it is no game of the role.

        Raises:
            UserError: there are other numbers of prompts.
        """
        self._scorer, self._block_name = scorer, block
        self._train_block(prompts, None, purpose)

    def imitate(
        self,
        prompts: Sequence[Prompt],
        replies: Sequence[str],
        purpose: str,
        rate_factor: float = 1.0,
    ) -> None:
        """Train one block on given replies, with the loss and the optimizer of every other block.

        A reply's tokens have advantage 1 and importance ratio 1: the gradient of TRL's loss is
        then that of the cross-entropy.

        Args:
            prompts: exactly `replies_per_block(steps)` of them for some number of steps.
            replies: one per prompt, without an end token.
            purpose: names the block.
            rate_factor: the block's learning rate, as a multiple of what the schedule says.

        Raises:
            UserError: there are other numbers of prompts.
        """
        self._scorer, self._block_name = (lambda i, samples: [Scored(1.0)] * len(i)), "imitation"
        with self.steps.at(rate_factor):
            self._train_block(prompts, replies, purpose)

    def _train_block(
        self, prompts: Sequence[Prompt], replies: Sequence[str] | None, purpose: str
    ) -> None:
        copies = self.num_generations if replies is None else 1  # of each prompt
        per_batch = self.args.generation_batch_size // copies
        if not prompts or len(prompts) % per_batch:
            raise UserError(
                f"{self.name}: a block got {len(prompts)} prompts, which is not a positive "
                f"multiple of the {per_batch} prompts of a generation batch"
            )
        self.block.begin_block(prompts, purpose, replies)
        self.passes.given_replies = replies is not None
        self.train_dataset = Dataset.from_list(
            [{"prompt": p, "row": i} for i, p in enumerate(prompts)]
        )
        micro = len(prompts) // per_batch * self.args.steps_per_generation * self.num_iterations
        self.args.max_steps = micro // self.args.gradient_accumulation_steps
        self._step, self._buffered_inputs = 0, None
        self.sampler.seconds.clear()
        try:
            self.train()
            self.block.note_fates()
        finally:
            self.block.end_block()

    def sample(
        self,
        prompts: Sequence[Prompt],
        purpose: str,
        num: int = 1,
        temperature: float | None = None,
    ) -> list[list[Sample]]:
        """Sample `num` completions per prompt, outside training (evaluation, critiques)."""
        return self.sampler.sample(prompts, purpose, num, temperature)

    def prompt_length(self, prompt: Prompt) -> int:
        """A prompt's number of tokens."""
        return self.sampler.prompt_length(prompt)

    def score(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Log-probabilities (nats) under the policy of each reply's tokens after its prompt."""
        asked, said = self.sampler.tokenize(prompts), self.sampler.tokenize_replies(replies)
        whole = [[*before, *after] for before, after in zip(asked, said, strict=True)]
        scores = policy_logprobs(self.policy, whole)
        return [row[len(before) - 1 :] for row, before in zip(scores, asked, strict=True)]

    def weights_copy(self) -> Weights:
        """A copy of the policy's tensors that training changes, by name."""
        return trained_tensors(self.policy)

    def put_back(self, weights: Weights) -> None:
        """Give the policy the weights of an earlier copy; its optimizer stays as it is."""
        put_tensors(self.policy, weights.items())
        self.sampler.weights_changed()

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Add what happens within the block to a stage's seconds."""
        return self.sampler.timed(stage)

    def set_temperature(self, temperature: float) -> None:
        """Change the temperature of sampling and of the policy's and reference's logits."""
        self.temperature = self.sampler.temperature = temperature
        base = self.policy.get_base_model() if isinstance(self.policy, PeftModel) else self.policy
        for model in (base, self.ref_model):  # the reference is None without beta, or with LoRA
            if model is not None:
                add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))

    # -- TRL's hooks: a batch and its loss --------------------------------------------------------

    def _reward(
        self, completion_ids: list[list[int]], row: list[int], **_: object
    ) -> list[float | None]:
        """TRL's single reward function: the game's judgement of the local completions."""
        assert self._scorer is not None, "play() sets the scorer"
        self._staleness = self.block.staleness
        samples = self.sampler.to_samples(self.block.current)
        assert [s.token_ids for s in samples] == list(completion_ids), "TRL reordered the rollouts"
        with self.timed("verify"):
            self._scored = self._scorer(row, samples)
        return [scored.reward for scored in self._scored]

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        """TRL's batch with our advantages, and with masked rows taken out of the loss."""
        with self.passes.scoring() as found:
            batch = super()._generate_and_score_completions(inputs)
            if found.logprobs_BT is None:  # importance correction was switched off
                self._score_rollouts(batch)
        batch |= self.passes.finish_scoring(found, batch)
        self.outcomes.add(self._scored, self.num_generations, self.accelerator.device)
        masked_B = rewards(self._scored).isnan().to(batch["completion_mask"].device)
        if masked_B.any():
            batch["completion_mask"] = batch["completion_mask"] * (~masked_B).int().unsqueeze(1)
        batch["num_items_in_batch"] = self.accelerator.gather(batch["completion_mask"].sum()).sum()
        if self.block.replies is not None:
            return batch | {"advantages": torch.ones_like(batch["advantages"])}
        batch["advantages"] = self._advantages(batch["advantages"], batch["completion_ids"])
        self.block.learn_from(masked_B.view(-1, self.num_generations).all(1).tolist())
        return batch

    def _tokenize_prompts(self, prompts):  # type: ignore[no-untyped-def]
        """The sampler's, which knows of replies that are begun."""
        return self.sampler.tokenize(prompts), None, {}

    def _get_train_sampler(self, dataset=None):  # type: ignore[no-untyped-def]
        """TRL's, which repeats each prompt for its group; a reply that is imitated comes once."""
        sampler = super()._get_train_sampler(dataset)
        if self.block.replies is not None:
            sampler.mini_repeat_count = 1
            sampler.batch_size = self.args.generation_batch_size
        return sampler

    def _advantages(self, outcome_B: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
        located = any(own.steps or own.flaw for own in self._scored)
        located = any(gather_object([located]))  # every process gives as many axes
        ends_BT = ends_by_row(self.sampler.tokenizer, self._scored, ids_BT) if located else None
        size, penalty = self.num_generations, self.spec.flaw_penalty
        return advantages(outcome_B, self._scored, size, penalty, ends_BT)

    def _score_rollouts(self, batch: dict[str, torch.Tensor]) -> None:
        """The policy's own pass over the rollouts, where TRL sees no need of one."""
        ids_BT = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask_BT = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        num_kept, size = batch["completion_ids"].shape[1], self.args.per_device_train_batch_size
        with torch.no_grad():
            self._get_per_token_logps_and_entropies(self.model, ids_BT, mask_BT, num_kept, size)

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
    ):  # type: ignore[no-untyped-def]
        run = super()._get_per_token_logps_and_entropies
        models = (model, self.model_wrapped, self.ref_model)
        given = (input_ids, attention_mask, logits_to_keep, *args)
        return self.passes.score(run, *models, *given, **kwargs)

    def _compute_loss(self, model, inputs):  # type: ignore[no-untyped-def]
        with self.passes.learning_from(inputs):
            return super()._compute_loss(model, inputs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore[no-untyped-def]
        given = (model, inputs, return_outputs, num_items_in_batch)
        return add_auxiliary_losses(self, super().compute_loss, *given)

    # -- TRL's hooks: steps over blocks -----------------------------------------------------------

    def _init_training_state(self, max_steps: int, *args: object) -> tuple[int, int]:
        """Keep the step count over blocks: a restarted one would make TRL skip the weight sync."""
        step, tokens = self.state.global_step, self.state.num_input_tokens_seen
        epochs = super()._init_training_state(max_steps, *args)
        self.state.global_step, self.state.num_input_tokens_seen = step, tokens
        self.state.max_steps = step + max_steps
        return epochs

    def create_scheduler(self, num_training_steps: int, optimizer=None):  # type: ignore[no-untyped-def]
        """One schedule for the run; TRL's default would decay to 0 in every block."""
        scheduler = super().create_scheduler(self.spec.run_steps, optimizer)
        self._created_lr_scheduler = False  # else the next block would make it anew, at step 0
        return scheduler

    def _prepare_for_training(self, *args: object):  # type: ignore[no-untyped-def]
        prepared = super()._prepare_for_training(*args)
        if self.pending_state is not None:  # only now does the prepared optimizer exist
            self.optimizer.load_state_dict(self.pending_state["optimizer"])
            self.lr_scheduler.load_state_dict(self.pending_state["scheduler"])
            self.pending_state = None
        return prepared

    def training_step(self, model, inputs, num_items_in_batch):  # type: ignore[no-untyped-def]
        start, seconds = time.perf_counter(), self.sampler.seconds
        before = seconds.total()
        loss = super().training_step(model, inputs, num_items_in_batch)
        inner = seconds.total() - before  # generation and scoring happen inside
        seconds["update"] += time.perf_counter() - start - inner
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One row per optimizer step, under our names, instead of TRL's console dictionaries."""
        metrics = self._metrics["train"]
        figures = known_figures(metrics, logs)
        metrics.clear()
        if "loss" not in logs:
            return
        row: dict[str, object] = {"kind": "step", "role": self.name, "step": self.num_steps}
        row |= {"block": self._block_name} if self._block_name else {}
        figures["policy/learning_rate"] *= self.steps.rate_factor
        row |= figures | self.outcomes.take() | {"rollout/staleness": self._staleness}
        row |= self._balance | self.passes.take_figures()
        self.on_step(row | take_sampler_figures(self.sampler))

    def finish_step(self) -> None:
        """After the optimizer step: balance the experts, and note that the weights changed."""
        self._balance = balance_experts(self.policy, self.expert_load, self.spec.router_bias_rate)
        self.sampler.weights_changed()

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, object]:
        """What a round boundary must keep beside the weights."""
        return role_state(self)

    def load_state_dict(
        self, state: dict[str, object], tensors: Iterable[tuple[str, torch.Tensor]]
    ) -> None:
        """Restore a round boundary: weights now, the optimizer when the next block prepares it."""
        restore_role(self, state, tensors)
