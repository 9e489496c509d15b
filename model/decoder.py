"""Everything below the head: embedding, decoder layers, the last norm, multi-token layers.

Axes: B sequences, T tokens of this call, S tokens with the cached ones, N = B * T, D width.
"""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput
from transformers.utils import TransformersKwargs

from model.attention.cache import LatentCache
from model.attention.layout import token_layout
from model.attention.rope import rotations
from model.configuration import SparringMoeConfig
from model.experts.routing import routing_of
from model.layers import DecoderLayer
from model.mtp import MultiTokenLayer, Prediction, predict_further
from model.norm import RMSNorm


@dataclass
class DecoderOutput(ModelOutput):
    """What the layers give: hidden states [B, T, D], and what they cost while training."""

    last_hidden_state: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    aux_loss: Tensor | None = None
    indexer_loss: Tensor | None = None
    routed_experts: Tensor | None = None
    predictions: list[Prediction] | None = None


class Decoder(nn.Module):
    """Everything below the head."""

    def __init__(self, config: SparringMoeConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.num_layers = config.num_hidden_layers
        self.layers = nn.ModuleList(
            (DecoderLayer if layer_idx < self.num_layers else MultiTokenLayer)(config, layer_idx)
            for layer_idx in range(self.num_layers + config.num_nextn_predict_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        routed_experts: Tensor | None = None,
        experts_per_token: int | Tensor | None = None,
        record: bool = False,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DecoderOutput:
        """Hidden states of the tokens; see `SparringMoeForCausalLM.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        x_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(past_key_values, use_cache)
        past = 0 if cache is None else cache.get_seq_length()
        trains = self.training and torch.is_grad_enabled() and cache is None
        layout = token_layout(x_BTD, attention_mask, position_ids, past, trains=trains)
        rotations_BT1P = rotations(self.config, layout.position_ids_BT)
        routing = routing_of(
            *(self.config, (x_BTD.shape[0], x_BTD.shape[1])),
            real_N=layout.real_N,
            counts=trains,
            routed_experts=routed_experts,
            experts_per_token=experts_per_token,
            record=record,
        )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states, balance_losses, indexer_losses = [x_BTD], [], []
        for layer in self.layers[: self.num_layers]:
            x_BTD, balance_loss, indexer_loss = layer(
                x_BTD, rotations_BT1P, layout, routing, past_key_values=cache
            )
            balance_losses.append(balance_loss)
            indexer_losses.append(indexer_loss)
            if output_hidden_states:
                states.append(x_BTD)
        x_BTD = self.norm(x_BTD)
        predictions: list[Prediction] = []
        if labels is not None and self.training and cache is None:
            further, embedded_BTD = self.layers[self.num_layers :], states[0]
            predictions += predict_further(
                *(further, x_BTD, embedded_BTD, labels, rotations_BT1P, layout),
                counts=routing.counts,
            )
        return DecoderOutput(
            last_hidden_state=x_BTD,
            past_key_values=cache,
            hidden_states=(*states[:-1], x_BTD) if output_hidden_states else None,
            aux_loss=total_loss([*balance_losses, *(p.balance_loss for p in predictions)]),
            indexer_loss=total_loss([*indexer_losses, *(p.indexer_loss for p in predictions)]),
            routed_experts=routing.recorded_BTLK(),
            predictions=predictions,
        )

    def _cache(self, given: Cache | None, use_cache: bool | None) -> LatentCache | None:
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if given is None and not use_cache:
            return None
        if self.gradient_checkpointing and self.training:
            raise ValueError(
                "a cache cannot be filled by layers that gradient checkpointing runs twice: call "
                "gradient_checkpointing_disable() or eval() to generate, or pass use_cache=False"
            )
        if given is None:
            return LatentCache(self.config.num_hidden_layers)
        if not isinstance(given, LatentCache):
            raise ValueError(
                "past_key_values must be a model.attention.cache.LatentCache, got "
                f"{type(given).__name__}: leave it out and the model makes one"
            )
        if len(given.layers) != self.num_layers:
            raise ValueError(
                f"past_key_values has {len(given.layers)} layers, the model {self.num_layers}: "
                "leave it out and the model makes one"
            )
        return given


def total_loss(losses: list[Tensor | None]) -> Tensor | None:
    """Sum of the losses there are; None if there are none."""
    present = [loss for loss in losses if loss is not None]
    return torch.stack([loss.float() for loss in present]).sum() if present else None
