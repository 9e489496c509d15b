"""A DeepSeek-V3 style mixture-of-experts language model (torch only; no rewards, no data).

Importing this package registers the model with transformers' Auto classes.
"""

from model.checkpoint.naming import load_checkpoint_tensors, named_checkpoint_tensors
from model.configuration import (
    SparringMoeConfig,
    SparringSparseConfig,
    tiny_config,
    tiny_sparse_config,
)
from model.modeling import SparringMoeForCausalLM, SparringSparseForCausalLM
from model.register import register

__all__ = [
    "SparringMoeConfig",
    "SparringMoeForCausalLM",
    "SparringSparseConfig",
    "SparringSparseForCausalLM",
    "load_checkpoint_tensors",
    "named_checkpoint_tensors",
    "tiny_config",
    "tiny_sparse_config",
]

register()
