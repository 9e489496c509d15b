"""Where each token stands and what it may attend to, from the caller's mask and positions.

What a query sees is kept as one number per key, never as a table of queries by keys: at 128k
tokens that table would take 17 GB. Attention asks for the part of it that it works on.

Axes: B sequences, T tokens of this call, Q queries of one block, S tokens with the cached ones,
N = B * T.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

BLOCK_NUMBERS = 1 << 25  # numbers held at once per block of queries or heads: 128 MiB in float32


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of one forward pass: a query sees itself, and earlier real ones of its document.

    Args:
        position_ids_BT: positions, [B or 1, T].
        real_N: True for tokens that are not padding.
        past: cached tokens before these.
        real_BS: as `real_N`, with the cached tokens; None where causality alone hides padding.
        document_BT: number of each token's document; None where a row is one document.
        trains: whether autograd will run through this pass. Inside a layer the grad mode does
            not show it: reentrant checkpointing turns it off at first.
    """

    position_ids_BT: Tensor
    real_N: Tensor
    past: int = 0
    real_BS: Tensor | None = None
    document_BT: Tensor | None = None
    trains: bool = False

    @property
    def num_tokens(self) -> int:
        return self.position_ids_BT.shape[1]

    @property
    def is_causal(self) -> bool:
        """Whether every query sees exactly the keys up to its own."""
        return self.real_BS is None and self.document_BT is None

    def query_blocks(self, numbers_per_query: int) -> Iterator[slice]:
        """Split the queries so that a block holds at most `BLOCK_NUMBERS` numbers."""
        size = max(1, BLOCK_NUMBERS // numbers_per_query)
        for start in range(0, self.num_tokens, size):
            yield slice(start, min(start + size, self.num_tokens))

    def visible_BQS(self, queries: slice) -> Tensor:
        """What these queries see of the keys up to the last of them.

        A padding token sees itself, or its softmax would be empty.

        Returns:
            bool [B or 1, Q, past + queries.stop].
        """
        device = self.position_ids_BT.device
        key_S = torch.arange(self.past + queries.stop, device=device)
        query_Q1 = key_S[self.past + queries.start :, None]
        visible_BQS = (key_S <= query_Q1)[None]
        if self.real_BS is not None:
            visible_BQS = visible_BQS & self.real_BS[:, None, : len(key_S)] | (key_S == query_Q1)
        if self.document_BT is not None:
            document_BS = self.document_BT[:, : len(key_S)]
            visible_BQS = visible_BQS & (document_BS[:, queries, None] == document_BS[:, None])
        return visible_BQS

    def mask_BQS(self, queries: slice) -> Tensor | None:
        """As `visible_BQS`; None where that is every key."""
        alone = queries.stop - queries.start == 1
        return None if alone and self.is_causal else self.visible_BQS(queries)

    def first(self, num_tokens: int) -> "TokenLayout":
        """The layout of the first tokens of every sequence, where none is cached."""
        assert not self.past, "cached tokens have no layout of their own"
        real_BT = self.real_N.view(-1, self.num_tokens)[:, :num_tokens]
        return replace(
            self,
            position_ids_BT=self.position_ids_BT[:, :num_tokens],
            real_N=real_BT.flatten(),
            real_BS=None if self.real_BS is None else self.real_BS[:, :num_tokens],
            document_BT=None if self.document_BT is None else self.document_BT[:, :num_tokens],
        )


def token_layout(
    x_BTD: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    past: int,
    *,
    trains: bool = False,
) -> TokenLayout:
    """Lay out `T` tokens after `past` cached ones.

    Padding on the right needs no mask: causality hides it from every real token.

    Raises:
        ValueError: there are no tokens, or the mask or the positions do not fit them.
    """
    num_sequences, num_tokens = x_BTD.shape[:2]
    if not num_sequences * num_tokens:
        raise ValueError(f"pass at least one token, got {num_sequences} x {num_tokens} of them")
    if position_ids is not None:
        _check_positions(position_ids, num_sequences, num_tokens)
    real_BS = _real(attention_mask, (num_sequences, past + num_tokens))
    if real_BS is None:
        real_N = torch.ones(num_sequences * num_tokens, dtype=torch.bool, device=x_BTD.device)
        document_BT = None
        if attention_mask is None and position_ids is not None and not past:
            document_BT = _documents(position_ids)
        if position_ids is None:
            position_ids = torch.arange(past, past + num_tokens, device=x_BTD.device)[None]
        return TokenLayout(position_ids, real_N, past, document_BT=document_BT, trains=trains)

    if position_ids is None:
        position_ids = (real_BS.cumsum(-1) - 1).clamp(min=0)[:, past:]
    real_N = real_BS[:, past:].flatten()
    gap = bool((real_BS[:, 1:] & ~real_BS[:, :-1]).any())
    return TokenLayout(position_ids, real_N, past, real_BS if gap or past else None, trains=trains)


def _real(attention_mask: Tensor | None, wanted: tuple[int, int]) -> Tensor | None:
    """True where a token is not padding, [B, S]; None if none is padding."""
    if attention_mask is None:
        return None
    if attention_mask.shape != wanted:
        raise ValueError(
            f"attention_mask must be [sequences, cached + given tokens] = {list(wanted)}, "
            f"got {list(attention_mask.shape)}"
        )
    real_BS = attention_mask.bool()
    return None if bool(real_BS.all()) else real_BS


def _check_positions(position_ids: Tensor, num_sequences: int, num_tokens: int) -> None:
    """One position would otherwise be repeated for every token, without an error."""
    if position_ids.shape not in ((num_sequences, num_tokens), (1, num_tokens)):
        raise ValueError(
            f"position_ids must be [sequences or 1, given tokens] = [{num_sequences} or 1, "
            f"{num_tokens}], got {list(position_ids.shape)}"
        )


def _documents(position_ids_BT: Tensor) -> Tensor | None:
    """Number of each token's document in a packed row; None if every row is one document."""
    starts_BT = position_ids_BT[:, 1:] <= position_ids_BT[:, :-1]
    if not bool(starts_BT.any()):
        return None
    return torch.cat((starts_BT.new_zeros(len(starts_BT), 1), starts_BT), 1).cumsum(1)
