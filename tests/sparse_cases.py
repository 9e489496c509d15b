"""What tests of sparse attention share: our model next to transformers' V3.2, and its cache.

Axes: B sequences, T tokens, S keys, H heads.
"""

import copy

import torch
from parity_cases import VOCAB
from torch import Tensor
from transformers.models.deepseek_v32 import DeepseekV32Config, DeepseekV32ForCausalLM
from weights import largest_change, make_weights_matter, prompt_logprobs

from model import SparringSparseForCausalLM, tiny_sparse_config
from model.cache import LatentCache


def sparse_model(seed: int = 0, **overrides: object) -> SparringSparseForCausalLM:
    """Three layers with weights that matter."""
    config = tiny_sparse_config(VOCAB, **overrides)
    return make_weights_matter(SparringSparseForCausalLM(config), seed)


def sparse_pair(
    overrides: dict, seed: int = 0
) -> tuple[SparringSparseForCausalLM, DeepseekV32ForCausalLM]:
    """Our model and transformers', with the same weights that matter."""
    ours = sparse_model(seed, **overrides)
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
