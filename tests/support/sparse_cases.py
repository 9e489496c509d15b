"""What tests of sparse attention share: our model next to transformers' V3.2, and its cache.

Axes: B sequences, T tokens, S keys, H heads.
"""

import copy

import torch
from parity_cases import VOCAB
from torch import Tensor
from transformers.models.deepseek_v32 import DeepseekV32Config, DeepseekV32ForCausalLM
from weights import MATRIX_GAIN, largest_change, make_weights_matter, prompt_logprobs

from model.attention.cache import LatentCache
from model.attention.indexer import index_scores, select_keys
from model.attention.layout import token_layout
from model.attention.rope import rotations
from model.attention.sparse import SparseLatentAttention
from model.configuration import tiny_sparse_config
from model.modeling import SparringSparseForCausalLM


def sparse_model(
    seed: int = 0, gain: float = MATRIX_GAIN, **overrides: object
) -> SparringSparseForCausalLM:
    """Three layers with weights that matter."""
    config = tiny_sparse_config(VOCAB, **overrides)
    return make_weights_matter(SparringSparseForCausalLM(config), seed, gain)


def sparse_pair(
    overrides: dict, seed: int = 0, gain: float = MATRIX_GAIN
) -> tuple[SparringSparseForCausalLM, DeepseekV32ForCausalLM]:
    """Our model and transformers', with the same weights that matter."""
    ours = sparse_model(seed, gain, **overrides)
    reference = DeepseekV32ForCausalLM(DeepseekV32Config(**ours.config.to_dict()))
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def chunked_logits(
    model: torch.nn.Module, ids_BT: Tensor, mask_BT: Tensor | None, chunks: list[int]
) -> tuple[Tensor, LatentCache]:
    """Logits of all tokens, and the cache, when they come in chunks of these sizes."""
    cache, parts, end = LatentCache(model.config.num_hidden_layers, capacity=4), [], 0
    for size in chunks:
        start, end = end, end + size
        seen = None if mask_BT is None else mask_BT[:, :end]
        chunk = model(ids_BT[:, start:end], attention_mask=seen, past_key_values=cache)
        parts.append(chunk.logits)
    return torch.cat(parts, 1), cache


def cost_of_wrong_index_rope(model: SparringSparseForCausalLM, ids_BT: Tensor) -> float:
    """Largest change of a log-probability, in nats, if the indexer rotated neighbours.

    Rotating neighbours is rotating pairs (i, i + half) after permuting the rotated features, so
    the wrong mode is computed by the right model on permuted weights.
    """
    config, wrong = model.config, copy.deepcopy(model)
    order = torch.arange(config.qk_rope_head_dim).view(-1, 2).T.flatten()
    width = len(order)
    for layer in wrong.model.layers:
        indexer = layer.self_attn.indexer
        by_head = indexer.wq_b.weight.data.view(config.index_n_heads, config.index_head_dim, -1)
        by_head[:, :width] = by_head[:, :width][:, order]
        for matrix in (indexer.wk.weight, indexer.k_norm.weight, indexer.k_norm.bias):
            matrix.data[:width] = matrix.data[:width][order]
    return largest_change(prompt_logprobs(model, ids_BT), prompt_logprobs(wrong, ids_BT))


@torch.no_grad()
def layer_inputs(
    model: SparringSparseForCausalLM, ids_BT: Tensor
) -> list[tuple[SparseLatentAttention, Tensor, Tensor]]:
    """Of each layer: its attention, the normed stream it reads under the model's present kind of
    attention, and the rotations."""
    x_BTD = model.model.embed_tokens(ids_BT)
    layout = token_layout(x_BTD, None, None, 0)
    rotations_BT1P, found = rotations(model.config, layout.position_ids_BT), []
    for layer in model.model.layers:
        found.append((layer.self_attn, layer.input_layernorm(x_BTD), rotations_BT1P))
        x_BTD = layer(x_BTD, rotations_BT1P, layout)[0]
    return found


@torch.no_grad()
def scores_and_shares(
    attention: SparseLatentAttention, x_BTD: Tensor, rotations_BT1P: Tensor
) -> tuple[Tensor, Tensor]:
    """The indexer's scores and each head's dense causal attention: [B, T, S], [B, H, T, S]."""
    (nope, rope), q_latent = attention._queries(x_BTD, rotations_BT1P)
    latent, k_rope = attention._latents(x_BTD, rotations_BT1P, cached=False)
    k_nope, _ = attention._keys_and_values(latent)
    logits = torch.einsum("bthn,bshn->bhts", nope, k_nope)
    logits = (logits + torch.einsum("bthp,bsp->bhts", rope, k_rope)) * attention.scale
    causal = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    indexer = attention.indexer
    scores = index_scores(
        *indexer.queries(x_BTD, q_latent, rotations_BT1P), indexer.keys(x_BTD, rotations_BT1P)
    )
    return scores, logits.masked_fill(~causal, float("-inf")).softmax(-1)


def recalls(model: SparringSparseForCausalLM, ids_BT: Tensor) -> dict[str, list[float]]:
    """Share of the dense attention that falls on K keys a query, by layer, for three choices.

    The indexer's, the latest K keys', and that of the K keys with the most attention; over the
    queries that see more than K keys.
    """
    found: dict[str, list[float]] = {"indexer": [], "window": [], "best": []}
    model.set_attention("dense")
    for attention, x_BTD, rotations_BT1P in layer_inputs(model, ids_BT):
        scores, shares = scores_and_shares(attention, x_BTD, rotations_BT1P)
        shares, num_selected = shares.mean(1), attention.indexer.num_selected
        visible = shares > 0
        latest = torch.arange(ids_BT.shape[1]).float().expand_as(shares)
        for name, ranking in {"indexer": scores, "window": latest, "best": shares}.items():
            indices, valid = select_keys(ranking, visible, num_selected)
            kept = (shares.gather(-1, indices) * valid)[:, num_selected:].sum(-1)
            found[name].append(kept.mean().item())
    return found
