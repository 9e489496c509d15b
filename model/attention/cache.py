"""The latent cache: what multi-head latent attention keeps per token, and nothing more.

One row of `kv_lora_rank + qk_rope_head_dim` numbers per token and layer: the compressed key-value
latent and the rotated key that all heads share; with sparse attention, the indexer's key beside
it, apart, so that scoring reads nothing else. It is a transformers `Cache`, so that `generate`
can use it. What attention reads is counted where it is read. Leaves out offloading, quantisation
and sliding windows.

Axes: B sequences, S cached tokens, T tokens of this call, K selected tokens, C = latent and
rotated key together, R latent alone, I indexer key, W any of these widths.
"""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class GrowingRows:
    """Rows of one width for each token, in a buffer that grows when full."""

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self.length = 0
        self.buffer_BSW: Tensor | None = None

    def append(self, *parts_BTW: Tensor) -> None:
        """Add tokens, whose features are given in parts.

        Raises:
            ValueError: another number of sequences than the tokens held have.
        """
        given, held = parts_BTW[0].shape[0], self.buffer_BSW
        if held is not None and len(held) != given:  # assignment would repeat a lone sequence
            raise ValueError(
                f"the cache holds {len(held)} sequences, got {given}: make a new one, or reset() it"
            )
        end = self.length + parts_BTW[0].shape[1]
        self._reserve(end, parts_BTW)
        filled_BTW, start = self.buffer_BSW[:, self.length : end], 0
        for part_BTW in parts_BTW:
            filled_BTW[..., start : start + part_BTW.shape[-1]] = part_BTW
            start += part_BTW.shape[-1]
        self.length = end

    def filled(self) -> Tensor:
        """A view of all rows so far, [B, S, W]."""
        return self.buffer_BSW[:, : self.length]

    def gather(self, indices_BTK: Tensor) -> Tensor:
        """A copy of the rows with these indices, [B, T, K, W]."""
        num_sequences, capacity = self.buffer_BSW.shape[:2]
        offsets_B11 = torch.arange(num_sequences, device=indices_BTK.device)[:, None, None]
        flat = (indices_BTK + capacity * offsets_B11).flatten()
        return self.buffer_BSW.flatten(0, 1).index_select(0, flat).unflatten(0, indices_BTK.shape)

    def reset(self) -> None:
        """Forget all tokens; others may come in another number of sequences."""
        self.length, self.buffer_BSW = 0, None

    def select(self, indices: Tensor) -> None:
        """Keep the given sequences."""
        if self.buffer_BSW is not None:
            self.buffer_BSW = self.buffer_BSW[indices.to(self.buffer_BSW.device)]

    def repeat(self, repeats: int) -> None:
        """Repeat each sequence."""
        if self.buffer_BSW is not None:
            self.buffer_BSW = self.buffer_BSW.repeat_interleave(repeats, dim=0)

    def num_bytes(self) -> int:
        return 0 if self.buffer_BSW is None else self.filled().nbytes

    def num_bytes_allocated(self) -> int:
        return 0 if self.buffer_BSW is None else self.buffer_BSW.nbytes

    def _reserve(self, needed: int, parts_BTW: tuple[Tensor, ...]) -> None:
        """Make room for `needed` tokens, and a quarter more unless the capacity was given."""
        held = 0 if self.buffer_BSW is None else self.buffer_BSW.shape[1]
        if needed <= held:
            return
        if self.capacity and not held:
            room = max(self.capacity, needed)
        else:
            room = max(needed + needed // 4, 64)
        width = sum(part_BTW.shape[-1] for part_BTW in parts_BTW)
        grown_BSW = parts_BTW[0].new_empty(parts_BTW[0].shape[0], room, width)
        if held:
            grown_BSW[:, : self.length] = self.filled()
        self.buffer_BSW = grown_BSW


class LatentLayer(CacheLayerMixin):
    """One layer's rows, and its indexer's keys if it has an indexer."""

    is_sliding = False
    is_croppable = True

    def __init__(self, capacity: int = 0) -> None:
        super().__init__()
        self.rows = GrowingRows(capacity)
        self.index_keys = GrowingRows(capacity)
        self.bytes_read = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the first `append` allocates."""
        self.is_initialized = True

    def append(
        self, latent_BTR: Tensor, k_rope_BTP: Tensor, index_keys_BTI: Tensor | None = None
    ) -> None:
        """Add tokens.

        Raises:
            ValueError: another number of sequences than the tokens held have, or only these or
                only those have keys of an indexer.
        """
        if self.rows.length and (self.index_keys.length > 0) != (index_keys_BTI is not None):
            raise ValueError(
                "the cache was filled by a model with sparse attention and is read by one without, "
                "or the other way round: make a new one"
            )
        self.is_initialized = True
        self.rows.append(latent_BTR, k_rope_BTP)
        if index_keys_BTI is not None:
            self.index_keys.append(index_keys_BTI)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append latents [B, T, R] and rotated keys [B, T, C - R], and read all of both."""
        self.append(key_states, value_states)
        return self.read().split((key_states.shape[-1], value_states.shape[-1]), -1)

    def read(self) -> Tensor:
        """All rows so far, [B, S, C]."""
        return self._counted(self.rows.filled())

    def read_selected(self, indices_BTK: Tensor) -> Tensor:
        """The rows with these indices, [B, T, K, C]."""
        return self._counted(self.rows.gather(indices_BTK))

    def read_index_keys(self) -> Tensor:
        """All the indexer's keys so far, [B, S, I]."""
        return self._counted(self.index_keys.filled())

    def _counted(self, tensor: Tensor) -> Tensor:
        self.bytes_read += tensor.nbytes
        return tensor

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.rows.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.rows.length

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.rows.reset()
        self.index_keys.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest `-tokens_to_remove` tokens.

        Raises:
            ValueError: a positive number, by which transformers' caches mean the tokens to keep.
        """
        if tokens_to_remove > 0:
            raise ValueError(
                f"crop takes minus the number of tokens to remove, got {tokens_to_remove}: to keep "
                "so many, subtract get_seq_length() from it"
            )
        for kept in (self.rows, self.index_keys):
            kept.length = max(0, kept.length + tokens_to_remove)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given sequences."""
        self.rows.select(indices)
        self.index_keys.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence `repeats` times."""
        self.rows.repeat(repeats)
        self.index_keys.repeat(repeats)


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
        return sum(layer.rows.num_bytes() + layer.index_keys.num_bytes() for layer in self.layers)

    def num_bytes_allocated(self) -> int:
        """Bytes held in memory, with the room not yet used."""
        return sum(
            layer.rows.num_bytes_allocated() + layer.index_keys.num_bytes_allocated()
            for layer in self.layers
        )

    @property
    def bytes_read(self) -> int:
        """Bytes that attention has read from the cache, over all layers, since it was made."""
        return sum(layer.bytes_read for layer in self.layers)
