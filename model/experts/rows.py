"""Routed rows: which token goes to which expert, laid out so that an expert's rows are neighbours.

Holds the layout and the weighted sum back over a token's experts. Leaves out what an expert
computes: `sorted.py` and `grouped.py`.

Axes: N tokens, K experts of a token, M filled slots, R routed rows, D any width, E experts.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN compiles a bf16 product anew for every number of rows it meets, which costs more than the
# product. In whole tiles of 16 rows (the height of AMX's registers) there are few such numbers.
BF16_TILE = 16


@dataclass(frozen=True)
class Rows:
    """Rows sorted by expert.

    Args:
        token_R: each row's token. Rows that only fill an expert's last tile name token 0.
        slot_R: each row's place in the flattened [N, K], 0 for rows that fill a tile.
        filled_R: False for rows that stand for no slot; None if all do.
        place_NK: each slot's row. Empty slots name the last row, which then belongs to no expert.
        empty_NK: True for empty slots; None if there are none.
        bounds: (expert, first row, end row) of every expert with rows.
    """

    token_R: Tensor
    slot_R: Tensor
    filled_R: Tensor | None
    place_NK: Tensor
    empty_NK: Tensor | None
    bounds: list[tuple[int, int, int]]

    def weights_R1(self, weights_NK: Tensor, dtype: torch.dtype) -> Tensor:
        """Each row's weight; 0 for rows that stand for no slot."""
        weights_R = weights_NK.flatten()[self.slot_R].to(dtype)
        if self.filled_R is not None:
            weights_R *= self.filled_R
        return weights_R[:, None]

    def slots(self, values_R: Tensor) -> Tensor:
        """A value of each row as [N, K]; 0 in empty slots."""
        values_NK = values_R[self.place_NK]
        return values_NK if self.empty_NK is None else values_NK.masked_fill_(self.empty_NK, 0)

    def sum_of_slots(self, rows_RD: Tensor, weights_NK: Tensor | None = None) -> Tensor:
        """Per token, the (weighted) sum of its rows, in one fused pass: [N, D]."""
        weights = None if weights_NK is None else weights_NK.to(rows_RD.dtype)
        empty_row = None if self.empty_NK is None else rows_RD.shape[0] - 1
        return F.embedding_bag(
            self.place_NK, rows_RD, mode="sum", per_sample_weights=weights, padding_idx=empty_row
        )


def sort_rows(chosen_NK: Tensor, num_experts: int, tile: int = 1) -> Rows:
    """Lay out the slots of [N, K] expert ids, where -1 is an empty slot.

    Args:
        chosen_NK: an expert id or -1.
        num_experts: one more than the largest id.
        tile: what an expert's number of rows is rounded up to, once it exceeds it.
    """
    device, num_selected = chosen_NK.device, chosen_NK.shape[1]
    slots = chosen_NK.flatten()
    num_empty, *counts = torch.bincount(slots + 1, minlength=num_experts + 1).tolist()
    sizes = [count if count <= tile else -(-count // tile) * tile for count in counts]
    order_M = slots.argsort(stable=True)[num_empty:]
    num_rows = sum(sizes) + (num_empty > 0)
    row_M = torch.arange(order_M.numel(), device=device)
    if sum(sizes) > order_M.numel():
        shifts = (torch.tensor(sizes).cumsum(0) - torch.tensor(counts).cumsum(0)).roll(1)
        shifts[0] = 0
        row_M += shifts.repeat_interleave(torch.tensor(counts)).to(device)
    place = slots.new_full(slots.shape, num_rows - 1).index_put_((order_M,), row_M)
    slot_R, filled_R = order_M, None
    if num_rows > order_M.numel():
        slot_R = slots.new_zeros(num_rows).index_put_((row_M,), order_M)
        filled_R = torch.zeros(num_rows, dtype=torch.bool, device=device).index_fill_(0, row_M, 1)
    return Rows(
        token_R=slot_R // num_selected,
        slot_R=slot_R,
        filled_R=filled_R,
        place_NK=place.view_as(chosen_NK),
        empty_NK=chosen_NK < 0 if num_empty else None,
        bounds=_bounds(sizes),
    )


def _bounds(sizes: list[int]) -> list[tuple[int, int, int]]:
    bounds, end = [], 0
    for expert, size in enumerate(sizes):
        if size:
            bounds.append((expert, end, end + size))
            end += size
    return bounds
