"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

Keys and values of all heads come from one small latent per token. `expand` rebuilds them, for
training and prefill; `absorb` moves the rebuilding matrices to the query and the output, so that
decoding reads only the latent cache. Both compute the same function (a test holds them equal).
Which keys a query may see is in `layout.py`; selecting among them is in `sparse.py`.

Axes: B sequences, T query tokens, S key tokens, H heads, G heads of one block, N unrotated and P
rotated features of a query head, V features of a value head, R latent, C = R + P, D model width,
Q query latent; M = T * H, L = B * T.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention.cache import LatentCache, LatentLayer
from model.attention.layout import BLOCK_NUMBERS, TokenLayout
from model.attention.rope import attention_scale, rotate
from model.configuration import LATENT_NORM_EPS, SparringMoeConfig
from model.fp8.linear import Fp8Linear
from model.norm import RMSNorm


def expand(
    q_nope_BTHN: Tensor,
    q_rope_BTHP: Tensor,
    k_nope_BSHN: Tensor,
    k_rope_BSP: Tensor,
    value_BSHV: Tensor,
    mask_BTS: Tensor | None,
    scale: float,
) -> Tensor:
    """Attention over keys and values rebuilt per head; causal where no mask is given.

    The narrower of keys and values is padded to the other's width, without which PyTorch's
    fused attention falls back to the quadratic-memory path.

    Returns:
        [B, T, H * V].
    """
    num_heads, v_width = value_BSHV.shape[2:]
    query = torch.cat((q_nope_BTHN, q_rope_BTHP), -1)
    k_rope_BSHP = k_rope_BSP[:, :, None].expand(-1, -1, num_heads, -1)
    key = torch.cat((k_nope_BSHN, k_rope_BSHP), -1)
    width = max(query.shape[-1], v_width)
    context_BHTV = F.scaled_dot_product_attention(
        _widen(query, width).transpose(1, 2),
        _widen(key, width).transpose(1, 2),
        _widen(value_BSHV, width).transpose(1, 2),
        attn_mask=None if mask_BTS is None else mask_BTS[:, None],
        is_causal=mask_BTS is None,
        scale=scale,
    )
    return context_BHTV.transpose(1, 2)[..., :v_width].flatten(2)


def absorb(
    q_nope_BTHN: Tensor,
    q_rope_BTHP: Tensor,
    rows_BSC: Tensor,
    latent_BSR: Tensor,
    key_HNR: Tensor,
    value_HVR: Tensor,
    mask_BTS: Tensor | None,
    scale: float,
) -> Tensor:
    """Attention in the latent space: one key-value head of width C serves all query heads.

    Returns:
        [B, T, H * V].
    """
    num_sequences, num_tokens, num_heads = q_nope_BTHN.shape[:3]
    q_latent_BTHR = torch.einsum("bthn,hnr->bthr", q_nope_BTHN, key_HNR)
    query_BMC = torch.cat((q_latent_BTHR, q_rope_BTHP), -1).flatten(1, 2)
    mask = None if mask_BTS is None else mask_BTS.repeat_interleave(num_heads, 1)[:, None]
    # Values are the whole rows, of which the latent part is kept: one pass over the cache as it
    # lies, where a product with the latents alone would first copy them.
    rows = rows_BSC[:, None]
    context_BMC = F.scaled_dot_product_attention(query_BMC[:, None], rows, rows, mask, scale=scale)
    context_BMR = context_BMC[:, 0, :, : latent_BSR.shape[-1]]
    context_HLR = context_BMR.reshape(-1, num_heads, context_BMR.shape[-1]).transpose(0, 1)
    context_LHV = _products(context_HLR, value_HVR).transpose(0, 1)
    return context_LHV.reshape(num_sequences, num_tokens, -1)


class Queries(NamedTuple):
    """Unrotated and rotated part of every head's query."""

    nope_BTHN: Tensor
    rope_BTHP: Tensor

    def at(self, tokens: slice, heads: slice = slice(None)) -> "Queries":
        return Queries(self.nope_BTHN[:, tokens, heads], self.rope_BTHP[:, tokens, heads])


