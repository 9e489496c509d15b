"""Makes transformers' Auto classes build our model for `model_type: deepseek_v3`."""

from transformers import AutoConfig, AutoModelForCausalLM

from model.checkpoint import register_conversion
from model.configuration import SparringMoeConfig
from model.modeling import SparringMoeForCausalLM


def register() -> None:
    """Override the built-in DeepSeek-V3 classes in this process; safe to call again."""
    AutoConfig.register(SparringMoeConfig.model_type, SparringMoeConfig, exist_ok=True)
    AutoModelForCausalLM.register(SparringMoeConfig, SparringMoeForCausalLM, exist_ok=True)
    register_conversion(SparringMoeForCausalLM.__name__)
