"""What parity tests share: our model next to transformers', and batches to run both on.

The reference is imported from `transformers.models`: through the Auto classes we would be
compared with ourselves.

Axes: B sequences, T tokens.
"""

import torch
from torch import Tensor
from transformers.models.deepseek_v3 import DeepseekV3Config, DeepseekV3ForCausalLM
from weights import MATRIX_GAIN, make_weights_matter

from model.configuration import tiny_config
from model.modeling import SparringMoeForCausalLM

VOCAB = 40
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.8,
}


def pair(
    overrides: dict, seed: int = 0, dtype: torch.dtype = torch.float32, gain: float = MATRIX_GAIN
) -> tuple[SparringMoeForCausalLM, DeepseekV3ForCausalLM]:
    """Our model and transformers', with the same weights that matter."""
    ours = make_weights_matter(SparringMoeForCausalLM(tiny_config(VOCAB, **overrides)), seed, gain)
    saved = ours.config.to_dict()
    reference = DeepseekV3ForCausalLM(DeepseekV3Config(**saved))
    reference.load_state_dict(ours.state_dict())
    return ours.to(dtype), reference.to(dtype)


def tokens(num_sequences: int, num_tokens: int, seed: int = 0) -> Tensor:
    """Random token ids [B, T]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (num_sequences, num_tokens), generator=generator)


def padding_mask(lengths: list[int], num_tokens: int, side: str) -> Tensor:
    """1 for the first (or last) `lengths` of each row."""
    order_T = torch.arange(num_tokens)
    real = torch.stack([order_T < length for length in lengths]).long()
    return real.flip(-1) if side == "left" else real