class MultiHeadLatentAttention(nn.Module):
    """Attention of one layer, under DeepSeek-V3's parameter names."""

    def __init__(self, config: SparringMoeConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.num_heads = config.num_attention_heads
        self.q_widths = (config.qk_nope_head_dim, config.qk_rope_head_dim)
        self.kv_widths = (config.qk_nope_head_dim, config.v_head_dim)
        self.latent_widths = (config.kv_lora_rank, config.qk_rope_head_dim)
        self.scale = attention_scale(config)
        q_width = self.num_heads * config.qk_head_dim
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(config.hidden_size, q_width, bias=False)
        else:
            self.q_a_proj = nn.Linear(config.hidden_size, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_NORM_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, q_width, bias=False)
        self.low_rank_query = config.q_lora_rank is not None
        self.kv_a_proj_with_mqa = nn.Linear(config.hidden_size, sum(self.latent_widths), bias=False)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, LATENT_NORM_EPS)
        self.kv_b_proj = nn.Linear(
            config.kv_lora_rank, self.num_heads * sum(self.kv_widths), bias=False
        )
        self.o_proj = nn.Linear(self.num_heads * config.v_head_dim, config.hidden_size, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        rotations_BT1P: Tensor,
        layout: TokenLayout,
        cache: LatentCache | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend to these tokens and to those in `cache`, to which these are appended.

        Returns:
            The output [B, T, D], and the indexer's loss while it trains.
        """
        queries, _ = self._queries(x_BTD, rotations_BT1P)
        held = None if cache is None else cache.layers[self.layer_idx]
        latent_BTR, k_rope_BTP = self._latents(x_BTD, rotations_BT1P, cached=held is not None)
        if held is not None:
            held.append(latent_BTR, k_rope_BTP)
        context_BTW = self._attend(queries, latent_BTR, k_rope_BTP, layout, held)
        return self.o_proj(context_BTW), None

    def _queries(self, x_BTD: Tensor, rotations_BT1P: Tensor) -> tuple[Queries, Tensor | None]:
        """Queries of every head, and the latent they come from, if they come from one."""
        if self.low_rank_query:
            q_latent_BTQ = self.q_a_layernorm(self.q_a_proj(x_BTD))
            query_BTM = self.q_b_proj(q_latent_BTQ)
        else:
            q_latent_BTQ, query_BTM = None, self.q_proj(x_BTD)
        nope_BTHN, rope_BTHP = query_BTM.unflatten(-1, (self.num_heads, -1)).split(
            self.q_widths, -1
        )
        return Queries(nope_BTHN, rotate(rope_BTHP, rotations_BT1P)), q_latent_BTQ

    def _latents(
        self, x_BTD: Tensor, rotations_BT1P: Tensor, *, cached: bool
    ) -> tuple[Tensor, Tensor]:
        """What the cache holds of each token: latent [B, T, R] and rotated key [B, T, P]."""
        latent_BTR, k_rope_BTP = self.kv_a_proj_with_mqa(x_BTD).split(self.latent_widths, -1)
        k_rope_BTP = rotate(k_rope_BTP[:, :, None], rotations_BT1P)[:, :, 0]
        latent_BTR = self.kv_a_layernorm(latent_BTR)
        fp8 = next((m for m in self.kv_b_proj.modules() if isinstance(m, Fp8Linear)), None)
        # So that `absorb` reads the same. An adapter around it must see the same, cached or not.
        if fp8 is not None and (cached or fp8 is not self.kv_b_proj):
            latent_BTR = fp8.input_on_grid(latent_BTR)
        return latent_BTR, k_rope_BTP

    def _attend(
        self,
        queries: Queries,
        latent_BTR: Tensor,
        k_rope_BTP: Tensor,
        layout: TokenLayout,
        held: LatentLayer | None,
    ) -> Tensor:
        """Attention to every key that is visible: [B, T, H * V]."""
        if held is None or not layout.past:
            k_nope_BTHN, value_BTHV = self._keys_and_values(latent_BTR)
            return self._attend_expanded(queries, k_nope_BTHN, k_rope_BTP, value_BTHV, layout)
        rows_BSC = held.read()
        if self._absorbing_is_cheaper(layout):
            return self._attend_absorbed(queries, rows_BSC, layout)
        return self._attend_rebuilt(queries, rows_BSC, layout)

    def _keys_and_values(self, latent_BTR: Tensor) -> tuple[Tensor, Tensor]:
        kv_BTHM = self.kv_b_proj(latent_BTR).unflatten(-1, (self.num_heads, -1))
        return kv_BTHM.split(self.kv_widths, -1)

    def _absorbing_is_cheaper(self, layout: TokenLayout) -> bool:
        """Compare multiplications per key and head, of which rebuilding the key is one part."""
        rank, rope_width = self.latent_widths
        absorbed = layout.num_tokens * (2 * rank + rope_width)
        rebuilt = rank * sum(self.kv_widths)
        rebuilt += layout.num_tokens * (sum(self.kv_widths) + rope_width)
        return absorbed <= rebuilt

    def _attend_expanded(
        self,
        queries: Queries,
        k_nope_BSHN: Tensor,
        k_rope_BSP: Tensor,
        value_BSHV: Tensor,
        layout: TokenLayout,
    ) -> Tensor:
        """`expand`, with the mask built for a block of queries at a time where one is needed."""
        if layout.is_causal and not layout.past:
            return expand(*queries, k_nope_BSHN, k_rope_BSP, value_BSHV, None, self.scale)
        blocks = []
        for tokens in layout.query_blocks(k_nope_BSHN.shape[0] * k_nope_BSHN.shape[1]):
            keys = slice(layout.past + tokens.stop)
            blocks.append(
                expand(
                    *queries.at(tokens),
                    *(k_nope_BSHN[:, keys], k_rope_BSP[:, keys], value_BSHV[:, keys]),
                    layout.visible_BQS(tokens),
                    self.scale,
                )
            )
        return torch.cat(blocks, 1)

    def _attend_absorbed(self, queries: Queries, rows_BSC: Tensor, layout: TokenLayout) -> Tensor:
        """`absorb`, with the logits of a block of queries at a time."""
        latent_BSR = rows_BSC[..., : self.latent_widths[0]]
        matrices = self._rebuilding_matrices(rows_BSC)
        blocks = []
        for tokens in layout.query_blocks(rows_BSC.shape[0] * rows_BSC.shape[1] * self.num_heads):
            keys = slice(layout.past + tokens.stop)
            blocks.append(
                absorb(
                    *(*queries.at(tokens), rows_BSC[:, keys], latent_BSR[:, keys], *matrices),
                    layout.mask_BQS(tokens),
                    self.scale,
                )
            )
        return torch.cat(blocks, 1)

    def _attend_rebuilt(self, queries: Queries, rows_BSC: Tensor, layout: TokenLayout) -> Tensor:
        """`expand`, with the keys and values of a block of heads at a time, from the cache."""
        latent_BSR, k_rope_BSP = rows_BSC.split(self.latent_widths, -1)
        rebuild_HNR, value_HVR = self._rebuilding_matrices(rows_BSC)
        num_rows = rows_BSC.shape[0] * rows_BSC.shape[1]
        size = max(1, BLOCK_NUMBERS // (num_rows * sum(self.kv_widths)))
        blocks = []
        for start in range(0, self.num_heads, size):
            heads = slice(start, min(start + size, self.num_heads))
            k_nope_BSGN = torch.einsum("bsr,gnr->bsgn", latent_BSR, rebuild_HNR[heads])
            value_BSGV = torch.einsum("bsr,gvr->bsgv", latent_BSR, value_HVR[heads])
            queried = queries.at(slice(None), heads)
            blocks.append(
                self._attend_expanded(queried, k_nope_BSGN, k_rope_BSP, value_BSGV, layout)
            )
        return torch.cat(blocks, -1)

    def _rebuilding_matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """kv_b_proj per head, [H, N, R] and [H, V, R], whatever wraps it (LoRA, for one)."""
        if type(self.kv_b_proj) is nn.Linear:
            matrix = self.kv_b_proj.weight
        elif isinstance(self.kv_b_proj, Fp8Linear):
            matrix = self.kv_b_proj.quantized_weight().dequantize().to(like.dtype)
        else:
            rank = self.latent_widths[0]
            matrix = self.kv_b_proj(torch.eye(rank, dtype=like.dtype, device=like.device)).T
        rebuild_HNR, value_HVR = matrix.unflatten(0, (self.num_heads, -1)).split(self.kv_widths, 1)
        return rebuild_HNR, value_HVR


def _products(query_BMC: Tensor, rows_BSC: Tensor) -> Tensor:
    """q . k for every query and row, [B, M, S]."""
    if query_BMC.dtype == torch.float32:
        return torch.bmm(query_BMC, rows_BSC.transpose(1, 2))
    # The other way round oneDNN first copies all rows, at 4 times the cost of the product.
    return torch.bmm(rows_BSC, query_BMC.transpose(1, 2)).transpose(1, 2)


def _widen(x: Tensor, width: int) -> Tensor:
    """Append zeros to the last axis."""
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x
