"""Passes over sequences of like length together, without the padding around them.

GRPO pads every prompt and completion of a batch to its longest. Sorted by length and cut into
chunks, each as wide as its own longest, a batch of uneven completions costs what its tokens cost.
A prompt is read once for its group, or what all prompts begin with once for all, where that costs
less (`training/shared_prompts.py`).
Long ones run alone: where sequences of a pass begin or end apart, attention holds a mask of tokens
by tokens for each (`docs/experiments.md`, section 9). Leaves out what the passes are for
(`training/replay.py`).

Axes: B sequences, T tokens, padded on either side; N tokens of a pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from trl.trainer.utils import FusedCausalLMOutput

from pipelines.training.shared_prompts import Prompts, can_open, run_on_prompts

# What a further pass costs beside its tokens, in tokens: of the demo's model on CPU, where it is
# the calls of its three layers beside 0.4M parameters a token; about that on an accelerator, too.
CHUNK_TOKENS = 1024
CHUNK_PARAMETERS_PER_LAYER = CHUNK_TOKENS * 0.4e6 / 3
CHUNK_COUNTS = (1, 2, 4, 8, 16, 32, 64)
# About the width at which the mask of uneven sequences costs as much as all else (small, on CPU).
MASKED_TOKENS = 2048


@dataclass(frozen=True)
class Costs:
    """What passes of a model cost beside their tokens, all in tokens.

    Attributes:
        further_pass: of every pass.
        head: the share of a token's cost that is the head's, which a pass over prompts leaves out.
    """

    further_pass: float = CHUNK_TOKENS
    head: float = 0.0

    @classmethod
    def of(cls, policy: nn.Module, num_layers: int) -> "Costs":
        """Of a policy where it lies now; a wide model's tokens cost more than its calls do on CPU.

        On an accelerator TRL's head runs on the learned tokens alone.
        """
        parameters = list(policy.parameters())
        if not parameters or parameters[0].device.type != "cpu":
            return cls()
        total = sum(p.numel() for p in parameters)
        head = policy.get_output_embeddings()
        calls = CHUNK_PARAMETERS_PER_LAYER * num_layers / total
        return cls(min(CHUNK_TOKENS, calls), 0.0 if head is None else head.weight.numel() / total)


USUAL = Costs()


@dataclass(frozen=True)
class Chunk:
    """One pass: its rows and columns of a batch, and the prompts that it reads first."""

    rows: Tensor
    columns: slice
    prompts: Prompts | None = None

    def of(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its part of each tensor, [B, T, ...]."""
        return {name: x[self.rows][:, self.columns] for name, x in batch.items()}


class LengthSorted:
    """A model with TRL's fused head, which is called as that is, and runs a batch in chunks.

    Args:
        model: called once a chunk, or twice where the chunk's prompts are read first.
        agree: sums a tensor over processes, which must all choose as many chunks: a model that is
            wrapped for them communicates in each of its passes.
        shared_by: the config of a model whose completions may share their prompt's pass
            (`shared_prompts.can_share`); None for one whose may not.
        costs: of the model's passes.

    Attributes:
        places: rows and columns of each pass so far, rows counted over all calls.
    """

    def __init__(
        self,
        model: nn.Module,
        agree: Callable[[Tensor], Tensor],
        shared_by: PreTrainedConfig | None = None,
        costs: Costs = USUAL,
    ) -> None:
        self.model, self.agree, self.shared_by, self.costs = model, agree, shared_by, costs
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
        shares = self.shared_by is not None
        opens = shares and can_open(self.shared_by)
        planned = chunks(batch, self.agree, shares, self.costs, opens)
        if routed_experts is not None:
            batch["routed_experts"] = routed_experts
        self.places += [(chunk.rows + self.num_done, chunk.columns) for chunk in planned]
        self.num_done += len(input_ids)
        outputs = [self._run(chunk, batch, **kwargs) for chunk in planned]
        width = input_ids.shape[1] - 1
        entropies = [output.entropy for output in outputs if output.entropy is not None]
        balance = [output.aux_loss for output in outputs if output.aux_loss is not None]
        return FusedCausalLMOutput(
            log_probs=_spread([output.log_probs for output in outputs], planned, width),
            entropy=_spread(entropies, planned, width) if entropies else None,
            aux_loss=torch.stack(balance).mean() if balance else None,
        )

    def _run(
        self, chunk: Chunk, batch: Mapping[str, Tensor], **kwargs: object
    ) -> FusedCausalLMOutput:
        if chunk.prompts is None:
            return self.model(**chunk.of(batch), **kwargs)
        return run_on_prompts(self.model, self.shared_by, chunk.of(batch), chunk.prompts, **kwargs)

    def laid_out(self, passes: Sequence[Tensor], input_ids_BT: Tensor) -> Tensor:
        """What was seen of each pass's tokens, [N, ...] each, at their places, [B, T, ...].

        Tokens that no pass ran get -1.
        """
        laid = passes[0].new_full((*input_ids_BT.shape, *passes[0].shape[1:]), -1)
        for seen, (rows, columns) in zip(passes, self.places, strict=True):
            laid[rows, columns] = seen.unflatten(0, (len(rows), -1))
        return laid


