"""Random checkpoints whose completions are exactly as long as wanted, or end on their own.

The length is a property of the weights, so that no sampler is touched: feature 0 of the residual
stream is kept positive, every other part of the model is blind to it, and it alone decides the
logit of the end. Leaves out anything that a task could be learned with.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 0
LONGEST = 20480  # tokens that the dense models have positions for
SIZES = ("tiny", "small", "medium")  # 0.7M, 2.5M and 20M parameters; the demo's is tiny
MOE: Mapping[str, dict[str, int]] = {
    "tiny": {},
    "small": {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 128},
    "medium": {
        "hidden_size": 512, "intermediate_size": 1024, "moe_intermediate_size": 256,
        "num_hidden_layers": 6,
    },
}  # fmt: skip
DENSE: Mapping[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 3},
    "small": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3},
    "medium": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6},
}
END_FEATURE = 0.05  # of the residual stream
NEVER = -100.0  # times that feature, normalised: a logit below -50
# p with which a token ends a completion of at most L: (1 - exp(-pL)) / pL = 1/2 at pL = 1.594.
ENDING_RATE = 1.594


def make_checkpoint(folder: str, family: str, size: str, mean_of: int | None) -> int:
    """Save a random model and its tokenizer; returns the model's number of parameters.

    Args:
        folder: where.
        family: "moe" (ours) or "dense" (Llama).
        size: one of `SIZES`.
        mean_of: None: no completion ends; else completions of at most so many tokens end at
            roughly geometric lengths, whose mean is about half of it.
    """
    from transformers import set_seed

    from pipelines.policy.tokenizer import character_tokenizer

    set_seed(SEED)
    tokenizer = character_tokenizer()
    policy = (_moe if family == "moe" else _dense)(tokenizer, size)
    _isolate_end(policy, tokenizer.eos_token_id, NEVER)
    if mean_of is not None:
        probability = ENDING_RATE / mean_of
        _isolate_end(policy, tokenizer.eos_token_id, _end_weight(policy, tokenizer, probability))
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in policy.parameters())


def _moe(tokenizer: "PreTrainedTokenizerBase", size: str) -> "PreTrainedModel":
    from model.configuration import tiny_config
    from model.modeling import SparringMoeForCausalLM

    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return SparringMoeForCausalLM(tiny_config(len(tokenizer), **ids, **MOE[size]))


def _dense(tokenizer: "PreTrainedTokenizerBase", size: str) -> "PreTrainedModel":
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer), num_attention_heads=4, max_position_embeddings=LONGEST,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None, tie_word_embeddings=False, **DENSE[size],
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _isolate_end(policy: "PreTrainedModel", eos_id: int, end_weight: float) -> None:
    """Keep feature 0 of the residual stream constant, and let it count for the end alone."""
    import torch

    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if name.endswith("experts.down_proj"):
                weight[:, 0] = 0
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                weight[0] = 0
            elif name.endswith(("gate.weight", "lm_head.weight")):
                weight[:, 0] = 0
        policy.model.embed_tokens.weight[:, 0] = END_FEATURE
        policy.lm_head.weight[eos_id, 0] = end_weight


def _end_weight(
    policy: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", probability: float
) -> float:
    """The weight of feature 0 that gives the end this probability on random text, on average."""
    import torch

    ids_BT = torch.randint(len(tokenizer), (32, 64))
    eos_id = tokenizer.eos_token_id
    with torch.no_grad():
        logits_BTV = policy.eval()(input_ids=ids_BT).logits
    own_BT = logits_BTV[..., eos_id] / NEVER  # nearly feature 0, normalised
    others_BT = logits_BTV.index_fill(-1, torch.tensor([eos_id]), -torch.inf).logsumexp(-1)
    wanted_BT = others_BT + torch.tensor(probability / (1 - probability)).log()
    return float((wanted_BT / own_BT).mean())
