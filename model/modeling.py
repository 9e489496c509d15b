"""The language model: DeepSeek-V3's architecture as a transformers `PreTrainedModel`.

    tokens -> embedding -> [norm -> attention -> + ; norm -> dense or experts -> +] x L
           -> norm -> head -> logits (-> loss)

Layers are in `decoder` and `layers`, attention in `attention`, routing and experts in `experts`,
multi-token prediction in `mtp`, saving and loading in `pretrained`. Leaves out tensor parallelism.

Axes: B sequences, T tokens of this call, S tokens with the cached ones, N = B * T, D width,
V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from model.attention.cache import LatentCache
from model.configuration import SparringMoeConfig, SparringSparseConfig
from model.decoder import Decoder, total_loss
from model.experts.router import Router
from model.layers import MixtureOfExperts
from model.loss import next_token_loss
from model.mtp import IGNORED, Prediction, multi_token_loss
from model.pretrained import SparringPreTrainedModel


@dataclass
class SparringOutput(ModelOutput):
    """Logits [B, T, V], and the losses of the parts that train beside the language model.

    `loss` is the language model's, plus `aux_loss` (already weighted by `aux_loss_alpha`),
    `indexer_loss` and `mtp_loss` (already weighted by `mtp_loss_weight`), where the model has
    them. `routed_experts` is int16 [B, T, L, K].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    aux_loss: Tensor | None = None
    indexer_loss: Tensor | None = None
    mtp_loss: Tensor | None = None
    routed_experts: Tensor | None = None


class SparringMoeForCausalLM(SparringPreTrainedModel, GenerationMixin):
    """Next-token model. Saved checkpoints are DeepSeek-V3's, for stock transformers and vLLM."""

    def __init__(self, config: SparringMoeConfig) -> None:
        super().__init__(config)
        self.model = Decoder(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.loss_function = next_token_loss
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
        routed_experts: Tensor | None = None,
        experts_per_token: int | Tensor | None = None,
        record: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SparringOutput:
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
            routed_experts: [B, T, L, K] expert ids, as recorded, to replay in the L layers with
                experts: weights are computed anew, the load is not counted. -1 is an empty slot;
                a token and layer of which all slots are empty is routed as usual.
            experts_per_token: experts for every token, or [B] for those of each sequence, in
                place of `num_experts_per_tok`; weights are normalised over them.
            record: whether to return the expert ids that were used.

        Raises:
            ValueError: inputs that do not fit together, or a foreign cache.
        """
        if output_attentions:
            raise ValueError("output_attentions must be left out: fused attention keeps no weights")
        outputs = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache,
            output_hidden_states, routed_experts, experts_per_token, record, labels=labels,
        )  # fmt: skip
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BTV = self.lm_head(outputs.last_hidden_state[:, kept])
        loss, mtp_loss = None, None
        if labels is not None:
            loss = self.loss_function(
                logits=logits_BTV, labels=labels, vocab_size=self.vocab_size, **kwargs
            )
            mtp_loss = self.mtp_loss(outputs.predictions, labels, **kwargs)
            loss = total_loss([loss, outputs.aux_loss, outputs.indexer_loss, mtp_loss])
        own = ("last_hidden_state", "predictions")
        rest = {name: value for name, value in outputs.items() if name not in own}
        return SparringOutput(loss=loss, logits=logits_BTV, mtp_loss=mtp_loss, **rest)

    def mtp_loss(
        self,
        predictions: list[Prediction],
        labels_BT: Tensor,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor | None:
        """Weighted loss of what the decoder predicted further (Eq. 25); None if it is nothing.

        Args:
            predictions: of the decoder's output.
            labels_BT: those that the decoder was given.
            num_items_in_batch: what the language model's loss is divided by; by default the
                labels here that it predicts.
        """
        if not predictions:
            return None
        if num_items_in_batch is None:
            num_items_in_batch = (labels_BT[:, 1:] != IGNORED).sum().clamp(min=1)
        return self.config.mtp_loss_weight * multi_token_loss(
            predictions, self.lm_head, self.loss_function, num_items_in_batch
        )

    @torch.no_grad()
    def prefill(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        chunk_tokens: int = 2048,
        room_tokens: int = 256,
        experts_per_token: int | Tensor | None = None,
    ) -> SparringOutput:
        """Fill a cache with a long prompt in chunks, so that memory holds one chunk's activations.

        To go on with `generate`, crop the last token off the cache, for `generate` feeds it anew.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 for real tokens, 0 for padding on either side.
            chunk_tokens: tokens of a chunk.
            room_tokens: tokens that can follow before the cache has to grow.
            experts_per_token: see `forward`.

        Returns:
            Logits of the last token [B, 1, V], and the cache in `past_key_values`.

        Raises:
            ValueError: a chunk of no tokens, or inputs that do not fit together.
        """
        if chunk_tokens < 1 or not input_ids.shape[1]:
            raise ValueError(
                f"prefill needs tokens, and chunks of at least 1, got {input_ids.shape[1]} tokens "
                f"in chunks of {chunk_tokens}"
            )
        num_tokens = input_ids.shape[1]
        cache = LatentCache(self.config.num_hidden_layers, num_tokens + room_tokens)
        for start in range(0, num_tokens, chunk_tokens):
            end = min(start + chunk_tokens, num_tokens)
            outputs = self(
                input_ids=input_ids[:, start:end],
                attention_mask=None if attention_mask is None else attention_mask[:, :end],
                past_key_values=cache,
                logits_to_keep=1,
                experts_per_token=experts_per_token,
            )
        return outputs

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

    def balance_metrics(self) -> dict[int, dict[str, float]]:
        """`experts.balance.balance_metrics` of the load since the last reset, by layer, over ranks.

        A layer that counted no token is left out. Every rank must call it.
        """
        measured = {index: router.metrics() for index, router in self.routers().items()}
        return {index: metrics for index, metrics in measured.items() if metrics is not None}

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

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: `generate` makes none of transformers' own caches."""
        return False

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict, *args: object
    ) -> None:
        """A `LatentCache` from the start, as assisted decoding and prefill in chunks ask for."""
        if generation_config.cache_implementation is not None:
            raise ValueError(
                f"leave out cache_implementation={generation_config.cache_implementation!r}: this "
                "model keeps latents, for which there is one cache"
            )
        if generation_config.use_cache and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = LatentCache(self.config.num_hidden_layers)
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)


