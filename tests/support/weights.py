"""Weights that matter: a model on which a wrong rope mode or a swapped expert costs nats.

A freshly initialised model hides such errors, because its attention and experts hardly move the
logits. Here every matrix gets a gain near 1, so that each part does its share and float32 still
agrees to `ROUNDING`.

Axes: B sequences, T tokens, H heads.
"""

import copy

import torch
from torch import Tensor

from model.modeling import SparringMoeForCausalLM

MATRIX_GAIN = 1.3  # standard deviation of a matrix's output for a unit input
HEAD_GAIN = 1.3
# How far the float32 logits of two right programs may lie apart on any processor: twice as far as
# one may lie from float64's, to which `test_parity.py` holds both programs.
ROUNDING = 3e-5


@torch.no_grad()
def make_weights_matter(
    model: SparringMoeForCausalLM, seed: int = 0, gain: float = MATRIX_GAIN
) -> SparringMoeForCausalLM:
    """Redraw every parameter and router bias in place; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("e_score_correction_bias"):
            noise *= 0.1
        elif tensor.ndim == 1:
            noise = 1 + 0.1 * noise
        elif "embed_tokens" not in name:
            noise *= (HEAD_GAIN if name == "lm_head.weight" else gain) * tensor.shape[-1] ** -0.5
        tensor.copy_(noise)
    return model


@torch.no_grad()
def prompt_logprobs(model: torch.nn.Module, ids_BT: Tensor) -> Tensor:
    """Log-probability of each token but the first, given those before it: [B, T - 1]."""
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
    return logits_BTV.log_softmax(-1).gather(-1, ids_BT[:, 1:, None]).squeeze(-1)


def cost_of_wrong_rope(model: SparringMoeForCausalLM, ids_BT: Tensor) -> float:
    """Largest change of a log-probability, in nats, if RoPE paired feature i with i + half.

    Rotating pairs (i, i + half) is rotating neighbours after permuting the rotated features, so
    the wrong mode is computed by the right model on permuted weights.
    """
    config = model.config
    width = config.qk_rope_head_dim
    order = torch.arange(width).view(2, -1).T.flatten()
    wrong = copy.deepcopy(model)
    for layer in wrong.model.layers:
        attention = layer.self_attn
        query = attention.q_proj if config.q_lora_rank is None else attention.q_b_proj
        rows_H = query.weight.data.view(config.num_attention_heads, config.qk_head_dim, -1)
        rows_H[:, -width:] = rows_H[:, -width:][:, order]
        rows = attention.kv_a_proj_with_mqa.weight.data
        rows[-width:] = rows[-width:][order]
    return largest_change(prompt_logprobs(model, ids_BT), prompt_logprobs(wrong, ids_BT))


def cost_of_swapped_experts(model: SparringMoeForCausalLM, ids_BT: Tensor) -> float:
    """Largest change of a log-probability, in nats, if experts 0 and 1 of each layer swapped."""
    wrong = copy.deepcopy(model)
    for name, tensor in wrong.state_dict().items():
        if ".experts." in name:
            tensor[[0, 1]] = tensor[[1, 0]]
    return largest_change(prompt_logprobs(model, ids_BT), prompt_logprobs(wrong, ids_BT))


def largest_change(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference."""
    return (left - right).abs().max().item()