def chunks(
    batch: Mapping[str, Tensor],
    agree: Callable[[Tensor], Tensor],
    shares: bool = False,
    costs: Costs = USUAL,
    opens: bool = False,
) -> list[Chunk]:
    """The passes that run a batch's real tokens at the least cost.

    All of as many rows, so that a mean over passes is one over sequences.

    Args:
        batch: "input_ids", "attention_mask" and "labels", [B, T] each.
        agree: sums a tensor over processes.
        shares: whether prompts may be read once for their group; then all chunks' are, or none's.
        costs: of the model's passes.
        opens: whether the beginning of all prompts of a chunk may be read once for them.
    """
    real_BT = batch["attention_mask"].bool()
    first_B = real_BT.int().argmax(1)
    last_B = real_BT.shape[1] - real_BT.flip(1).int().argmax(1)
    order_B = last_B.argsort(stable=True)
    counts = [count for count in CHUNK_COUNTS if len(real_BT) % count == 0]
    every = [_places(order_B, first_B, last_B, count) for count in counts]
    found = [sum(_cost(c.of({"": real_BT})[""], costs) for c in planned) for planned in every]
    cut = list(every)
    for finds in [Prompts.whole] * shares + [Prompts.opening] * opens:
        on_prompts = [
            [Chunk(chunk.rows, chunk.columns, finds(chunk.of(batch))) for chunk in planned]
            for planned in cut
        ]
        found += [sum(_shared_cost(chunk, costs) for chunk in planned) for planned in on_prompts]
        every += on_prompts
    return every[int(agree(torch.tensor(found, device=real_BT.device)).argmin())]


def _cost(real_RT: Tensor, costs: Costs) -> float:
    """What a pass over these sequences costs, in tokens."""
    num_tokens, width = real_RT.numel(), real_RT.shape[1]
    mask = 0.0 if real_RT.all() else num_tokens * width / MASKED_TOKENS
    return num_tokens + mask + costs.further_pass


def _shared_cost(chunk: Chunk, costs: Costs) -> float:
    """What two passes cost, over the prompts and over what follows on them, in tokens."""
    prompts = chunk.prompts
    if prompts is None:
        return float("inf")
    read = len(prompts.first_U) * prompts.num_read
    rest = chunk.columns.stop - chunk.columns.start - prompts.rest
    run = len(chunk.rows) * rest
    masks = (read * prompts.num_read + run * (prompts.num_read + rest)) / MASKED_TOKENS
    return (1 - costs.head) * read + run + masks + 2 * costs.further_pass


def _places(order_B: Tensor, first_B: Tensor, last_B: Tensor, count: int) -> list[Chunk]:
    places = []
    for rows in order_B.chunk(count):
        first = int(first_B[rows].min())
        places.append(Chunk(rows, slice(first, max(int(last_B[rows].max()), first + 2))))
    return places


def _spread(parts: Sequence[Tensor], planned: Sequence[Chunk], width: int) -> Tensor:
    """Chunks' values of each next token, [rows, columns - 1], at their places, [B, T - 1]."""
    padded = [
        nn.functional.pad(part, (chunk.columns.start, width - chunk.columns.stop + 1))
        for part, chunk in zip(parts, planned, strict=True)
    ]
    order_B = torch.cat([chunk.rows for chunk in planned])
    return torch.cat(padded)[order_B.argsort()]
