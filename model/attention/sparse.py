"""Sparse attention: each query attends to the keys its indexer selects (DeepSeek-V3.2).

Equations are those of arXiv:2512.02556, section 2.1. Two ways to compute the same: over whole
sequences the unselected keys are masked; from the cache the selected rows are gathered and
attended to in the latent space, so that a decoded token reads the indexer's keys and K rows, not
the cache. Where K covers every key, attention is the dense one, to the bit. The indexer learns
from the dense attention beside it: nothing of its loss reaches the model, nor the model's loss it.

Axes: B sequences, T query tokens, Q of one block, S key tokens, H heads, N unrotated and P
rotated features of a query head, V features of a value head, K selected keys, C cached row,
J indexer heads, I indexer width, W = H * V, D model width.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.attention.cache import LatentCache, LatentLayer
from model.attention.indexer import LightningIndexer, index_scores, indexer_loss, select_keys
from model.attention.layout import TokenLayout
from model.attention.mla import MultiHeadLatentAttention, Queries, absorb, expand
from model.configuration import SparringSparseConfig


class IndexQueries(NamedTuple):
    """The indexer's queries, and the weight of each of its heads."""

    queries_BTJI: Tensor
    weights_BTJ: Tensor

    def scores(self, keys_BSI: Tensor, tokens: slice) -> Tensor:
        """Scores [B, Q, S] of these tokens; by head they are kept for no backward pass."""
        parts = (self.queries_BTJI[:, tokens], self.weights_BTJ[:, tokens], keys_BSI)
        if not any(part.requires_grad for part in parts):
            return index_scores(*parts)
        return checkpoint(index_scores, *parts, use_reentrant=False)


