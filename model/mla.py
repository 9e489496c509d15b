"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

Keys and values of all heads come from one small latent per token. `expand` rebuilds them, for
training and prefill; `absorb` moves the rebuilding matrices to the query and the output, so that
decoding reads only the latent cache. Both compute the same function (a test holds them equal).

Axes: B sequences, T query tokens, S key tokens, H heads, N unrotated and P rotated features of a
query head, V features of a value head, R latent, C = R + P, D model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cache import LatentCache
from model.configuration import LATENT_NORM_EPS, SparringMoeConfig
from model.fp8_linear import Fp8Linear
from model.norm import RMSNorm
from model.rope import attention_scale, rotate


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
    query = torch.cat((q_latent_BTHR, q_rope_BTHP), -1).flatten(1, 2)
    logits_BTHS = torch.bmm(query, rows_BSC.transpose(1, 2)).mul(scale)
    logits_BTHS = logits_BTHS.unflatten(1, (num_tokens, num_heads))
    if mask_BTS is not None:
        logits_BTHS = logits_BTHS.masked_fill(~mask_BTS[:, :, None], float("-inf"))
    weights_BTHS = logits_BTHS.softmax(-1, dtype=torch.float32).to(query.dtype)
    context_BTHR = torch.bmm(weights_BTHS.flatten(1, 2), latent_BSR)
    context_BTHR = context_BTHR.view(num_sequences, num_tokens, num_heads, -1)
    return torch.einsum("bthr,hvr->bthv", context_BTHR, value_HVR).flatten(2)


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
        mask_BTS: Tensor | None,
        cache: LatentCache | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend to these tokens and to those in `cache`, to which these are appended.

        Returns:
            The output [B, T, D], and the indexer's loss while it trains.
        """
        q_nope_BTHN, q_rope_BTHP = self._query(x_BTD).split(self.q_widths, -1)
        q_rope_BTHP = rotate(q_rope_BTHP, rotations_BT1P)
        latent_BTR, k_rope_BTP = self.kv_a_proj_with_mqa(x_BTD).split(self.latent_widths, -1)
        latent_BTR = self.kv_a_layernorm(latent_BTR)
        k_rope_BTP = rotate(k_rope_BTP[:, :, None], rotations_BT1P)[:, :, 0]
        if cache is not None:
            if isinstance(self.kv_b_proj, Fp8Linear):  # it quantises its input: so must `absorb`
                latent_BTR = self.kv_b_proj.input_on_grid(latent_BTR)
            rows_BSC, latent_BSR = cache.update(latent_BTR, k_rope_BTP, self.layer_idx)
            if rows_BSC.shape[1] > latent_BTR.shape[1]:
                rebuild_HNR, value_HVR = self._rebuilding_matrices(latent_BTR)
                context = absorb(
                    *(q_nope_BTHN, q_rope_BTHP, rows_BSC, latent_BSR, rebuild_HNR, value_HVR),
                    mask_BTS,
                    self.scale,
                )
                return self.o_proj(context), None
        kv_BTH = self.kv_b_proj(latent_BTR).unflatten(-1, (self.num_heads, -1))
        k_nope_BTHN, value_BTHV = kv_BTH.split(self.kv_widths, -1)
        context = expand(
            q_nope_BTHN, q_rope_BTHP, k_nope_BTHN, k_rope_BTP, value_BTHV, mask_BTS, self.scale
        )
        return self.o_proj(context), None

    def _query(self, x_BTD: Tensor) -> Tensor:
        if self.low_rank_query:
            query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD)))
        else:
            query = self.q_proj(x_BTD)
        return query.unflatten(-1, (self.num_heads, -1))

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


def _widen(x: Tensor, width: int) -> Tensor:
    """Append zeros to the last axis."""
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x
