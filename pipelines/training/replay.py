"""The sampler's routes in the update: measured at every step, replayed where that is wanted.

A sampler and a trainer that round differently send some tokens to different experts, and then
disagree on the tokens' probabilities by far more than rounding. Replay sends every token of the
update to the experts that sampled it (R3, arXiv:2510.11370); weights are the router's own.

    passes        policy, no gradients (importance ratio, mismatch)  replay
                  policy, gradients (loss)                           replay
                  reference                                          routes itself: another model

Routes are laid over a batch by `route_tensors`, which TRL shuffles and splits with the rest. Leaves
out where routes come from (`rollouts/routes.py`) and the figures (`training/mismatch.py`).

Axes: B sequences, T tokens of prompt and completion, L layers with routed experts, K experts of a
token.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from model.experts.balance import balance_metrics
from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UnprovenSyncError, UserError
from pipelines.policy.moe import moe_of
from pipelines.rollouts.recorder import UNKNOWN
from pipelines.rollouts.routes import Routes
from pipelines.training.block_rollouts import BlockRollouts
from pipelines.training.lengths import LengthSorted
from pipelines.training.mismatch import (
    ExpertMismatch,
    computes_exactly,
    logprob_mismatch,
    own_choices,
)
from pipelines.training.moe_losses import summarised_balance

ROUTES = ("prompt_routes", "completion_routes", "routes_hash")  # what a batch carries
Batch = dict[str, Tensor]


def check_replay(name: str, policy: nn.Module, router_bias_rate: float) -> None:
    """Refuse a role that has nothing to replay, or that replay would freeze.

    Raises:
        UserError: the policy has no experts of ours, or balances them by their load.
    """
    if moe_of(policy) is None:
        raise UserError(
            f"rollout.routing_replay = true, but the {name} ({type(policy).__name__}) has no "
            "routed experts: set it to false"
        )
    if router_bias_rate > 0:
        raise UserError(
            f"{name}.router_bias_rate = {router_bias_rate} does nothing under "
            "rollout.routing_replay: replayed tokens are no load of the router's. Set one of them "
            "to 0 or false"
        )


def lay_out(routes: Sequence[Routes | None], input_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Each sequence's routes at its tokens' places, -1 where a token has none.

    Returns:
        [B, T, L, K].

    Raises:
        UnprovenSyncError: a sequence has no routes, or those of other tokens.
    """
    given = [own for own in routes if own is not None]
    if len(given) < len(routes):
        raise UnprovenSyncError(
            f"the engine told no routes for {len(routes) - len(given)} of {len(routes)} "
            "completions: set rollout.routing_replay=false, or use an engine that tells them"
        )
    per_token = given[0].experts_TLK.shape[1:]
    laid_BTLK = np.full((*input_ids_BT.shape, *per_token), UNKNOWN, given[0].experts_TLK.dtype)
    ids_BT = input_ids_BT.cpu().numpy()
    for row, (own, first) in enumerate(zip(given, mask_BT.argmax(1).tolist(), strict=True)):
        places = slice(first, first + len(own.token_ids_T))
        if not np.array_equal(ids_BT[row, places], own.token_ids_T):
            raise UnprovenSyncError(f"the routes of sequence {row} are of other tokens than its")
        laid_BTLK[row, places] = own.experts_TLK
    return torch.from_numpy(laid_BTLK).to(input_ids_BT.device)


def tokens_hash(input_ids_BT: Tensor, routes_BTLK: Tensor) -> Tensor:
    """int64 [B]: of tokens that have routes, and these, in order, wherever padding puts them."""
    routed_BT = (routes_BTLK >= 0).flatten(2).any(-1)
    rank_BT = routed_BT.long().cumsum(1)
    weights_X = torch.arange(1, 1 + routes_BTLK[0, 0].numel(), device=routes_BTLK.device)
    experts_BT = (routes_BTLK.flatten(2) * weights_X).sum(-1)
    mixed_BT = (input_ids_BT.long() + 1) * 2654435761 + rank_BT * 40503 + experts_BT * 3266489917
    mixed_BT = (mixed_BT ^ (mixed_BT >> 15)) * 2246822519
    return (mixed_BT * rank_BT * routed_BT).sum(1)


def route_tensors(input_ids_BT: Tensor, routes_BTLK: Tensor, num_prompt: int) -> Batch:
    """What a batch carries: routes beside its prompts and completions, and whose they are."""
    parts = (routes_BTLK[:, :num_prompt], routes_BTLK[:, num_prompt:])
    return dict(zip(ROUTES, (*parts, tokens_hash(input_ids_BT, routes_BTLK)), strict=True))


def routes_of(batch: Mapping[str, Tensor]) -> Tensor | None:
    """A batch's routes [B, T, L, K], if it carries any.

    Raises:
        UnprovenSyncError: its tokens were reordered without them.
    """
    if "routes_hash" not in batch:
        return None
    routes_BTLK = torch.cat([batch["prompt_routes"], batch["completion_routes"]], dim=1)
    ids_BT = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    moved_B = tokens_hash(ids_BT, routes_BTLK) != batch["routes_hash"]
    if moved_B.any():
        raise UnprovenSyncError(
            f"the routes of {int(moved_B.sum())} of {len(moved_B)} sequences of a batch are not "
            "those of their tokens: they were shuffled, split or padded apart"
        )
    return routes_BTLK