class SparseLatentAttention(MultiHeadLatentAttention):
    """Latent attention to the keys that the layer's indexer selects.

    `is_sparse` False makes attention dense, for the warm-up of the indexer; it still caches the
    indexer's keys, and still trains it.
    """

    def __init__(self, config: SparringSparseConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.indexer = LightningIndexer(config)
        self.is_sparse = True

    def forward(
        self,
        x_BTD: Tensor,
        rotations_BT1P: Tensor,
        layout: TokenLayout,
        cache: LatentCache | None,
    ) -> tuple[Tensor, Tensor | None]:
        queries, q_latent_BTQ = self._queries(x_BTD, rotations_BT1P)
        held = None if cache is None else cache.layers[self.layer_idx]
        latent_BTR, k_rope_BTP = self._latents(x_BTD, rotations_BT1P, cached=held is not None)
        apart_BTD = x_BTD.detach()
        index_keys_BTI = self.indexer.keys(apart_BTD, rotations_BT1P)
        if held is not None:
            held.append(latent_BTR, k_rope_BTP, index_keys_BTI)
        selects = self.is_sparse and layout.past + layout.num_tokens > self.indexer.num_selected
        trains = held is None and layout.trains and self.indexer.wk.weight.requires_grad
        if not selects and not trains:
            context_BTW = self._attend(queries, latent_BTR, k_rope_BTP, layout, held)
            return self.o_proj(context_BTW), None
        index = IndexQueries(
            *self.indexer.queries(apart_BTD, q_latent_BTQ.detach(), rotations_BT1P)
        )
        if held is not None:
            return self.o_proj(self._attend_gathered(queries, index, layout, held)), None
        keys = (*self._keys_and_values(latent_BTR), k_rope_BTP, index_keys_BTI)
        context_BTW, loss = self._attend_masked(queries, index, keys, layout, selects, trains)
        return self.o_proj(context_BTW), loss

    def _attend_gathered(
        self, queries: Queries, index: IndexQueries, layout: TokenLayout, held: LatentLayer
    ) -> Tensor:
        """Absorbed attention to K cached rows per query: [B, T, W]."""
        index_keys_BSI = held.read_index_keys()
        num_sequences, num_keys = index_keys_BSI.shape[:2]
        num_selected, width = self.indexer.num_selected, sum(self.latent_widths)
        matrices = self._rebuilding_matrices(queries.nope_BTHN)
        blocks = []
        for tokens in layout.query_blocks(num_sequences * max(num_keys, num_selected * width)):
            seen = slice(layout.past + tokens.stop)
            scores_BQS = index.scores(index_keys_BSI[:, seen], tokens)
            visible_BQS = layout.mask_BQS(tokens)
            chosen_BQK, valid_BQK = _select(scores_BQS, visible_BQS, num_selected)
            rows_MKC = held.read_selected(chosen_BQK).flatten(0, 1)
            one_query_each = [part.flatten(0, 1)[:, None] for part in queries.at(tokens)]
            context_M1W = absorb(
                *(*one_query_each, rows_MKC, rows_MKC[..., : self.latent_widths[0]], *matrices),
                None if visible_BQS is None else valid_BQK.flatten(0, 1)[:, None],
                self.scale,
            )
            blocks.append(context_M1W.view(num_sequences, -1, context_M1W.shape[-1]))
        return torch.cat(blocks, 1)

    def _attend_masked(
        self,
        queries: Queries,
        index: IndexQueries,
        keys: tuple[Tensor, Tensor, Tensor, Tensor],
        layout: TokenLayout,
        selects: bool,
        trains: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention over whole sequences [B, T, W], and the indexer's mean loss a real token."""
        k_nope_BTHN, value_BTHV, k_rope_BTP, index_keys_BTI = keys
        num_sequences, num_tokens, num_heads = index.weights_BTJ.shape
        blocks, losses = [], []
        for tokens in layout.query_blocks(num_sequences * num_tokens * num_heads):
            seen = slice(tokens.stop)
            allowed_BQS = layout.visible_BQS(tokens)
            scores_BQS = index.scores(index_keys_BTI[:, seen], tokens)
            if selects:
                chosen = _select(scores_BQS.detach(), allowed_BQS, self.indexer.num_selected)
                allowed_BQS = torch.zeros_like(scores_BQS, dtype=torch.bool).scatter(-1, *chosen)
            attended = (*queries.at(tokens), k_nope_BTHN[:, seen], k_rope_BTP[:, seen])
            blocks.append(expand(*attended, value_BTHV[:, seen], allowed_BQS, self.scale))
            if trains:
                target_BQS = attention_shares(*attended, allowed_BQS, self.scale)
                losses.append(indexer_loss(scores_BQS, target_BQS, allowed_BQS))
        context_BTW = torch.cat(blocks, 1)
        if not trains:
            return context_BTW, None
        real_N = layout.real_N
        num_real = real_N.sum().clamp(min=1)
        return context_BTW, torch.cat(losses, 1).flatten()[real_N].sum() / num_real


def _select(
    scores_BQS: Tensor, visible_BQS: Tensor | None, num_selected: int
) -> tuple[Tensor, Tensor]:
    return select_keys(scores_BQS, visible_BQS, min(num_selected, scores_BQS.shape[-1]))


@torch.no_grad()
def attention_shares(
    q_nope_BQHN: Tensor,
    q_rope_BQHP: Tensor,
    k_nope_BSHN: Tensor,
    k_rope_BSP: Tensor,
    allowed_BQS: Tensor,
    scale: float,
) -> Tensor:
    """p_ts of Eqs. 3 and 4: attention summed over heads, divided by its sum over the keys.

    One head at a time, for the table of all heads would be the largest of the whole pass.

    Returns:
        float32 [B, Q, S].
    """
    total_BQS = torch.zeros((), device=q_nope_BQHN.device)
    for head in range(q_nope_BQHN.shape[2]):
        logits_BQS = q_nope_BQHN[:, :, head] @ k_nope_BSHN[:, :, head].transpose(1, 2)
        logits_BQS = logits_BQS + q_rope_BQHP[:, :, head] @ k_rope_BSP.transpose(1, 2)
        logits_BQS = (logits_BQS.float() * scale).masked_fill(~allowed_BQS, float("-inf"))
        total_BQS = total_BQS + logits_BQS.softmax(-1)
    return total_BQS / q_nope_BQHN.shape[2]
