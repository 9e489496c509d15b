"""The latent cache: what multi-head latent attention keeps per token, and nothing more.

One row of `kv_lora_rank + qk_rope_head_dim` numbers a token and layer: the compressed key-value
latent and the rotated key that all heads share. It is a transformers `Cache`, so that `generate`
can use it. Leaves out offloading, quantisation and sliding windows.

Axes: B sequences, S cached tokens, C = latent and rotated key together, R latent alone.
"""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class LatentLayer(CacheLayerMixin):
    """One layer's rows, in a buffer that doubles when full."""

    is_sliding = False
    is_croppable = True

    def __init__(self, capacity: int = 0) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.rows_BSC: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for latents [B, T, R] and rotated keys [B, T, C - R], and some room."""
        width = key_states.shape[-1] + value_states.shape[-1]
        num_tokens = key_states.shape[1]
        capacity = max(self.capacity, num_tokens) if self.capacity else max(2 * num_tokens, 64)
        self.rows_BSC = key_states.new_empty(key_states.shape[0], capacity, width)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append latents [B, T, R] and rotated keys [B, T, C - R].

        Returns:
            Views of all rows so far: [B, S, C], and its first R features [B, S, R].
        """
        if self.rows_BSC is None:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[1]
        if end > self.rows_BSC.shape[1]:
            self._grow(end)
        self.rows_BSC[:, self.length : end] = torch.cat((key_states, value_states), -1)
        self.length = end
        filled_BSC = self.rows_BSC[:, :end]
        return filled_BSC, filled_BSC[..., : key_states.shape[-1]]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.length = 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest `|tokens_to_remove|` tokens."""
        self.length = max(0, self.length - abs(tokens_to_remove))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given sequences."""
        if self.rows_BSC is not None:
            self.rows_BSC = self.rows_BSC[indices.to(self.rows_BSC.device)]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence `repeats` times."""
        if self.rows_BSC is not None:
            self.rows_BSC = self.rows_BSC.repeat_interleave(repeats, dim=0)

    def _grow(self, needed: int) -> None:
        num_sequences, capacity, width = self.rows_BSC.shape
        grown = self.rows_BSC.new_empty(num_sequences, max(2 * capacity, needed), width)
        grown[:, : self.length] = self.rows_BSC[:, : self.length]
        self.rows_BSC = grown


class LatentCache(Cache):
    """Cached latents of every layer.

    Args:
        num_layers: of the model.
        capacity: tokens to allocate at once; it grows beyond when needed.
    """

    def __init__(self, num_layers: int, capacity: int = 0) -> None:
        super().__init__(layers=[LatentLayer(capacity) for _ in range(num_layers)])

    def num_bytes(self) -> int:
        """Bytes of the tokens held now, over all layers."""
        return sum(
            layer.rows_BSC[:, : layer.length].numel() * layer.rows_BSC.element_size()
            for layer in self.layers
            if layer.rows_BSC is not None
        )

    def num_bytes_allocated(self) -> int:
        """Bytes held in memory, with the room not yet used."""
        return sum(layer.rows_BSC.nbytes for layer in self.layers if layer.rows_BSC is not None)
