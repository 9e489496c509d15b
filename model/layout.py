"""Where each token stands and what it may attend to, from the caller's mask and positions.

Axes: B sequences, T tokens of this call, S tokens with the cached ones, N = B * T.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenLayout:
    """Positions [B or 1, T]; mask [B or 1, T, S], None if plain causal; real (not padding) [N]."""

    position_ids_BT: Tensor
    mask_BTS: Tensor | None
    real_N: Tensor


def token_layout(
    x_BTD: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, past: int
) -> TokenLayout:
    """Lay out `T` tokens after `past` cached ones.

    Padding on the right needs no mask: causality hides it from every real token.

    Raises:
        ValueError: the mask or the positions do not fit the tokens.
    """
    num_sequences, num_tokens = x_BTD.shape[:2]
    order_T = torch.arange(past, past + num_tokens, device=x_BTD.device)
    all_N = torch.ones(num_sequences * num_tokens, dtype=torch.bool, device=x_BTD.device)
    if attention_mask is None:
        mask_BTS = _documents(position_ids) if position_ids is not None and not past else None
        if mask_BTS is None and past and num_tokens > 1:
            mask_BTS = _causal(order_T, past + num_tokens)
        positions = order_T[None] if position_ids is None else position_ids
        return TokenLayout(positions, mask_BTS, all_N)

    wanted = (num_sequences, past + num_tokens)
    if attention_mask.shape != wanted:
        raise ValueError(
            f"attention_mask must be [sequences, cached + given tokens] = {list(wanted)}, "
            f"got {list(attention_mask.shape)}"
        )
    real_BS = attention_mask.bool()
    if bool(real_BS.all()):
        mask_BTS = _causal(order_T, past + num_tokens) if past and num_tokens > 1 else None
        positions = order_T[None] if position_ids is None else position_ids
        return TokenLayout(positions, mask_BTS, all_N)

    if position_ids is None:
        position_ids = (real_BS.cumsum(-1) - 1).clamp(min=0)[:, past:]
    gap = bool((real_BS[:, 1:] & ~real_BS[:, :-1]).any())
    mask_BTS = _causal(order_T, past + num_tokens, real_BS) if gap or past else None
    return TokenLayout(position_ids, mask_BTS, real_BS[:, past:].flatten())


def _causal(order_T: Tensor, num_keys: int, real_BS: Tensor | None = None) -> Tensor:
    """May attend: itself (a padding token too, or its softmax is empty) and earlier real ones."""
    key_S = torch.arange(num_keys, device=order_T.device)
    mask_BTS = (key_S <= order_T[:, None])[None]
    if real_BS is not None:
        mask_BTS = mask_BTS & real_BS[:, None] | (key_S == order_T[:, None])
    return mask_BTS


def _documents(position_ids_BT: Tensor) -> Tensor | None:
    """Causal within each document of a packed row; None if every row is one document."""
    starts_BT = position_ids_BT[:, 1:] <= position_ids_BT[:, :-1]
    if not bool(starts_BT.any()):
        return None
    document_BT = torch.cat((starts_BT.new_zeros(len(starts_BT), 1), starts_BT), 1).cumsum(1)
    order_T = torch.arange(position_ids_BT.shape[1], device=position_ids_BT.device)
    return (document_BT[:, :, None] == document_BT[:, None]) & _causal(order_T, len(order_T))
