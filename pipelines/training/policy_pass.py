"""How the policy runs over a batch: once where once is enough, short ones together, on what routes.

    rollouts are scored   policy, no gradients (importance ratio, mismatch)   replay
                          reference                                           routes itself
    a loss is computed    policy, gradients                                   replay

Over rollouts of another engine TRL runs the policy twice: without gradients for the importance
ratio, then with gradients for the loss. Where a generation batch is one micro-batch of one update
the weights are the same and so are the numbers: the first pass keeps its graph and the second is
left out. (A completion that is masked out in between counts in the experts' load.) Every pass runs
sequences of like length together (`training/lengths.py`) and a prompt once for its group where it
may (`training/shared_prompts.py`), and the policy's passes take the sampler's experts under replay
(`training/replay.py`). Leaves out what is done with the numbers:
TRL's losses.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedConfig
from trl import GRPOTrainer

from model.modeling import SparringMoeForCausalLM
from pipelines.policy.moe import Policy, moe_of, routing_of
from pipelines.training.block_rollouts import BlockRollouts
from pipelines.training.lengths import USUAL, Costs, LengthSorted
from pipelines.training.mismatch import (
    ExpertMismatch,
    computes_exactly,
    importance_figures,
    logprob_mismatch,
    own_choices,
)
from pipelines.training.moe_losses import ExpertLoad, has_auxiliary_losses
from pipelines.training.replay import (
    BatchRoutes,
    Replaying,
    is_reference,
    lay_out,
    replayed_load,
)
from pipelines.training.shared_prompts import can_share

Batch = dict[str, Tensor]
Score = Callable[..., tuple[Tensor, Tensor | None, Tensor | None]]  # TRL's: see `PolicyPass.score`


@dataclass(frozen=True)
class KeptPass:
    """A pass with gradients over a generation batch, in the batch's order before its shuffle."""

    input_ids_BT: Tensor
    logprobs_BT: Tensor
    entropies_BT: Tensor


@dataclass
class ScoredRollouts:
    """What is found while a generation batch is scored.

    Attributes:
        logprobs_BT: of the sampled tokens under the policy (nats); None before its pass.
        routes: the sampler's; None where it has none to give.
    """

    logprobs_BT: Tensor | None = None
    routes: BatchRoutes | None = None


