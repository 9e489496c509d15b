"""What prompts have in common is read once, with gradients, and each sequence attends to that.

GRPO's batches repeat a prompt for every sample of it, and every critique's prompt begins with the
same instruction. A pass over the distinct prompts, or over the common beginning of all, fills a
cache of keys and values through which gradients flow; a second pass runs the rest on it. The
numbers are those of one pass over whole sequences, but for dropout, of which a group's prompt then
has one mask. Models whose rotations depend on a pass's length are left alone, and our own mixture
of experts: its routers' loads and replayed routes are counted by the token. Leaves out when it
pays (`training/lengths.py`).

Axes: R sequences of a pass, U distinct prompts, P tokens before the first one that is learned from,
K tokens that are read first, T tokens.
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
    """What is read first, and where each sequence of a pass goes on from there.

    Attributes:
        first_U: a row of each different one.
        place_R: each row's among them.
        read: the columns of `first_U` that are read first, padding on the left included.
        rest: the first column of the second pass.
        begun_R: the first column that a row does not share.
    """

    first_U: Tensor
    place_R: Tensor
    read: slice
    rest: int
    begun_R: Tensor

    @property
    def num_read(self) -> int:
        """Columns of the first pass."""
        return self.read.stop - self.read.start

    @classmethod
    def whole(cls, batch: Mapping[str, Tensor]) -> "Prompts | None":
        """The different prompts of a batch, but for the last token, which predicts; None if short.

        Args:
            batch: "input_ids", "attention_mask" and "labels", [R, T] each, padded on the left.
        """
        ids_RT, length = batch["input_ids"], num_prompt(batch["labels"])
        if length < 2:
            return None
        shown_RP = ids_RT[:, :length].masked_fill(batch["attention_mask"][:, :length] == 0, -1)
        seen: dict[tuple[int, ...], int] = {}
        first, place = list[int](), list[int]()
        for row, tokens in enumerate(shown_RP.tolist()):
            if (prompt := tuple(tokens)) not in seen:
                seen[prompt] = len(first)
                first.append(row)
            place.append(seen[prompt])
        first_U, place_R = (torch.tensor(rows, device=ids_RT.device) for rows in (first, place))
        known = length - 1
        return cls(first_U, place_R, slice(0, known), known, torch.full_like(place_R, known))

    @classmethod
    def opening(cls, batch: Mapping[str, Tensor]) -> "Prompts | None":
        """What every prompt of a batch begins with; None if that is less than two tokens."""
        ids_RT, mask_RT = batch["input_ids"], batch["attention_mask"]
        length, start_R = num_prompt(batch["labels"]), mask_RT.int().argmax(1)
        most = length - 1 - int(start_R.max())  # each row's last prompt token is its own
        if most < 2:
            return None
        columns_RK = start_R[:, None] + torch.arange(most, device=ids_RT.device)
        shown_RK = ids_RT.gather(1, columns_RK)
        alike_K = (shown_RK == shown_RK[0]).all(0).int().cumprod(0)
        num = int(alike_K.sum())
        if num < 2:
            return None
        none_R, first = torch.zeros_like(start_R), int(start_R[0])
        read = slice(first, first + num)
        return cls(none_R[:1], none_R, read, int(start_R.min()) + num, start_R + num)


def num_prompt(labels_RT: Tensor) -> int:
    """P, the columns before the first one that is learned from; 0 if there is none."""
    learned_T = (labels_RT != NO_LABEL).any(0)
    return int(learned_T.int().argmax()) if learned_T.any() else 0


def can_open(config: PreTrainedConfig) -> bool:
    """Whether prompts of different lengths may share their beginning.

    There is padding between it and the rest of a short one, which a window of columns would count,
    as would biases by distance; positions are moved, as rotations allow and learned ones do not.
    """
    rotates = bool(getattr(config.get_text_config(), "rope_parameters", None))
    return rotates and all(
        type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers
    )


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
        prompts: the batch's.
        kwargs: of the call for the rest.
    """
    ids_RT, mask_RT, labels_RT = (batch[n] for n in ("input_ids", "attention_mask", "labels"))
    rest, read_UK = prompts.rest, mask_RT[prompts.first_U, prompts.read]
    columns_T = torch.arange(rest, ids_RT.shape[1], device=ids_RT.device)
    own_RT = mask_RT[:, rest:] * (columns_T >= prompts.begun_R[:, None])
    places: dict[str, Tensor] = {}
    if (prompts.begun_R != rest).any():  # else columns are positions, as they are in one pass
        after_RT = columns_T - prompts.begun_R[:, None]
        places["position_ids"] = (prompts.num_read + after_RT).clamp(min=0)
    seen_RT = torch.cat([read_UK[prompts.place_R], own_RT], 1)
    cache = DynamicCache(config=config)
    model(
        input_ids=ids_RT[prompts.first_U, prompts.read],
        attention_mask=read_UK,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    assert cache.get_seq_length() == prompts.num_read, "the model keeps no cache while it trains"
    cache.batch_select_indices(prompts.place_R)
    output = model(
        input_ids=ids_RT[:, rest:],
        attention_mask=seen_RT,
        **places,
        labels=labels_RT[:, rest:],
        past_key_values=cache,
        **kwargs,
    )
    for name in ("log_probs", "entropy"):
        values = getattr(output, name)
        if values is not None:
            setattr(output, name, nn.functional.pad(values, (rest, 0)))
    return output
