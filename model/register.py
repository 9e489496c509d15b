"""Makes transformers' Auto classes build our model for `deepseek_v3` and `deepseek_v32`."""

from transformers import AutoConfig, AutoModelForCausalLM

from model.checkpoint.naming import register_conversion
from model.configuration import SparringMoeConfig, SparringSparseConfig
from model.modeling import SparringMoeForCausalLM, SparringSparseForCausalLM

_CLASSES = (
    (SparringMoeConfig, SparringMoeForCausalLM),
    (SparringSparseConfig, SparringSparseForCausalLM),
)


def register() -> None:
    """Override the built-in DeepSeek classes in this process; safe to call again."""
    for config_class, model_class in _CLASSES:
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
        register_conversion(model_class.__name__)
