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
        shape_BT: sequences and tokens a sequence.
        counted_N: True for tokens that count towards the load; none does if None.
        replayed_NLK: expert ids to use in place of the router's own choice; -1 is an empty slot,
            and a token of which every slot is empty is routed as usual.
        num_selected_N: experts a token, in place of the config's.
        record: whether to keep the ids in `chosen`.
        chosen: [N, K] ids of each layer with routed experts, by its rank among those layers.
    """

    shape_BT: tuple[int, int]
    counted_N: Tensor | None = None
    replayed_NLK: Tensor | None = None
    num_selected_N: Tensor | None = None
    record: bool = False
    chosen: dict[int, Tensor] = field(default_factory=dict)

    @property
    def varies(self) -> bool:
        """Whether some token of this pass has fewer experts than another."""
        numbers_N = self.num_selected_N
        return numbers_N is not None and bool((numbers_N != numbers_N[0]).any())

    def replayed_NK(self, rank: int) -> Tensor | None:
        """Recorded ids for one layer, if this pass replays them."""
        return None if self.replayed_NLK is None else self.replayed_NLK[:, rank]

    def recorded_BTLK(self) -> Tensor | None:
        """The ids that were used, int16 [B, T, L, K], if this pass records them."""
        if not self.record:
            return None
        if not self.chosen:
            return torch.empty(*self.shape_BT, 0, 0, dtype=torch.int16)
        ids_NLK = torch.stack([self.chosen[rank] for rank in sorted(self.chosen)], dim=1)
        return ids_NLK.to(torch.int16).unflatten(0, self.shape_BT)


def routing_of(
    config: SparringMoeConfig,
    shape_BT: tuple[int, int],
    *,
    counted_N: Tensor | None,
    routed_experts: Tensor | None,
    experts_per_token: int | Tensor | None,
    record: bool,
) -> Routing:
    """Check what the caller of `forward` asks for; see there.

    Raises:
        ValueError: the ids or the numbers of experts do not fit the model or the tokens.
    """
    replayed_NLK = _checked_ids(config, shape_BT, routed_experts)
    num_selected_N = _checked_numbers(config, shape_BT, experts_per_token)
    if replayed_NLK is not None and num_selected_N is not None:
        raise ValueError(
            "pass routed_experts or experts_per_token, not both: recorded ids already say how "
            "many experts a token has"
        )
    return Routing(shape_BT, counted_N, replayed_NLK, num_selected_N, record)


def _checked_ids(
    config: SparringMoeConfig, shape_BT: tuple[int, int], ids_BTLK: Tensor | None
) -> Tensor | None:
    if ids_BTLK is None:
        return None
    num_layers = config.num_hidden_layers - config.first_k_dense_replace
    wanted = [*shape_BT, num_layers]
    if ids_BTLK.ndim != 4 or list(ids_BTLK.shape[:3]) != wanted or not ids_BTLK.shape[3]:
        raise ValueError(
            f"routed_experts must be [sequences, tokens, layers with experts, experts a token] = "
            f"{[*wanted, 'K']}, got {list(ids_BTLK.shape)}"
        )
    if ids_BTLK.is_floating_point() or ids_BTLK.dtype == torch.bool:
        raise ValueError(f"routed_experts must be integers, got {ids_BTLK.dtype}")
    ids_NLK = ids_BTLK.flatten(0, 1).long()
    low, high = (int(ids_NLK.min()), int(ids_NLK.max())) if ids_NLK.numel() else (0, 0)
    if low < -1 or high >= config.n_routed_experts:
        raise ValueError(
            f"routed_experts must lie in [-1, {config.n_routed_experts - 1}], "
            f"got {low} to {high}: were they recorded on another model?"
        )
    ordered = ids_NLK.sort(-1).values
    if bool(((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any()):
        raise ValueError("routed_experts names an expert twice for one token and layer")
    return ids_NLK


def _checked_numbers(
    config: SparringMoeConfig, shape_BT: tuple[int, int], numbers: int | Tensor | None
) -> Tensor | None:
    if numbers is None:
        return None
    numbers_B = torch.as_tensor(numbers)
    if numbers_B.ndim > 1 or (numbers_B.ndim == 1 and len(numbers_B) != shape_BT[0]):
        raise ValueError(
            f"experts_per_token must be one number, or one a sequence ({shape_BT[0]}), "
            f"got shape {list(numbers_B.shape)}"
        )
    eligible = config.num_eligible_experts
    if int(numbers_B.min()) < 1 or int(numbers_B.max()) > eligible:
        raise ValueError(
            f"experts_per_token must lie in [1, {eligible}], the experts in the "
            f"topk_group={config.topk_group} chosen groups, got {numbers_B.tolist()}"
        )
    return numbers_B.expand(shape_BT[0]).repeat_interleave(shape_BT[1])
