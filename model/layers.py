"""What a decoder layer is made of: attention, then a dense feed-forward or a mixture of experts.

Axes: B sequences, T tokens of this call, S tokens with the cached ones, N = B * T, D width,
P half of a head's rotated features.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from model.attention.cache import LatentCache
from model.attention.layout import TokenLayout
from model.attention.mla import MultiHeadLatentAttention
from model.attention.sparse import SparseLatentAttention
from model.configuration import SparringMoeConfig, SparringSparseConfig
from model.experts.balance import sequence_balance_loss
from model.experts.routed import RoutedExperts
from model.experts.router import Router
from model.experts.routing import Routing
from model.norm import RMSNorm


class FeedForward(nn.Module):
    """down(silu(gate x) * up x)."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden_width, bias=False)
        self.up_proj = nn.Linear(width, hidden_width, bias=False)
        self.down_proj = nn.Linear(hidden_width, width, bias=False)
        self.kernel: Callable[[Tensor, Tensor], Tensor] | None = None  # see `fused.py`

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, up = self.gate_proj(x_BTD), self.up_proj(x_BTD)
        if self.kernel is not None:
            return self.down_proj(self.kernel(gate, up))
        return self.down_proj(F.silu(gate) * up)


class MixtureOfExperts(nn.Module):
    """Routed experts for each token, plus shared experts for all."""

    def __init__(self, config: SparringMoeConfig, layer_idx: int) -> None:
        super().__init__()
        self.moe_layer = layer_idx - config.first_k_dense_replace
        self.aux_loss_alpha = config.aux_loss_alpha
        self.gate = Router(config)
        self.experts = RoutedExperts(config)
        self.shared_experts = FeedForward(
            config.hidden_size, config.n_shared_experts * config.moe_intermediate_size
        )

    def forward(
        self, x_BTD: Tensor, routing: Routing | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and the weighted balance loss of this layer while it trains with one."""
        x_ND = x_BTD.flatten(0, 1)
        chosen_NK, weights_NK, scores_NE = self.gate(x_ND, routing, self.moe_layer)
        routed_ND = self.experts(x_ND, chosen_NK, weights_NK)
        balance_loss = None
        if self.training and self.aux_loss_alpha and routing is not None:
            balance_loss = self.aux_loss_alpha * sequence_balance_loss(
                scores_NE, self.gate.num_selected, routing.shape_BT, routing.real_N
            )
        return routed_ND.view_as(x_BTD) + self.shared_experts(x_BTD), balance_loss


class DecoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each on the normed residual stream and added to it."""

    def __init__(self, config: SparringMoeConfig, layer_idx: int) -> None:
        super().__init__()
        sparse = isinstance(config, SparringSparseConfig)
        attention = SparseLatentAttention if sparse else MultiHeadLatentAttention
        self.self_attn = attention(config, layer_idx)
        self.mlp: FeedForward | MixtureOfExperts
        if layer_idx < config.first_k_dense_replace:
            self.mlp = FeedForward(config.hidden_size, config.intermediate_size)
        else:
            self.mlp = MixtureOfExperts(config, layer_idx)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x_BTD: Tensor,
        rotations_BT1P: Tensor,
        layout: TokenLayout,
        routing: Routing | None = None,
        past_key_values: LatentCache | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The residual stream, then this layer's balance loss and indexer loss, if it has them."""
        attended_BTD, indexer_loss = self.self_attn(
            self.input_layernorm(x_BTD), rotations_BT1P, layout, past_key_values
        )
        x_BTD = x_BTD + attended_BTD
        normed_BTD = self.post_attention_layernorm(x_BTD)
        if isinstance(self.mlp, MixtureOfExperts):
            y_BTD, balance_loss = self.mlp(normed_BTD, routing)
            return x_BTD + y_BTD, balance_loss, indexer_loss
        return x_BTD + self.mlp(normed_BTD), None, indexer_loss
