"""The language model: DeepSeek-V3's architecture as a transformers `PreTrainedModel`.

    tokens -> embedding -> [norm -> attention -> + ; norm -> dense or experts -> +] x L
           -> norm -> head -> logits (-> loss)

Attention is in `mla`, routing in `router` and `experts`, names on disk in `checkpoint`. Leaves
out multi-token prediction and tensor parallelism.

Axes: B sequences, T tokens of this call, S tokens with the cached ones, N = B * T, D width,
V vocabulary.
"""

import os
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from model.cache import LatentCache
from model.checkpoint import check_directory, named_checkpoint_tensors, split_experts
from model.configuration import DISK_ARCHITECTURE, SparringMoeConfig
from model.experts import RoutedExperts
from model.layout import token_layout
from model.mla import MultiHeadLatentAttention
from model.norm import RMSNorm
from model.rope import rotations
from model.router import Router


class FeedForward(nn.Module):
    """down(silu(gate x) * up x)."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden_width, bias=False)
        self.up_proj = nn.Linear(width, hidden_width, bias=False)
        self.down_proj = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class MixtureOfExperts(nn.Module):
    """Routed experts for each token, plus shared experts for all."""

    def __init__(self, config: SparringMoeConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = RoutedExperts(config)
        self.shared_experts = FeedForward(
            config.hidden_size, config.n_shared_experts * config.moe_intermediate_size
        )

    def forward(self, x_BTD: Tensor, counted_N: Tensor | None = None) -> Tensor:
        x_ND = x_BTD.flatten(0, 1)
        chosen_NK, weights_NK = self.gate(x_ND, counted_N)
        routed_ND = self.experts(x_ND, chosen_NK, weights_NK)
        return routed_ND.view_as(x_BTD) + self.shared_experts(x_BTD)


class DecoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each on the normed residual stream and added to it."""

    def __init__(self, config: SparringMoeConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = MultiHeadLatentAttention(config, layer_idx)
        self.mlp: FeedForward | MixtureOfExperts
        if layer_idx < config.first_k_dense_replace:
            self.mlp = FeedForward(config.hidden_size, config.intermediate_size)
        else:
            self.mlp = MixtureOfExperts(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x_BTD: Tensor,
        rotations_BT1P: Tensor,
        mask_BTS: Tensor | None = None,
        counted_N: Tensor | None = None,
        past_key_values: LatentCache | None = None,
    ) -> Tensor:
        x_BTD = x_BTD + self.self_attn(
            self.input_layernorm(x_BTD), rotations_BT1P, mask_BTS, past_key_values
        )
        normed_BTD = self.post_attention_layernorm(x_BTD)
        if isinstance(self.mlp, MixtureOfExperts):
            return x_BTD + self.mlp(normed_BTD, counted_N)
        return x_BTD + self.mlp(normed_BTD)


class Decoder(nn.Module):
    """Everything below the head."""

    def __init__(self, config: SparringMoeConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Hidden states of the tokens; see `SparringMoeForCausalLM.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        x_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(past_key_values, use_cache)
        past = 0 if cache is None else cache.get_seq_length()
        layout = token_layout(x_BTD, attention_mask, position_ids, past)
        rotations_BT1P = rotations(self.config, layout.position_ids_BT)
        counted_N = layout.real_N if self.training and cache is None else None
        states = [x_BTD]
        for layer in self.layers:
            x_BTD = layer(x_BTD, rotations_BT1P, layout.mask_BTS, counted_N, past_key_values=cache)
            if output_hidden_states:
                states.append(x_BTD)
        x_BTD = self.norm(x_BTD)
        return BaseModelOutputWithPast(
            last_hidden_state=x_BTD,
            past_key_values=cache,
            hidden_states=(*states[:-1], x_BTD) if output_hidden_states else None,
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
                f"past_key_values must be a model.cache.LatentCache, got {type(given).__name__}: "
                "leave it out and the model makes one"
            )
        return given


class SparringMoeForCausalLM(PreTrainedModel, GenerationMixin):
    """Next-token model. Saved checkpoints are DeepSeek-V3's, for stock transformers and vLLM."""

    config_class = SparringMoeConfig
    config: SparringMoeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("DecoderLayer",)
    _skip_keys_device_placement = ("past_key_values",)
    _keep_in_fp32_modules_strict = ("e_score_correction_bias",)
    _supports_sdpa = True

    def __init__(self, config: SparringMoeConfig) -> None:
        super().__init__(config)
        self.model = Decoder(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Logits of the next token, and the loss if there are labels.

        Args:
            input_ids: [B, T].
            attention_mask: [B, S], 1 for real tokens, 0 for padding on either side.
            position_ids: [B, T]; by default counted over real tokens. Without a mask, a position
                that does not increase starts another document, which attends to itself only.
            past_key_values: a `LatentCache`; made here when `use_cache`, by default
                `config.use_cache` when not training.
            labels: [B, T], -100 where no loss is wanted; shifted by transformers' loss.
            logits_to_keep: compute only the last so many positions (0: all), or those indices.

        Raises:
            ValueError: inputs that do not fit together, or a foreign cache.
        """
        if output_attentions:
            raise ValueError("output_attentions must be left out: fused attention keeps no weights")
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_hidden_states,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BTV = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits_BTV, labels=labels, vocab_size=self.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits_BTV,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )

    def routers(self) -> dict[int, Router]:
        """The router of each layer that has one, by layer index."""
        return {
            index: layer.mlp.gate
            for index, layer in enumerate(self.model.layers)
            if isinstance(layer.mlp, MixtureOfExperts)
        }

    def router_load(self) -> dict[int, Tensor]:
        """Tokens given to each expert since the last reset, by layer: float32 [E] over ranks."""
        return {index: router.load() for index, router in self.routers().items()}

    def reset_router_load(self) -> None:
        """Start counting anew."""
        for router in self.routers().values():
            router.reset_load()

    def update_router_bias(self, gamma: float) -> None:
        """Move each router's selection bias by `gamma` towards equal load (2412.19437, 2.1.2).

        Call it on every rank after the optimizer step. It resets the load.
        """
        for router in self.routers().values():
            router.update_bias(gamma)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *args: object,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: object,
    ) -> None:
        """Write config and weights under DeepSeek-V3's names, experts split.

        Args:
            state_dict: gathered weights under our in-memory names (as a trainer passes); the
                model's own if None.
        """
        named = named_checkpoint_tensors(self) if state_dict is None else split_experts(state_dict)
        tensors = {name: tensor.contiguous() for name, tensor in named}
        super().save_pretrained(
            save_directory, *args, state_dict=tensors, save_original_format=False, **kwargs
        )
        self.config.architectures = [DISK_ARCHITECTURE]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args, **kwargs
    ):  # type: ignore[no-untyped-def]
        """Load a DeepSeek-V3 style checkpoint, complete and of the right shapes.

        Raises:
            ValueError: a tensor is missing, unknown or of another shape; the message names it.
        """
        path = pretrained_model_name_or_path
        if path is not None and os.path.isdir(path) and kwargs.get("state_dict") is None:
            config = kwargs.get("config")
            if not isinstance(config, SparringMoeConfig):
                config = SparringMoeConfig.from_pretrained(path)
            with torch.device("meta"):
                check_directory(path, cls(config))
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[kind]:
                raise ValueError(f"checkpoint {path} has {kind}: {sorted(info[kind])[:5]}")
        return (model, info) if wants_info else model

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: `generate` then leaves the cache to `forward`, which makes a `LatentCache`."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
            if module.padding_idx is not None and not getattr(
                module.weight, "_is_hf_initialized", False
            ):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, Router):
            init.normal_(module.weight, std=std)
            init.zeros_(module.e_score_correction_bias)
        elif isinstance(module, RoutedExperts):
            init.normal_(module.gate_up_proj, std=std)
            init.normal_(module.down_proj, std=std)
