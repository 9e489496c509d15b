"""A group's prompt is read once, with gradients, and each of its completions attends to that.

GRPO's batches repeat a prompt for every sample of it. A pass over the distinct prompts fills a
cache of keys and values through which gradients flow; a second pass runs the completions on it. The
numbers are those of one pass over whole sequences, but for dropout, of which a group's prompt then
has one mask. Models whose rotations depend on a pass's length are left alone, and our own mixture
of experts: its routers' loads and replayed routes are counted by the token. Leaves out when it
pays (`training/lengths.py`).

Axes: R sequences of a pass, U distinct prompts, P tokens before the first one that is learned from,
T tokens.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from trl.trainer.utils import FusedCausalLMOutput

from pipelines.policy.moe import Policy, moe_of

NO_LABEL = -100
CACHED = (DynamicLayer, DynamicSlidingWindowLayer)  # append keys and values out of place
BY_LENGTH = {"dynamic", "longrope"}  # kinds of RoPE whose frequencies follow the longest position


@dataclass(frozen=True)
class Prompts:
    """What the sequences of a pass begin with.

    Attributes:
        length: P, all of as many columns, padding on the left included; 0 if there is none.
        first_U: a row of each distinct one.
        place_R: each row's among them.
    """

    length: int
    first_U: Tensor
    place_R: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> "Prompts":
        """Those of a batch with "input_ids", "attention_mask" and "labels", [R, T] each."""
        learned_T = (batch["labels"] != NO_LABEL).any(0)
        length = int(learned_T.int().argmax()) if learned_T.any() else 0
        ids, mask = batch["input_ids"][:, :length], batch["attention_mask"][:, :length]
        seen: dict[tuple[int, ...], int] = {}
        first, place = list[int](), list[int]()
        for row, tokens in enumerate(ids.masked_fill(mask == 0, -1).tolist()):
            if (prompt := tuple(tokens)) not in seen:
                seen[prompt] = len(first)
                first.append(row)
            place.append(seen[prompt])
        return cls(length, *(torch.tensor(rows, device=ids.device) for rows in (first, place)))


def can_share(policy: Policy) -> bool:
    """Whether two passes on a cache are one pass for a policy, and its losses those of its tokens.

    It must have the plain cache, and rotate a key alike however long the pass is.
    """
    base = policy.get_base_model() if isinstance(policy, PeftModel) else policy
    config = base.config.get_text_config()
    return (
        moe_of(policy) is None
        and not getattr(config, "output_router_logits", False)
        and not BY_LENGTH & set(_kinds_of_rope(config))
        and "logits_to_keep" in inspect.signature(type(base).forward).parameters
        and all(type(layer) in CACHED for layer in DynamicCache(config=base.config).layers)
    )


def _kinds_of_rope(config: PreTrainedConfig) -> Iterator[str]:
    """Of all layers, or of each type of them."""
    found = getattr(config, "rope_parameters", None) or {}
    for table in (found, *found.values()):
        if isinstance(table, Mapping):
            yield str(table.get("rope_type", "default"))


def run_on_prompts(
    model: nn.Module,
    config: PreTrainedConfig,
    batch: Mapping[str, Tensor],
    prompts: Prompts,
    **kwargs: object,
) -> FusedCausalLMOutput:
    """As TRL's fused head over whole sequences; log-probabilities and entropies [R, T - 1].

    Args:
        model: with TRL's fused head, perhaps wrapped; called twice.
        config: its own.
        batch: "input_ids", "attention_mask", "labels", [R, T] each.
        prompts: the batch's, of two tokens or more.
        kwargs: of the call for the completions.
    """
    ids_RT, mask_RT, labels_RT = (batch[n] for n in ("input_ids", "attention_mask", "labels"))
    known = prompts.length - 1  # the last one's output predicts the first token that is learned
    cache = DynamicCache(config=config)
    model(
        input_ids=ids_RT[prompts.first_U, :known],
        attention_mask=mask_RT[prompts.first_U, :known],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    assert cache.get_seq_length() == known, "the model keeps no cache while it trains"
    cache.batch_select_indices(prompts.place_R)
    output = model(
        input_ids=ids_RT[:, known:],
        attention_mask=mask_RT,
        labels=labels_RT[:, known:],
        past_key_values=cache,
        **kwargs,
    )
    for name in ("log_probs", "entropy"):
        values = getattr(output, name)
        if values is not None:
            setattr(output, name, nn.functional.pad(values, (known, 0)))
    return output
