"""The lightning indexer: a small scorer that says which keys a query attends to (DeepSeek-V3.2).

Equations are those of arXiv:2512.02556, section 2.1. Holds the scorer, the selection of the best
keys and the loss that trains the scorer. Leaves out FP8 scoring and the Hadamard rotation before
it, which changes no dot product. What attention does with the selection is in `sparse.py`.

Axes: B sequences, T query tokens, S key tokens, J indexer heads, I indexer width, P half of a
head's rotated features, K selected keys, D model width, Q query latent.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention.rope import rotate_halves
from model.configuration import SparringSparseConfig

KEY_NORM_EPS = 1e-6
# Scores by head computed at once: they stay in a cache, and are enough for several threads.
TILE_NUMBERS = 1 << 20


class LightningIndexer(nn.Module):
    """Queries, keys and head weights of the scorer, under V3.2's parameter names."""

    def __init__(self, config: SparringSparseConfig) -> None:
        super().__init__()
        self.num_selected = config.index_topk
        self.num_heads, self.width = config.index_n_heads, config.index_head_dim
        self.rotated = config.qk_rope_head_dim
        self.wq_b = nn.Linear(config.q_lora_rank, self.num_heads * self.width, bias=False)
        self.wk = nn.Linear(config.hidden_size, self.width, bias=False)
        self.k_norm = nn.LayerNorm(self.width, eps=KEY_NORM_EPS)
        self.weights_proj = nn.Linear(config.hidden_size, self.num_heads, bias=False)

    def keys(self, x_BTD: Tensor, rotations_BT1P: Tensor) -> Tensor:
        """One key per token for all heads: [B, T, I], to be cached."""
        keys_BTI = self.wk(x_BTD)
        normed_BTI = self.k_norm(keys_BTI).to(keys_BTI.dtype)
        return self._rotate(normed_BTI[:, :, None], rotations_BT1P)[:, :, 0]

    def queries(
        self, x_BTD: Tensor, q_latent_BTQ: Tensor, rotations_BT1P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Queries [B, T, J, I], and the float32 weight of each head [B, T, J]."""
        queries_BTJI = self.wq_b(q_latent_BTQ).unflatten(-1, (self.num_heads, self.width))
        with torch.autocast(x_BTD.device.type, enabled=False):
            weights_BTJ = F.linear(x_BTD.float(), self.weights_proj.weight.float())
        scale = (self.num_heads * self.width) ** -0.5
        return self._rotate(queries_BTJI, rotations_BT1P), weights_BTJ * scale

    def _rotate(self, x_BTJI: Tensor, rotations_BT1P: Tensor) -> Tensor:
        turned, kept = x_BTJI.split((self.rotated, self.width - self.rotated), -1)
        return torch.cat((rotate_halves(turned, rotations_BT1P), kept), -1)


def index_scores(queries_BTJI: Tensor, weights_BTJ: Tensor, keys_BSI: Tensor) -> Tensor:
    """I_ts = sum over heads of w_tj ReLU(q_tj . k_s) (Eq. 1), with 1/sqrt(J I) inside w.

    Returns:
        float32 [B, T, S].
    """
    num_sequences, num_tokens, num_heads = weights_BTJ.shape
    at_once = num_heads if num_tokens == 1 else num_sequences * num_tokens * num_heads
    tile = max(256, TILE_NUMBERS // at_once)
    scores_of = _scores_of_one_query if num_tokens == 1 else _scores
    blocks = [scores_of(queries_BTJI, weights_BTJ, keys) for keys in keys_BSI.split(tile, dim=1)]
    return torch.cat(blocks, -1)


def _scores(queries_BTJI: Tensor, weights_BTJ: Tensor, keys_BSI: Tensor) -> Tensor:
    products_BMS = torch.bmm(queries_BTJI.flatten(1, 2), keys_BSI.transpose(1, 2))
    products_NJS = products_BMS.relu_().float().unflatten(1, weights_BTJ.shape[1:]).flatten(0, 1)
    scores_N1S = torch.bmm(weights_BTJ.flatten(0, 1)[:, None], products_NJS)
    return scores_N1S.view(*weights_BTJ.shape[:2], -1)


def _scores_of_one_query(queries_B1JI: Tensor, weights_B1J: Tensor, keys_BSI: Tensor) -> Tensor:
    """Keys first and no batched product: in bfloat16 at 128k tokens twice as fast."""
    parts = zip(queries_B1JI[:, 0], weights_B1J[:, 0], keys_BSI, strict=True)
    return torch.stack(
        [
            (keys_SI @ queries_JI.T).float().relu_() @ weights_J
            for queries_JI, weights_J, keys_SI in parts
        ]
    )[:, None]


def select_keys(
    scores_BTS: Tensor, visible_BTS: Tensor | None, num_selected: int
) -> tuple[Tensor, Tensor]:
    """The keys that each query scores highest among those it sees (Eq. 2); None sees them all.

    Returns:
        Indices [B, T, K] in no order, and whether each is a key that the query sees: a query that
        sees fewer than K keys has slots left over.
    """
    if visible_BTS is not None:
        scores_BTS = scores_BTS.masked_fill(~visible_BTS, float("-inf"))
    best = scores_BTS.topk(num_selected, sorted=False)
    return best.indices, best.values > float("-inf")


def indexer_loss(scores_BTS: Tensor, target_BTS: Tensor, allowed_BTS: Tensor) -> Tensor:
    """KL(p_t || softmax(I_t)) over the allowed keys of each query (Eqs. 3 and 4): [B, T].

    Args:
        target_BTS: attention summed over heads and normalised, 0 where not allowed.
    """
    log_share_BTS = scores_BTS.masked_fill(~allowed_BTS, float("-inf")).log_softmax(-1)
    log_share_BTS = log_share_BTS.masked_fill(~allowed_BTS, 0.0)
    return (torch.xlogy(target_BTS, target_BTS) - target_BTS * log_share_BTS).sum(-1)


def freeze_all_but_indexers(model: nn.Module) -> None:
    """Leave only the indexers trainable, as the dense warm-up asks (section 2.1.1).

    Raises:
        ValueError: the model has no indexer.
    """
    indexers = [module for module in model.modules() if isinstance(module, LightningIndexer)]
    if not indexers:
        raise ValueError(f"{type(model).__name__} has no indexer to train: its attention is dense")
    model.requires_grad_(False)
    for indexer in indexers:
        indexer.requires_grad_(True)
