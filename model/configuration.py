"""The model's configuration: DeepSeek-V3's keys, spelled exactly, with what cannot work refused.

Holds `SparringMoeConfig`, `SparringSparseConfig` (V3.2's sparse attention) and tiny ones. A
saved config says `DeepseekV3ForCausalLM` or `DeepseekV32ForCausalLM`, so that stock transformers
and stock vLLM load a checkpoint without our code.
"""

import difflib
from dataclasses import fields
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from model.rope_parameters import check_rope, is_number

LATENT_NORM_EPS = 1e-6  # transformers fixes it in the two latent norms; vLLM uses rms_norm_eps

# Keys that DeepSeek-V3 configs may set, of which this model computes one value only.
_ONLY_VALUE: dict[str, object] = {
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_interleave": True,
    "moe_layer_freq": 1,
    "seq_aux": True,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "moe_router_dtype": "float32",
    "rms_norm_eps": LATENT_NORM_EPS,
}
# Integers, and the least that each may be.
_LEAST: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size"), 1),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "n_routed_experts"), 1),
    **dict.fromkeys(("num_experts_per_tok", "n_shared_experts", "n_group", "topk_group"), 1),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim"), 1),
    **dict.fromkeys(("v_head_dim", "max_position_embeddings"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_nextn_predict_layers", "pad_token_id"), 0),
    **dict.fromkeys(("index_topk", "index_head_dim", "index_n_heads"), 1),
}
_MAY_BE_NONE = ("q_lora_rank", "pad_token_id")
_NOT_NEGATIVE = ("routed_scaling_factor", "initializer_range", "mtp_loss_weight", "aux_loss_alpha")
_WHY: dict[str, str] = {
    "tie_word_embeddings": "vLLM ignores tying for this architecture without an error",
    "topk_method": "another value makes vLLM drop the router bias",
    "scoring_func": "another value makes vLLM apply a softmax",
    "rms_norm_eps": "transformers fixes it in the latent norms and vLLM does not",
    "seq_aux": "the balance loss is taken within each sequence",
}


class SparringMoeConfig(PreTrainedConfig):
    """Shapes and routing of one model (DeepSeek-V3, arXiv:2412.19437, section 2.1).

    Every width is in numbers of features. `qk_nope_head_dim + qk_rope_head_dim` is the width of
    a query head, of which the last part is rotated. Layers `0..first_k_dense_replace-1` have a
    dense feed-forward of `intermediate_size`; the others have `n_routed_experts` experts of
    `moe_intermediate_size`, in `n_group` groups of which a token may use `topk_group`.
    `rope_parameters` has `rope_type` "default" or "yarn" and `rope_theta`. While training,
    `aux_loss_alpha` weighs the sequence-wise balance loss (Eqs. 17-20) and `mtp_loss_weight` that
    of the `num_nextn_predict_layers` multi-token prediction layers (Eq. 25).

    Raises:
        ValueError: a value, or a combination, that the model cannot compute.
    """

    model_type = "deepseek_v3"
    disk_architecture: ClassVar[str] = "DeepseekV3ForCausalLM"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {"num_local_experts": "n_routed_experts"}

    vocab_size: int = 129280
    hidden_size: int = 7168
    intermediate_size: int = 18432
    moe_intermediate_size: int = 2048
    num_hidden_layers: int = 61
    num_attention_heads: int = 128
    num_key_value_heads: int | None = None
    n_shared_experts: int = 1
    n_routed_experts: int = 256
    num_experts_per_tok: int = 8
    n_group: int = 8
    topk_group: int = 4
    routed_scaling_factor: float = 2.5
    norm_topk_prob: bool = True
    first_k_dense_replace: int = 3
    kv_lora_rank: int = 512
    q_lora_rank: int | None = 1536
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    max_position_embeddings: int = 4096
    rope_parameters: dict | None = None
    initializer_range: float = 0.02
    rms_norm_eps: float = LATENT_NORM_EPS
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    attention_bias: bool = False
    attention_dropout: float = 0.0
    rope_interleave: bool = True
    moe_layer_freq: int = 1
    num_nextn_predict_layers: int = 0
    mtp_loss_weight: float = 0.3
    aux_loss_alpha: float = 0.0
    seq_aux: bool = True
    topk_method: str = "noaux_tc"
    scoring_func: str = "sigmoid"
    moe_router_dtype: str = "float32"

    def __post_init__(self, **kwargs: object) -> None:
        self._check_numbers()
        # transformers fills in what a rope leaves out, with the stretched length for the original.
        check_rope(self.rope_parameters or kwargs.get("rope_scaling") or {})
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.qk_head_dim = self.qk_nope_head_dim + self.qk_rope_head_dim
        self.head_dim = self.qk_rope_head_dim  # transformers and vLLM size RoPE by it
        for derived in ("qk_head_dim", "head_dim"):
            if kwargs.pop(derived, None) not in (None, getattr(self, derived)):
                raise ValueError(f"{derived} must be {getattr(self, derived)}: leave it out")
        super().__post_init__(**kwargs)
        self._check_fixed_values()
        self._check_sizes()
        self._check_routing()
        check_rope(self.rope_parameters)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', but a config of another architecture is an error, not a warning."""
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"the config has model_type {model_type!r}, expected {cls.model_type!r}: "
                "this is a checkpoint of another architecture"
            )
        # transformers sets the overrides of a load afterwards, past every check.
        own = {field.name for field in fields(cls)} - {"dtype"}
        given = {key: kwargs.pop(key) for key in own & kwargs.keys()}
        return super().from_dict({**config_dict, **given}, **kwargs)

    def to_dict(self) -> dict[str, object]:
        """The config as JSON-able values, naming DeepSeek-V3's architecture."""
        return {**super().to_dict(), "architectures": [self.disk_architecture]}

    @property
    def num_eligible_experts(self) -> int:
        """Experts in the chosen groups: the most that a token can have."""
        return self.topk_group * (self.n_routed_experts // self.n_group)

    def _check_fixed_values(self) -> None:
        for key, wanted in _ONLY_VALUE.items():
            value = getattr(self, key)
            if value != wanted:
                why = _WHY.get(key, "this model computes nothing else")
                raise ValueError(f"{key} must be {wanted!r}, got {value!r}: {why}")

    def _check_numbers(self) -> None:
        own = {field.name for field in fields(self)}
        for key, least in _LEAST.items():
            if key not in own or (key in _MAY_BE_NONE and getattr(self, key) is None):
                continue
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise ValueError(f"{key} must be an integer of at least {least}, got {value!r}")
        for key in _NOT_NEGATIVE:
            value = getattr(self, key)
            if not is_number(value) or value < 0:
                raise ValueError(f"{key} must be a number of at least 0, got {value!r}")
        for key in ("norm_topk_prob", "use_cache"):
            if type(getattr(self, key)) is not bool:
                raise ValueError(f"{key} must be true or false, got {getattr(self, key)!r}")

    def _check_sizes(self) -> None:
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise ValueError(
                f"pad_token_id must be below vocab_size={self.vocab_size}, got {self.pad_token_id}"
            )
        if self.qk_rope_head_dim % 2:
            raise ValueError(
                f"qk_rope_head_dim must be even, got {self.qk_rope_head_dim}: RoPE rotates pairs"
            )
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(
                f"num_key_value_heads must equal num_attention_heads ({self.num_attention_heads}), "
                f"got {self.num_key_value_heads}: leave it out"
            )
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace must be at most num_hidden_layers="
                f"{self.num_hidden_layers}, got {self.first_k_dense_replace}"
            )

    def _check_routing(self) -> None:
        experts, groups = self.n_routed_experts, self.n_group
        if experts % groups:
            raise ValueError(
                f"n_group must divide n_routed_experts, got {groups} groups of {experts} experts"
            )
        if experts // groups < 2:
            raise ValueError(
                f"a group needs at least 2 experts (its score is the sum of its top 2), got "
                f"{experts // groups}: lower n_group={groups} or raise n_routed_experts={experts}"
            )
        if self.topk_group > groups:
            raise ValueError(f"topk_group must be at most n_group={groups}, got {self.topk_group}")
        eligible = self.num_eligible_experts
        if self.num_experts_per_tok > eligible:
            raise ValueError(
                f"num_experts_per_tok must be at most {eligible}, the experts in the "
                f"topk_group={self.topk_group} chosen groups, got {self.num_experts_per_tok}"
            )


