"""Passes over sequences of like length together, without the padding around them.

GRPO pads every prompt and completion of a batch to its longest. Sorted by length and cut into
chunks, each as wide as its own longest, a batch of uneven completions costs what its tokens cost.
Long ones run alone: where sequences of a pass begin or end apart, attention holds a mask of tokens
by tokens for each (`docs/experiments.md`, section 9). Leaves out what the passes are for
(`training/replay.py`).

Axes: B sequences, T tokens, padded on either side; N tokens of a pass.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from trl.trainer.utils import FusedCausalLMOutput

CHUNK_TOKENS = 1024  # what a further pass costs beside its tokens, in tokens
CHUNK_COUNTS = (1, 2, 4, 8, 16, 32, 64)
# About the width at which the mask of uneven sequences costs as much as all else (small, on CPU).
MASKED_TOKENS = 2048


class LengthSorted:
    """A model with TRL's fused head, which is called as that is, and runs a batch in chunks.

    Args:
        model: called once a chunk.
        agree: sums a tensor over processes, which must all choose as many chunks: a model that is
            wrapped for them communicates in each of its passes.

    Attributes:
        places: rows and columns of each pass so far, rows counted over all calls.
    """

    def __init__(self, model: nn.Module, agree: Callable[[Tensor], Tensor]) -> None:
        self.model, self.agree = model, agree
        self.places: list[tuple[Tensor, slice]] = []
        self.num_done = 0

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        routed_experts: Tensor | None = None,
        **kwargs: object,
    ) -> FusedCausalLMOutput:
        """As TRL's fused head; log-probabilities and entropies [B, T - 1], 0 at padding."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if routed_experts is not None:
            batch["routed_experts"] = routed_experts
        places = chunks(attention_mask, self.agree)
        self.places += [(rows + self.num_done, columns) for rows, columns in places]
        self.num_done += len(input_ids)
        outputs = [
            self.model(**{name: x[rows][:, columns] for name, x in batch.items()}, **kwargs)
            for rows, columns in places
        ]
        width = input_ids.shape[1] - 1
        entropies = [output.entropy for output in outputs if output.entropy is not None]
        balance = [output.aux_loss for output in outputs if output.aux_loss is not None]
        return FusedCausalLMOutput(
            log_probs=_spread([output.log_probs for output in outputs], places, width),
            entropy=_spread(entropies, places, width) if entropies else None,
            aux_loss=torch.stack(balance).mean() if balance else None,
        )

    def laid_out(self, passes: Sequence[Tensor], input_ids_BT: Tensor) -> Tensor:
        """What was seen of each pass's tokens, [N, ...] each, at their places, [B, T, ...].

        Tokens that no pass ran get -1.
        """
        laid = passes[0].new_full((*input_ids_BT.shape, *passes[0].shape[1:]), -1)
        for seen, (rows, columns) in zip(passes, self.places, strict=True):
            laid[rows, columns] = seen.unflatten(0, (len(rows), -1))
        return laid


def chunks(mask_BT: Tensor, agree: Callable[[Tensor], Tensor]) -> list[tuple[Tensor, slice]]:
    """Rows and columns of the passes that run a batch's real tokens at the least cost.

    All of as many rows, so that a mean over passes is one over sequences.
    """
    real_BT = mask_BT.bool()
    first_B = real_BT.int().argmax(1)
    last_B = mask_BT.shape[1] - real_BT.flip(1).int().argmax(1)
    order_B = last_B.argsort(stable=True)
    counts = [count for count in CHUNK_COUNTS if len(mask_BT) % count == 0]
    every = [_places(order_B, first_B, last_B, count) for count in counts]
    costs = [sum(_cost(real_BT[rows][:, columns]) for rows, columns in p) for p in every]
    return every[int(agree(torch.tensor(costs, device=mask_BT.device)).argmin())]


def _cost(real_RT: Tensor) -> float:
    """What a pass over these sequences costs, in tokens."""
    num_tokens, width = real_RT.numel(), real_RT.shape[1]
    mask = 0.0 if real_RT.all() else num_tokens * width / MASKED_TOKENS
    return num_tokens + mask + CHUNK_TOKENS


def _places(
    order_B: Tensor, first_B: Tensor, last_B: Tensor, count: int
) -> list[tuple[Tensor, slice]]:
    places = []
    for rows in order_B.chunk(count):
        first = int(first_B[rows].min())
        places.append((rows, slice(first, max(int(last_B[rows].max()), first + 2))))
    return places


def _spread(parts: Sequence[Tensor], places: Sequence[tuple[Tensor, slice]], width: int) -> Tensor:
    """Chunks' values of each next token, [rows, columns - 1], at their places, [B, T - 1]."""
    padded = [
        nn.functional.pad(part, (columns.start, width - columns.stop + 1))
        for part, (_, columns) in zip(parts, places, strict=True)
    ]
    order_B = torch.cat([rows for rows, _ in places])
    return torch.cat(padded)[order_B.argsort()]