class SparringSparseForCausalLM(SparringMoeForCausalLM):
    """The same with V3.2's sparse attention. Saved checkpoints are DeepSeek-V3.2's."""

    config_class = SparringSparseConfig
    config: SparringSparseConfig
    _keep_in_fp32_modules_strict = ("e_score_correction_bias", "indexer.weights_proj")

    @classmethod
    def from_dense(
        cls, dense: SparringMoeForCausalLM, **index_sizes: int
    ) -> "SparringSparseForCausalLM":
        """A copy of a dense model with untrained indexers, to be warmed up (2512.02556, 2.1.1).

        Args:
            dense: the model to go on from.
            index_sizes: `index_topk`, `index_head_dim` and `index_n_heads`.

        Raises:
            ValueError: sizes that do not fit the model, or its queries have no latent.
        """
        known = ("index_topk", "index_head_dim", "index_n_heads")
        if foreign := sorted(index_sizes.keys() - set(known)):
            raise ValueError(f"index_sizes may be {', '.join(known)}, got {', '.join(foreign)}")
        values = {**dense.config.to_dict(), "model_type": SparringSparseConfig.model_type}
        sparse = cls(SparringSparseConfig.from_dict({**values, **index_sizes}))
        absent = sparse.load_state_dict(dense.state_dict(), strict=False)
        assert not absent.unexpected_keys and all(".indexer." in k for k in absent.missing_keys)
        return sparse.to(dense.device, dense.dtype)

    def set_attention(self, kind: Literal["dense", "sparse"]) -> None:
        """Attend to every key, or to those the indexers select; while training, they learn in both.

        The two stages of 2512.02556, section 2.1.1: the warm-up is "dense", with
        `freeze_all_but_indexers`; then "sparse", with everything trainable.

        Raises:
            ValueError: there is no such kind.
        """
        if kind not in ("dense", "sparse"):
            raise ValueError(f"attention must be 'dense' or 'sparse', got {kind!r}")
        for layer in self.model.layers:
            layer.self_attn.is_sparse = kind == "sparse"