class SparringSparseConfig(SparringMoeConfig):
    """As `SparringMoeConfig`, with V3.2's lightning indexer in every attention layer.

    The indexer has `index_n_heads` heads of width `index_head_dim`, and each query attends to the
    `index_topk` keys that it scores highest (DeepSeek-V3.2, arXiv:2512.02556, section 2.1).

    Raises:
        ValueError: a value, or a combination, that the model cannot compute.
    """

    model_type = "deepseek_v32"
    disk_architecture: ClassVar[str] = "DeepseekV32ForCausalLM"

    index_topk: int = 2048
    index_head_dim: int = 128
    index_n_heads: int = 64

    def _check_sizes(self) -> None:
        super()._check_sizes()
        if self.index_head_dim < self.qk_rope_head_dim:
            raise ValueError(
                f"index_head_dim must be at least qk_rope_head_dim={self.qk_rope_head_dim}, of "
                f"which it rotates as many features, got {self.index_head_dim}"
            )
        if self.q_lora_rank is None:
            raise ValueError(
                "q_lora_rank must be set for sparse attention: the indexer reads the query latent"
            )


def tiny_config(vocab_size: int, **overrides: object) -> SparringMoeConfig:
    """A model of about 0.7M parameters with every part of the architecture, for CPU runs.

    Args:
        vocab_size: number of tokens.
        overrides: any field of `SparringMoeConfig`.

    Raises:
        ValueError: an override is not a field, or the config cannot work.
    """
    return _tiny(SparringMoeConfig, vocab_size, overrides)


def tiny_sparse_config(vocab_size: int, **overrides: object) -> SparringSparseConfig:
    """As `tiny_config`, with sparse attention to 16 keys.

    Args:
        vocab_size: number of tokens.
        overrides: any field of `SparringSparseConfig`.

    Raises:
        ValueError: an override is not a field, or the config cannot work.
    """
    sparse = {"q_lora_rank": 48, "index_topk": 16, "index_head_dim": 32, "index_n_heads": 8}
    return _tiny(SparringSparseConfig, vocab_size, {**sparse, **overrides})


def _tiny(config_class: type, vocab_size: int, overrides: dict[str, object]) -> Any:
    known = {field.name for field in fields(config_class)}
    for name in overrides.keys() - known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise ValueError(f"the config has no field {name!r}: did you mean {nearest!r}?")
    tiny: dict[str, object] = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 32,
        "q_lora_rank": None,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "max_position_embeddings": 512,
    }
    return config_class(vocab_size=vocab_size, **{**tiny, **overrides})
