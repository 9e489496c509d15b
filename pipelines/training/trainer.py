"""A role (learner or critic) as a thin subclass of TRL's GRPOTrainer that trains in blocks.

TRL's loss, options and data flow stay; this file adds what alternating blocks need: a step count
and optimizer that persist over `train()` calls, our engine in place of TRL's, rewards that can be
masked, advantages that are exactly 0 for a group without signal, and per-step advantages.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from pipelines.errors import UserError
from pipelines.policy.moe import Policy, freeze_multi_token_layers, moe_of
from pipelines.policy.tensors import weights_hash
from pipelines.rollouts.engine import Completion, Engine, Sampling, completion_seed
from pipelines.rollouts.ledger import Ledger
from pipelines.rollouts.sample import Sample, Scored, Scorer
from pipelines.rollouts.sampler import Drawn, Order
from pipelines.sync.push import WeightSync
from pipelines.training.advantages import blend_steps, spread
from pipelines.training.block_rollouts import BlockRollouts
from pipelines.training.moe_losses import AuxiliaryLosses, summarised_balance
from pipelines.training.policy_pass import OnePass
from pipelines.training.replay import RoutingReplay, check_replay
from pipelines.training.step_row import LOG_NAMES


def prompts_per_block(name: str, args: GRPOConfig, steps: int) -> int:
    """How many prompts a role's block of optimizer steps consumes.

    Raises:
        UserError: the block would split a generation batch.
    """
    micro = steps * args.gradient_accumulation_steps
    reuse = args.steps_per_generation * args.num_iterations
    if micro % reuse:
        raise UserError(
            f"{name}.steps_per_round = {steps} (x {args.gradient_accumulation_steps} accumulation) "
            f"is not a multiple of steps_per_generation x num_iterations = {reuse}: change one of "
            "them"
        )
    return micro // reuse * args.generation_batch_size // args.num_generations


class RoleTrainer(AuxiliaryLosses, OnePass, RoutingReplay, GRPOTrainer):
    """One policy with its optimizer, its engine, and its verified sync.

    Args:
        name: "learner" or "critic".
        policy: the model to train.
        tokenizer: shared by both roles.
        args: TRL's config; `use_vllm` must be False, the engine is ours.
        engine: samples for this role.
        sync: proves that the engine holds the policy; None for transformers' generation.
        run_steps: optimizer steps of the whole run, for the learning-rate schedule.
        on_step: receives one flat metrics row per optimizer step.
        router_bias_rate: gamma of aux-loss-free balancing (arXiv:2408.15664); 0 freezes the bias.
        routing_replay: update on the experts that the sampler chose.
        draw_ahead: draw each batch while the one before is scored and learned from.

    Raises:
        UserError: an adapter was given a `router_bias_rate`; nothing can be replayed.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        tokenizer: PreTrainedTokenizerBase,
        args: GRPOConfig,
        engine: Engine,
        sync: WeightSync | None,
        run_steps: int,
        on_step: Callable[[dict[str, object]], None],
        router_bias_rate: float = 0.0,
        routing_replay: bool = False,
        draw_ahead: bool = False,
    ) -> None:
        if router_bias_rate > 0 and isinstance(policy, PeftModel):
            raise UserError(
                f"{name}.router_bias_rate must be 0 with a LoRA adapter, got {router_bias_rate}: "
                "the router's bias is no part of the adapter and would be lost with it"
            )
        if routing_replay:
            check_replay(name, policy, router_bias_rate)
        freeze_multi_token_layers(policy)
        placeholder = Dataset.from_list([{"prompt": "", "row": 0}])
        super().__init__(
            model=policy,
            processing_class=tokenizer,
            args=args,
            train_dataset=placeholder,
            reward_funcs=[self._reward],
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(_StepEnd(self))
        self.name, self.engine, self.sync, self.run_steps = name, engine, sync, run_steps
        self.on_step, self.router_bias_rate = on_step, router_bias_rate
        self.routing_replay = routing_replay
        self.rollouts = BlockRollouts(self, draw_ahead)
        self.use_vllm, self.vllm_generation, self._last_loaded_step = True, self.rollouts, -1
        self.weights_version, self.weights = 0, ""
        self.staleness = 0  # of the last batch when it was scored, in versions of the weights
        self.step_weight = 0.0
        self.timers: defaultdict[str, float] = defaultdict(float)
        self.expert_load: dict[int, torch.Tensor] = {}  # tokens an expert, since the last round
        self._balance: dict[str, object] = {}  # of the last step
        self._mismatch: dict[str, object] = {}
        self._scorer: Scorer | None = None
        self._scored: list[Scored] = []
        self.purpose = "train"
        self.ledger: Ledger | None = None  # the run's, once it has a directory
        self._block: dict[str, list[int]] = {"used": [], "discarded": []}
        self._pending_state: dict[str, dict[str, object]] | None = None

    # -- blocks ---------------------------------------------------------------------------------

    def prompts_per_block(self, steps: int) -> int:
        """How many prompts a block of optimizer steps consumes; see the function of that name."""
        return prompts_per_block(self.name, self.args, steps)

    def play(
        self, prompts: Sequence[str | list[dict[str, str]]], scorer: Scorer, purpose: str
    ) -> None:
        """Train one block: sample groups for the prompts, score them, update.

        Args:
            prompts: exactly `prompts_per_block(steps)` of them for some number of steps.
            scorer: the game's judge.
            purpose: names the block in the sampling seeds.

        Raises:
            ValueError: the prompts are not a whole number of generation batches.
        """
        per_batch = self.args.generation_batch_size // self.num_generations
        if not prompts or len(prompts) % per_batch:
            raise ValueError(
                f"{self.name}: a block got {len(prompts)} prompts, which is no positive "
                f"multiple of the {per_batch} prompts of a generation batch"
            )
        self._scorer, self.purpose = scorer, purpose
        self.rollouts.begin_block(prompts)
        self.train_dataset = Dataset.from_list(
            [{"prompt": p, "row": i} for i, p in enumerate(prompts)]
        )
        generations = len(prompts) // per_batch
        reuse = self.args.steps_per_generation * self.num_iterations
        self.args.max_steps = generations * reuse // self.args.gradient_accumulation_steps
        self._step, self._buffered_inputs = 0, None
        self.timers.clear()
        self._block = {"used": [], "discarded": []}
        try:
            self.train()
        finally:
            self.rollouts.end_block()
        if self.ledger is not None:
            self.ledger.record("used", self._block["used"])
            self.ledger.record("discarded", self._block["discarded"], reason="every reward masked")

    def _init_training_state(self, max_steps: int, *args: object) -> tuple[int, int]:
        """Keep the step count over blocks: a restarted one would make TRL skip the weight sync."""
        step, tokens = self.state.global_step, self.state.num_input_tokens_seen
        epochs = super()._init_training_state(max_steps, *args)
        self.state.global_step, self.state.num_input_tokens_seen = step, tokens
        self.state.max_steps = step + max_steps
        return epochs

    def create_scheduler(self, num_training_steps: int, optimizer=None):  # type: ignore[no-untyped-def]
        """One schedule for the run; TRL's default would decay to 0 in every block."""
        scheduler = super().create_scheduler(self.run_steps, optimizer)
        self._created_lr_scheduler = False  # else the next block would make it anew, at step 0
        return scheduler

    def _prepare_for_training(self, *args: object):  # type: ignore[no-untyped-def]
        prepared = super()._prepare_for_training(*args)
        if self._pending_state is not None:  # only now does the prepared optimizer exist
            self.optimizer.load_state_dict(self._pending_state["optimizer"])
            self.lr_scheduler.load_state_dict(self._pending_state["scheduler"])
            self._pending_state = None
        return prepared

    def training_step(self, model, inputs, num_items_in_batch):  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        before = sum(self.timers.values())
        loss = super().training_step(model, inputs, num_items_in_batch)
        inner = sum(self.timers.values()) - before  # generation and scoring happen inside
        self.timers["update"] += time.perf_counter() - start - inner
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One row per optimizer step, under our names, instead of TRL's console dictionaries.

        What is not finite is left out: where every reward is masked there is no mean reward.
        """
        metrics = {
            key: sum(values) / len(values)
            for key, values in self._metrics["train"].items()
            if values
        }
        self._metrics["train"].clear()
        if "loss" not in logs:
            return
        known = {LOG_NAMES[k]: v for k, v in (metrics | logs).items() if k in LOG_NAMES}
        row = {name: value for name, value in known.items() if math.isfinite(value)}
        row |= {"rollout/staleness": self.staleness, **self._balance, **self._mismatch}
        self._mismatch = {}
        if self.engine.concurrency is not None:
            row["rollout/concurrency"] = self.engine.concurrency.take_lowest()
        row |= {f"time/{name}": round(seconds, 4) for name, seconds in self.timers.items()}
        if self.sync is not None:
            row |= {f"time/sync/{name}": cost for name, cost in self.sync.take_costs().items()}
        self.timers.clear()
        self.on_step({"kind": "step", "role": self.name, "step": self.state.global_step, **row})

    def finish_step(self) -> None:
        """After the optimizer step: balance the experts, and note that the weights changed."""
        moe = moe_of(self.policy)
        if moe is not None:
            self._balance = summarised_balance(moe.balance_metrics())
            for layer, load_E in moe.router_load().items():
                self.expert_load[layer] = self.expert_load.get(layer, 0) + load_E
            if self.router_bias_rate > 0:
                moe.update_router_bias(self.router_bias_rate)
            moe.reset_router_load()
        self.weights_version += 1

    def set_temperature(self, temperature: float) -> None:
        """Change the temperature of sampling and of the policy's and reference's logits."""
        self.temperature = temperature
        base = self.policy.get_base_model() if isinstance(self.policy, PeftModel) else self.policy
        for model in (base, self.ref_model):  # the reference is None without beta, or with LoRA
            if model is not None:
                add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))

    # -- sampling -------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The unwrapped model."""
        return self.accelerator.unwrap_model(self.model)

    def ensure_synced(self) -> None:
        """Give the engine the policy's current weights, verified, if it lacks them."""
        if self.engine.version == self.weights_version:
            return
        with self.timed("generate"):
            self.rollouts.land()
        with self.timed("sync"):
            if self.sync is None:
                self.engine.version = self.weights_version
            else:
                self.sync.push(self.policy, self.weights_version)
            self.weights = weights_hash(self.policy) if self.sync is None else self.sync.weights

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, purpose: str, group_size: int
    ) -> Drawn:
        """Sample one completion a prompt from exactly the current weights, each with its seed.

        Args:
            prompts: those of a group, `group_size` equal ones, are adjacent.
            sampling: length and temperature.
            purpose: names the call in the seeds.
            group_size: completions that are compared with each other.
        """
        self.rollouts.land()
        order = self.order(prompts, sampling, purpose, group_size)
        with self.timed("generate"):
            completions = self.engine.generate(order.prompts, order.sampling, order.seeds)
        return self.received(order, completions)

    def order(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, purpose: str, group_size: int
    ) -> Order:
        """Seeds and groups of a batch for the engine, which holds the current weights by now."""
        self.ensure_synced()
        assert self.engine.version == self.weights_version, "a rollout from stale weights"
        version = self.weights_version
        identity = (self.args.seed, self.name, purpose, version, self.accelerator.process_index)
        seeds = [completion_seed(*identity, index) for index in range(len(prompts))]
        groups = []
        if self.ledger is not None:
            facts = {"role": self.name, "purpose": purpose, "weights_version": version}
            groups = self.ledger.issue(len(prompts) // group_size, **facts)
        return Order(prompts, sampling, seeds, group_size, groups, version, self.weights)

    def received(self, order: Order, completions: Sequence[Completion]) -> Drawn:
        """Note an order's answers in the ledger."""
        if self.ledger is not None:
            again = {order.groups[index // order.group_size] for index in self.engine.reissued}
            self.ledger.record("reissued", sorted(again))
            self.ledger.record("completed", order.groups)
        return Drawn(order, completions)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what happens within to a stage's seconds."""
        start = time.perf_counter()
        yield
        self.timers[stage] += time.perf_counter() - start

    def sample(
        self,
        prompts: Sequence[str | list[dict[str, str]]],
        purpose: str,
        num: int = 1,
        temperature: float | None = None,
    ) -> list[list[Sample]]:
        """Sample `num` completions for each prompt, outside training (evaluation, critiques)."""
        if not prompts:
            return []
        ids = self._tokenize_prompts(list(prompts))[0]
        sampling = Sampling(self.max_completion_length, temperature or self.temperature)
        each = [p for p in ids for _ in range(num)]
        drawn = self.generate_ids(each, sampling, purpose, num)
        if self.ledger is not None:
            self.ledger.record("used", drawn.order.groups)
        samples = self._to_samples(drawn)
        return [samples[i : i + num] for i in range(0, len(samples), num)]

    def _to_samples(self, drawn: Drawn) -> list[Sample]:
        decode, weights = self._tokenizer.decode, drawn.order.weights
        return [
            Sample(
                decode(c.token_ids, skip_special_tokens=True),
                c.token_ids, c.logprobs, c.truncated, seed, weights,
            )
            for c, seed in zip(drawn.completions, drawn.order.seeds, strict=True)
        ]  # fmt: skip

    # -- rewards and advantages -----------------------------------------------------------------

    def _reward(
        self, completion_ids: list[list[int]], row: list[int], **_: object
    ) -> list[float | None]:
        """TRL's single reward function: the game's judgement of the local completions."""
        assert self._scorer is not None, "play() sets the scorer"
        drawn = self.rollouts.drawn
        self.staleness = self.weights_version - drawn.order.version
        samples = self._to_samples(drawn)
        assert [s.token_ids for s in samples] == list(completion_ids), "TRL reordered the rollouts"
        start, before = time.perf_counter(), self.timers["critique"]
        self._scored = self._scorer(row, samples)
        critique = self.timers["critique"] - before
        self.timers["verify"] += time.perf_counter() - start - critique
        return [scored.reward for scored in self._scored]

    def _calculate_rewards(self, *args: object) -> torch.Tensor:
        self._rewards_BF = super()._calculate_rewards(*args)  # all ranks, one column
        return self._rewards_BF

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        """TRL's batch, with masked rows taken out of the loss and exact advantages."""
        output = super()._generate_and_score_completions(inputs)
        num = len(self._scored)
        start = self.accelerator.process_index * num
        rewards_NG = self._rewards_BF[:, 0].view(-1, self.num_generations)
        local_B = slice(start, start + num)
        flat_B = (spread(rewards_NG) == 0).repeat_interleave(self.num_generations)[local_B]
        masked_B = torch.isnan(self._rewards_BF[local_B, 0])
        output["advantages"] = output["advantages"].masked_fill(flat_B | masked_B, 0.0)
        if masked_B.any():
            output["completion_mask"] = output["completion_mask"] * (~masked_B).int().unsqueeze(1)
        self._block_fates(masked_B.view(-1, self.num_generations).all(1).tolist())
        output["num_items_in_batch"] = self.accelerator.gather(
            output["completion_mask"].sum()
        ).sum()
        # Every rank must take the same branch below, or the next collective would hang.
        has_steps = any(gather_object([any(s.steps for s in self._scored)]))
        if self.step_weight > 0 and has_steps:
            blended_BT = blend_steps(
                output["advantages"],
                output["completion_ids"],
                self._scored,
                self.num_generations,
                self.step_weight,
                self._tokenizer,
            )
            silent_B1 = (flat_B | masked_B).unsqueeze(1)  # equal rewards: exactly no signal
            output["advantages"] = blended_BT.masked_fill(silent_B1, 0.0)
        return output

    def _block_fates(self, masked_N: Sequence[bool]) -> None:
        """Note which of the batch's groups the update will use, once the block is through."""
        if self.ledger is not None:
            for group, masked in zip(self.rollouts.drawn.order.groups, masked_N, strict=True):
                self._block["discarded" if masked else "used"].append(group)

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, object]:
        """What a round boundary must keep beside the weights."""
        trained = self.optimizer is not None
        return {
            "global_step": self.state.global_step,
            "num_input_tokens_seen": self.state.num_input_tokens_seen,
            "weights_version": self.weights_version,
            "temperature": self.temperature,
            "optimizer": self.optimizer.state_dict() if trained else None,
            "scheduler": self.lr_scheduler.state_dict() if trained else None,
        }

    def load_state_dict(
        self, state: dict[str, object], tensors: Iterable[tuple[str, torch.Tensor]]
    ) -> None:
        """Restore a round boundary: weights now, the optimizer when the next block prepares it."""
        own = self.policy.state_dict()
        for name, tensor in tensors:
            own[name].copy_(tensor)
        self.state.global_step = state["global_step"]
        self.state.num_input_tokens_seen = state["num_input_tokens_seen"]
        self.weights_version = state["weights_version"]
        if state["temperature"] != self.temperature:
            self.set_temperature(state["temperature"])
        if self.sync is not None:
            self.sync.num_syncs = 0  # a restored engine is probed again at once
        self.engine.version = -1
        if state["optimizer"] is not None:
            self._pending_state = {"optimizer": state["optimizer"], "scheduler": state["scheduler"]}


class _StepEnd(TrainerCallback):
    """Tells the role that the optimizer has stepped."""

    def __init__(self, role: RoleTrainer) -> None:
        self.role = role

    def on_step_end(self, *_: object, **__: object) -> None:
        self.role.finish_step()
