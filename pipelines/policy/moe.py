"""Our mixture of experts inside a policy, adapted or not.

Leaves out the model itself (`model/modeling.py`).
"""

import math

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from model.modeling import SparringMoeForCausalLM

Policy = PreTrainedModel | PeftModel


def moe_of(policy: nn.Module) -> SparringMoeForCausalLM | None:
    """Our model in a policy, adapted or not; None if it is another architecture."""
    base = policy.get_base_model() if isinstance(policy, PeftModel) else policy
    return base if isinstance(base, SparringMoeForCausalLM) else None


def routing_of(policy: nn.Module) -> SparringMoeForCausalLM | None:
    """Our model in a policy, if a layer of its decoder routes tokens; None if none does."""
    moe = moe_of(policy)
    routes = moe is not None and min(moe.routers(), default=math.inf) < moe.config.num_hidden_layers
    return moe if routes else None


def freeze_multi_token_layers(policy: nn.Module) -> None:
    """Leave them as they are: no loss of GRPO reaches them, and DDP would wait for gradients."""
    moe = moe_of(policy)
    if moe is not None:
        for layer in moe.model.layers[moe.config.num_hidden_layers :]:
            layer.requires_grad_(False)