@dataclass
class PolicyPass:
    """One policy's passes over rollouts and micro-batches.

    Args:
        policy: unwrapped.
        processes: of the run.
        block: holds the rollouts that are scored.
        keeps_graph: whether the scoring pass may be the one that is learned from.
        rounds: whether policy or sampler compute in half precision.
        routing_replay: whether the policy takes the experts that the sampler chose.
        load: counts the tokens per expert.
        shared_by: the config of a policy whose completions may share their prompt's pass; None for
            one whose may not.
        costs: of its passes.

    Attributes:
        figures: what the last step's row says of sampler against policy.
        given_replies: whether the rollouts are given replies, which no sampler drew: there is
            nothing to compare with, and no routes to replay.
    """

    policy: Policy
    processes: Accelerator
    block: BlockRollouts
    keeps_graph: bool
    rounds: bool
    routing_replay: bool
    load: ExpertLoad
    shared_by: PreTrainedConfig | None = None
    costs: Costs = USUAL
    figures: dict[str, object] = field(default_factory=dict)
    given_replies: bool = False

    def __post_init__(self) -> None:
        self._scored: ScoredRollouts | None = None  # while rollouts are scored
        self._kept: KeptPass | None = None
        self._routes: BatchRoutes | None = None  # of the generation batch that is learned from
        self._rows_B: Tensor | None = None  # while a loss is computed: its rows of that batch

    # -- TRL's three occasions --------------------------------------------------------------------

    @contextmanager
    def scoring(self) -> Iterator[ScoredRollouts]:
        """While TRL generates a batch and scores it."""
        self._kept, self._scored = None, ScoredRollouts()
        try:
            yield self._scored
        finally:
            self._scored = None

    def finish_scoring(self, found: ScoredRollouts, batch: Batch) -> Batch:
        """Note how far sampler and policy are apart; returns what the batch must carry.

        Args:
            found: what `scoring` gave.
            batch: TRL's, in the rollouts' order.
        """
        assert found.logprobs_BT is not None, "the policy's own pass comes first"
        ids_BT = batch["completion_ids"]
        rows = {"row": torch.arange(len(ids_BT), device=ids_BT.device)}
        if self.given_replies:
            mask_BT = batch["completion_mask"]
            nll = -(found.logprobs_BT * mask_BT).sum() / mask_BT.sum()
            self.figures["imitation/nll"] = self.processes.gather(nll.view(1)).mean().item()
            return rows
        self.figures |= logprob_mismatch(
            found.logprobs_BT,
            batch["sampling_per_token_logps"],
            batch["completion_mask"],
            self.processes.gather,
        )
        if "importance_sampling_ratio" in batch:  # unless the correction was switched off
            self.figures |= importance_figures(
                batch["importance_sampling_ratio"], batch["completion_mask"], self.processes.gather
            )
        self._routes = found.routes if self.routing_replay else None
        return rows

    @contextmanager
    def learning_from(self, micro_batch: Mapping[str, Tensor]) -> Iterator[None]:
        """While TRL computes a micro-batch's loss; "row" says where its sequences stood."""
        self._rows_B = micro_batch["row"]
        try:
            yield
        finally:
            self._rows_B, self._kept = None, None

    def score(
        self,
        run: Score,
        model: nn.Module,
        wrapped: nn.Module,
        reference: nn.Module | None,
        input_ids_BT: Tensor,
        mask_BT: Tensor,
        num_kept: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities, entropies and auxiliary loss, as TRL's method of that purpose.

        Args:
            run: TRL's own pass.
            model: what TRL would run.
            wrapped: the policy as the update runs it, in its wrapper for several processes.
            reference: the model of the KL term, if it is one of its own.
            input_ids_BT: prompts and completions.
            mask_BT: 1 for real tokens.
            num_kept: completion tokens, the last of each row.
        """
        given = (input_ids_BT, mask_BT, num_kept, *args)
        if self._rows_B is not None and self._kept is not None:
            return self._kept_rows(input_ids_BT, self._rows_B)
        if model is reference:  # of which nobody has asked whether it can share
            return run(self._by_length(model, shares=False), *given, **kwargs)
        if is_reference(self.policy):
            return run(self._by_length(model), *given, **kwargs)
        if self._scored is None:
            return run(self._replaying(model, input_ids_BT), *given, **kwargs)
        if not (self.keeps_graph and self._kept is None and model is self.policy):
            return self._over_rollouts(run, model, *given, **kwargs)
        with torch.enable_grad():
            logprobs_BT, entropies_BT, _ = self._over_rollouts(
                run, wrapped, *given, compute_entropy=True, **kwargs
            )
        assert entropies_BT is not None, "they were asked for"
        self._kept = KeptPass(input_ids_BT, logprobs_BT, entropies_BT)
        return logprobs_BT.detach(), None, None

    # -- its passes -------------------------------------------------------------------------------

    def _kept_rows(self, input_ids_BT: Tensor, rows_B: Tensor) -> tuple[Tensor, Tensor, None]:
        kept = self._kept
        assert kept is not None and torch.equal(input_ids_BT, kept.input_ids_BT[rows_B]), (
            "another batch's pass"
        )
        return kept.logprobs_BT[rows_B], kept.entropies_BT[rows_B], None

    def _by_length(self, model: nn.Module, shares: bool = True) -> LengthSorted:
        return LengthSorted(
            model,
            lambda costs: self.processes.reduce(costs, reduction="sum"),
            self.shared_by if shares else None,
            self.costs,
        )

    def _replaying(self, model: nn.Module, input_ids_BT: Tensor) -> LengthSorted | Replaying:
        """The model for a micro-batch, on the routes of its rows where they are replayed."""
        by_length = self._by_length(model)
        if self._rows_B is None or not self.routing_replay or self.given_replies:
            return by_length
        assert self._routes is not None, "rollouts without routes are refused when they are scored"
        return Replaying(by_length, self._routes.of(self._rows_B, input_ids_BT))

    def _over_rollouts(
        self,
        run: Score,
        model: nn.Module,
        ids_BT: Tensor,
        mask_BT: Tensor,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The policy over the rollouts: its experts are compared with the sampler's."""
        found = self._scored
        assert found is not None, "scoring() comes first"
        routes = [completion.routes for completion in self.block.current.completions]
        moe, by_length = routing_of(self.policy), self._by_length(model)
        if moe is None or self.given_replies or not (self.routing_replay or any(routes)):
            scored = run(by_length, ids_BT, mask_BT, *args, **kwargs)
        else:
            routes_BTLK = lay_out(routes, ids_BT, mask_BT)
            with own_choices(moe) as choices:
                asked = Replaying(by_length, routes_BTLK) if self.routing_replay else by_length
                scored = run(asked, ids_BT, mask_BT, *args, **kwargs)
            own = [by_length.laid_out(passes, ids_BT) for passes in choices]
            self._compare_experts(moe, own, routes_BTLK)
            found.routes = BatchRoutes(ids_BT, routes_BTLK)
        found.logprobs_BT = scored[0].detach()
        return scored

    def _compare_experts(
        self, moe: SparringMoeForCausalLM, own: Sequence[Tensor], routes_BTLK: Tensor
    ) -> None:
        layers = [n for n in moe.routers() if n < moe.config.num_hidden_layers]
        gather, replay = self.processes.gather, self.routing_replay
        mismatch = ExpertMismatch(*own, routes_BTLK, layers, gather, replay)
        if self.block.staleness == 0:  # else the policy moved on
            mismatch.check(computes_exactly(moe, self.rounds))
        self.figures |= mismatch.row()
        if replay:
            num_experts = moe.config.n_routed_experts
            loads, balance = replayed_load(num_experts, routes_BTLK, layers, gather)
            self.load.add(loads)
            self.figures |= balance

    def take_figures(self) -> dict[str, object]:
        """The figures since the last call."""
        taken, self.figures = self.figures, {}
        return taken


def pass_of(
    trainer: GRPOTrainer, policy: Policy, block: BlockRollouts, replay: bool, load: ExpertLoad
) -> PolicyPass:
    """The passes of a trainer's policy over a block's rollouts, as its options allow."""
    args = trainer.args
    reuse = args.steps_per_generation * trainer.num_iterations
    plain = not args.gradient_checkpointing and not trainer.aux_loss_enabled
    keeps_graph = may_keep_graph(
        policy,
        one_update=reuse == args.gradient_accumulation_steps == 1,
        scores_always=trainer.vllm_importance_sampling_correction,
        plain=plain,
    )
    sync = block.sampler.sync
    rounds = args.bf16 or args.fp16 or (sync is not None and sync.rounds)
    how = (keeps_graph, rounds, replay)
    shared_by = policy.config if plain and can_share(policy) else None
    layers = policy.config.get_text_config().num_hidden_layers
    costs = USUAL if moe_of(policy) else Costs.of(policy, layers)
    return PolicyPass(policy, trainer.accelerator, block, *how, load, shared_by, costs)


def may_keep_graph(policy: Policy, *, one_update: bool, scores_always: bool, plain: bool) -> bool:
    """Whether the pass that scores rollouts can be the pass that is learned from.

    Args:
        policy: must have no losses of its own, which only the pass for the loss collects.
        one_update: a generation batch is one micro-batch of one update.
        scores_always: TRL scores every batch of rollouts with the policy.
        plain: neither gradient checkpointing, which TRL sets aside while it scores, nor TRL's
            own auxiliary loss.
    """
    return one_update and scores_always and plain and not has_auxiliary_losses(policy)
