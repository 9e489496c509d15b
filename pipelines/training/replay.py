"""The sampler's routes in the update: laid over a batch, found again for its rows, replayed.

A sampler and a trainer that round differently send some tokens to different experts, and then
disagree on the tokens' probabilities by far more than rounding. Replay sends every token of the
update to the experts that sampled it (R3, arXiv:2510.11370); weights are the router's own.

TRL shuffles and splits a generation batch. Its rows' numbers travel with it, the routes stay: a
micro-batch finds its routes by its rows, and only for the very tokens that stood there. Leaves out
where routes come from (`rollouts/routes.py`), the figures (`training/mismatch.py`), and which
passes replay (`training/policy_pass.py`).

Axes: B sequences, T tokens of prompt and completion, M tokens with routes, L layers with routed
experts, K experts of a token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from model.experts.balance import balance_metrics
from pipelines.errors import UnprovenSyncError, UserError
from pipelines.policy.moe import routing_of
from pipelines.rollouts.recorder import UNKNOWN
from pipelines.rollouts.routes import Routes
from pipelines.training.moe_losses import summarised_balance


def check_replay(name: str, policy: nn.Module, router_bias_rate: float) -> None:
    """Refuse a role that has nothing to replay, or that replay would freeze.

    Raises:
        UserError: the policy has no experts of ours, or balances them by their load.
    """
    if routing_of(policy) is None:
        raise UserError(
            f"rollout.routing_replay = true, but the {name} ({type(policy).__name__}) has no "
            "routed experts: set it to false"
        )
    if router_bias_rate > 0:
        raise UserError(
            f"{name}.router_bias_rate = {router_bias_rate} does nothing under "
            "rollout.routing_replay: replayed tokens are not the router's load. Set one of them "
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
            f"the engine gave no routes for {len(routes) - len(given)} of {len(routes)} "
            "completions: set rollout.routing_replay=false, or use an engine that gives them"
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


@dataclass(frozen=True)
class BatchRoutes:
    """The routes of a generation batch, in its order before the shuffle.

    Attributes:
        input_ids_BT: prompts and completions.
        routes_BTLK: their experts, -1 where a token has none.
    """

    input_ids_BT: Tensor
    routes_BTLK: Tensor

    def of(self, rows_B: Tensor, input_ids_BT: Tensor) -> Tensor:
        """The routes of some rows, [B, T, L, K].

        Raises:
            UnprovenSyncError: other tokens stood in those rows.
        """
        own_BT = self.input_ids_BT[rows_B]
        if own_BT.shape != input_ids_BT.shape:
            raise UnprovenSyncError("a micro-batch was padded otherwise than its batch was scored")
        moved_B = (own_BT != input_ids_BT).any(1)
        if moved_B.any():
            raise UnprovenSyncError(
                f"{int(moved_B.sum())} of {len(moved_B)} sequences of a batch are not those whose "
                "routes stand in their rows: tokens and rows were shuffled or split apart"
            )
        return self.routes_BTLK[rows_B]


class Replaying:
    """A model whose calls take a batch's routes in turn: TRL feeds it chunk by chunk."""

    def __init__(self, model: Callable[..., object], routes_BTLK: Tensor) -> None:
        self.model, self.routes_BTLK, self.num_done = model, routes_BTLK, 0

    def __call__(self, *, input_ids: Tensor, **kwargs: object) -> object:
        first, self.num_done = self.num_done, self.num_done + len(input_ids)
        routes_BTLK = self.routes_BTLK[first : self.num_done]
        return self.model(input_ids=input_ids, routed_experts=routes_BTLK, **kwargs)


def replayed_load(
    num_experts: int,
    routes_BTLK: Tensor,
    layers: Sequence[int],
    gather: Callable[[Tensor], Tensor],
) -> tuple[dict[int, Tensor], dict[str, object]]:
    """The sampler's load per layer over all processes, and the step's row of its balance.

    They take the place of the router's own, which counts no replayed token.
    """
    routes_MLK = routes_BTLK[(routes_BTLK >= 0).any(-1).all(-1)]
    loads_LE = torch.stack([
        torch.bincount(routes_MLK[:, place].flatten(), minlength=num_experts)
        for place in range(len(layers))
    ])  # fmt: skip
    count = torch.tensor([len(routes_MLK)], device=routes_MLK.device)
    loads_LE, num_tokens = gather(loads_LE[None]).sum(0).float(), int(gather(count).sum())
    loads = dict(zip(layers, loads_LE, strict=True))
    balance = {layer: balance_metrics(load_E, num_tokens) for layer, load_E in loads.items()}
    return loads, summarised_balance(balance)


def is_reference(policy: nn.Module) -> bool:
    """Whether a policy with an adapter stands in for its reference just now, without it."""
    if not isinstance(policy, PeftModel):
        return False
    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    return policy.active_adapter == "ref" or any(layer.disable_adapters for layer in layers)
