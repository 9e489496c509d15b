"""What one forward pass asks of its routers, and what they report back.

Axes: B sequences, T tokens, N = B * T, L layers with routed experts, K experts of a token.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.configuration import SparringMoeConfig


@dataclass
class Routing:
    """One forward pass, seen by every router of it.

    Args:
        shape_BT: sequences, and tokens per sequence.
        real_N: False for padding; all tokens are real if None.
        counts: whether the real tokens count towards the load.
        replayed_NLK: expert ids to use in place of the router's own choice; -1 is an empty slot,
            and a token of which every slot is empty is routed as usual.
        num_selected_N: experts per token, in place of the config's.
        max_selected: the most of `num_selected_N`.
        record: whether to keep the ids in `chosen`.
        chosen: [N, K] ids of each layer with routed experts, by its index among those layers.
    """

    shape_BT: tuple[int, int]
    real_N: Tensor | None = None
    counts: bool = False
    replayed_NLK: Tensor | None = None
    num_selected_N: Tensor | None = None
    max_selected: int = 0
    record: bool = False
    chosen: dict[int, Tensor] = field(default_factory=dict)

    @property
    def may_leave_slots_empty(self) -> bool:
        """Whether a token of this pass may have fewer experts than another."""
        return self.replayed_NLK is not None or self.num_selected_N is not None

    def recorded_BTLK(self) -> Tensor | None:
        """The ids that were used, int16 [B, T, L, K], if this pass records them."""
        if not self.record:
            return None
        if not self.chosen:
            return torch.empty(*self.shape_BT, 0, 0, dtype=torch.int16)
        ids_NLK = torch.stack([self.chosen[layer] for layer in sorted(self.chosen)], dim=1)
        return ids_NLK.to(torch.int16).unflatten(0, self.shape_BT)


def routing_of(
    config: SparringMoeConfig,
    shape_BT: tuple[int, int],
    *,
    real_N: Tensor,
    counts: bool,
    routed_experts: Tensor | None,
    experts_per_token: int | Tensor | None,
    record: bool,
) -> Routing:
    """Check what the caller of `forward` asks for; see there.

    Replayed tokens are never counted: their load is that of the pass that recorded them.

    Raises:
        ValueError: the ids or the numbers of experts do not fit the model or the tokens.
    """
    if routed_experts is not None and experts_per_token is not None:
        raise ValueError(
            "pass routed_experts or experts_per_token, not both: recorded ids already say how "
            "many experts a token has"
        )
    routing = Routing(shape_BT, real_N, counts and routed_experts is None, record=record)
    if routed_experts is not None:
        _check_ids(config, shape_BT, routed_experts)
        routing.replayed_NLK = routed_experts.flatten(0, 1).to(real_N.device, torch.int64)
    if experts_per_token is not None:
        numbers_B = torch.as_tensor(experts_per_token)
        routing.max_selected = _check_numbers(config, shape_BT[0], numbers_B)
        numbers_B = numbers_B.to(real_N.device).expand(shape_BT[0])
        routing.num_selected_N = numbers_B.repeat_interleave(shape_BT[1])
    return routing


def _check_ids(config: SparringMoeConfig, shape_BT: tuple[int, int], ids_BTLK: Tensor) -> None:
    num_layers = config.num_hidden_layers - config.first_k_dense_replace
    wanted = [*shape_BT, num_layers]
    if ids_BTLK.ndim != 4 or list(ids_BTLK.shape[:3]) != wanted or not ids_BTLK.shape[3]:
        raise ValueError(
            f"routed_experts must be [sequences, tokens, layers with experts, experts per token] = "
            f"{[*wanted, 'K']}, got {list(ids_BTLK.shape)}"
        )
    if ids_BTLK.is_floating_point() or ids_BTLK.dtype == torch.bool:
        raise ValueError(f"routed_experts must be integers, got {ids_BTLK.dtype}")
    if not ids_BTLK.numel():
        return
    low, high = int(ids_BTLK.min()), int(ids_BTLK.max())
    if low < -1 or high >= config.n_routed_experts:
        raise ValueError(
            f"routed_experts must lie in [-1, {config.n_routed_experts - 1}], "
            f"got {low} to {high}: were they recorded on another model?"
        )
    ordered = ids_BTLK.sort(-1).values
    if bool(((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any()):
        raise ValueError("routed_experts names an expert twice for one token and layer")


def _check_numbers(config: SparringMoeConfig, num_sequences: int, numbers_B: Tensor) -> int:
    """The largest of the numbers."""
    if numbers_B.ndim > 1 or (numbers_B.ndim == 1 and len(numbers_B) != num_sequences):
        raise ValueError(
            f"experts_per_token must be one number, or one per sequence ({num_sequences}), "
            f"got shape {list(numbers_B.shape)}"
        )
    if numbers_B.is_floating_point() or numbers_B.dtype == torch.bool:
        raise ValueError(f"experts_per_token must be integers, got {numbers_B.dtype}")
    numbers, eligible = numbers_B.flatten().tolist(), config.num_eligible_experts
    if min(numbers, default=1) < 1 or max(numbers, default=1) > eligible:
        raise ValueError(
            f"experts_per_token must lie in [1, {eligible}], the experts in the "
            f"topk_group={config.topk_group} chosen groups, got {numbers}"
        )
    return max(numbers, default=1)