class Replaying:
    """A model whose calls take a batch's routes in turn: TRL feeds it chunk by chunk."""

    def __init__(self, model: Callable[..., object], routes_BTLK: Tensor) -> None:
        self.model, self.routes_BTLK, self.num_done = model, routes_BTLK, 0

    def __call__(self, *, input_ids: Tensor, **kwargs: object) -> object:
        first, self.num_done = self.num_done, self.num_done + len(input_ids)
        routes_BTLK = self.routes_BTLK[first : self.num_done]
        return self.model(input_ids=input_ids, routed_experts=routes_BTLK, **kwargs)


class RoutingReplay:
    """Put before GRPOTrainer: measures sampler against policy, and replays the sampler's routes.

    Needs of the trainer: `policy`, `expert_load`, `weights_version`, and `rollouts`.
    """

    routing_replay = False
    rollouts: BlockRollouts
    weights_version: int
    _mismatch: dict[str, object]  # of the last generation
    expert_load: dict[int, Tensor]
    _rollouts: dict[str, Tensor] | None = None  # set while rollouts are scored
    _replayed_BTLK: Tensor | None = None  # set while a loss is computed

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        self._rollouts = {}
        output = super()._generate_and_score_completions(inputs)
        if "policy_logprobs" not in self._rollouts:  # importance correction was switched off
            self._score_again(output)
        found, self._rollouts = self._rollouts, None
        self._mismatch |= logprob_mismatch(
            found["policy_logprobs"],
            output["sampling_per_token_logps"],
            output["completion_mask"],
            self.accelerator.gather,
        )
        return output | {name: found[name] for name in ROUTES if self.routing_replay}

    def _score_again(self, output: Batch) -> None:
        """The policy's own pass over the rollouts, where TRL sees no need of one."""
        ids_BT = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        mask_BT = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        num_kept, size = output["completion_ids"].shape[1], self.args.per_device_train_batch_size
        with torch.no_grad():
            self._get_per_token_logps_and_entropies(self.model, ids_BT, mask_BT, num_kept, size)

    def _compute_loss(self, model, inputs):  # type: ignore[no-untyped-def]
        self._replayed_BTLK = routes_of(inputs)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._replayed_BTLK = None

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
    ):  # type: ignore[no-untyped-def]
        score = super()._get_per_token_logps_and_entropies
        given = (input_ids, attention_mask, logits_to_keep, *args)
        is_reference = model is self.ref_model or _is_reference(self.policy)
        model = LengthSorted(model, self._sum_over_processes)
        if is_reference:
            return score(model, *given, **kwargs)
        routes_BTLK = self._replayed_BTLK
        if self._rollouts is None:
            replaying = model if routes_BTLK is None else Replaying(model, routes_BTLK)
            return score(replaying, *given, **kwargs)
        drawn = self.rollouts.drawn
        moe, routes = moe_of(self.policy), [completion.routes for completion in drawn.completions]
        if moe is None or not (self.routing_replay or any(routes)):
            scored = score(model, *given, **kwargs)
        else:
            routes_BTLK = lay_out(routes, input_ids, attention_mask)
            with own_choices(moe) as passes:
                replaying = Replaying(model, routes_BTLK) if self.routing_replay else model
                scored = score(replaying, *given, **kwargs)
            self._compare_experts(moe, model.laid_out(passes, input_ids), routes_BTLK)
            num_prompt = input_ids.shape[1] - logits_to_keep
            self._rollouts |= route_tensors(input_ids, routes_BTLK, num_prompt)
        self._rollouts["policy_logprobs"] = scored[0].detach()
        return scored

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum")

    def _compare_experts(
        self, moe: SparringMoeForCausalLM, own_BTLK: Tensor, routes_BTLK: Tensor
    ) -> None:
        layers = [n for n in moe.routers() if n < moe.config.num_hidden_layers]
        found = ExpertMismatch(own_BTLK, routes_BTLK, layers, self.accelerator.gather)
        if self.rollouts.drawn.order.version == self.weights_version:  # else the policy moved on
            found.check(computes_exactly(moe, autocast=self.args.bf16 or self.args.fp16))
        self._mismatch |= found.row()
        if self.routing_replay:
            self._note_load(moe.config.n_routed_experts, routes_BTLK, layers)

    def _note_load(self, num_experts: int, routes_BTLK: Tensor, layers: Sequence[int]) -> None:
        """The sampler's load and balance, in place of the router's own, which counts no replay."""
        routes_MLK = routes_BTLK[(routes_BTLK >= 0).any(-1).all(-1)]
        loads_LE = torch.stack([
            torch.bincount(routes_MLK[:, rank].flatten(), minlength=num_experts)
            for rank in range(len(layers))
        ])  # fmt: skip
        gather = self.accelerator.gather
        loads_LE, num_tokens = gather(loads_LE[None]).sum(0), gather(_count(routes_MLK)).sum()
        balance = {}
        for layer, load_E in zip(layers, loads_LE.float(), strict=True):
            self.expert_load[layer] = self.expert_load.get(layer, 0) + load_E
            balance[layer] = balance_metrics(load_E, int(num_tokens))
        self._mismatch |= summarised_balance(balance)


def _count(rows_MLK: Tensor) -> Tensor:
    return torch.tensor([len(rows_MLK)], device=rows_MLK.device)


def _is_reference(policy: nn.Module) -> bool:
    """Whether a policy with an adapter stands in for its reference just now, without it."""
    if not isinstance(policy, PeftModel):
        return False
    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    return policy.active_adapter == "ref" or any(layer.disable_adapters for layer in layers)
