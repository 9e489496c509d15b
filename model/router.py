"""Which experts serve a token (DeepSeek-V3, arXiv:2412.19437, Eqs. 12-16), and their balance.

A bias per expert decides the selection only, and is moved towards equal load after each
optimizer step, so that no auxiliary loss pulls on the weights.

Axes: N tokens, D model width, E experts, G groups, K experts of a token.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.configuration import SparringMoeConfig


def select_experts(
    scores_NE: Tensor, bias_E: Tensor, *, num_groups: int, num_groups_kept: int, num_selected: int
) -> Tensor:
    """The best experts by biased score, among the groups whose two best experts sum highest.

    Returns:
        int64 [N, K], in no particular order.
    """
    biased_NE = scores_NE + bias_E
    if num_groups_kept < num_groups:
        biased_NGE = biased_NE.unflatten(-1, (num_groups, -1))
        group_score_NG = biased_NGE.topk(2, dim=-1).values.sum(-1)
        kept = group_score_NG.topk(num_groups_kept, dim=-1, sorted=False).indices
        dropped_NG = torch.ones_like(group_score_NG, dtype=torch.bool).scatter_(1, kept, False)
        biased_NE = biased_NGE.masked_fill(dropped_NG[..., None], float("-inf")).flatten(1)
    return biased_NE.topk(num_selected, dim=-1, sorted=False).indices


class Router(nn.Module):
    """Scores, selection and the load that each expert got.

    `expert_load_E` counts the tokens given to each expert since the last `reset_load`: those of
    training, without padding. It is no buffer: DDP would overwrite it with rank 0's.
    """

    def __init__(self, config: SparringMoeConfig) -> None:
        super().__init__()
        self.num_experts = config.n_routed_experts
        self.num_selected = config.num_experts_per_tok
        self.num_groups = config.n_group
        self.num_groups_kept = config.topk_group
        self.normalise = config.norm_topk_prob
        self.scaling = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(self.num_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(self.num_experts))
        self.expert_load_E: Tensor | None = None

    def forward(self, x_ND: Tensor, counted_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Route each token.

        Args:
            counted_N: True for tokens that count towards the load; none does if None.

        Returns:
            Expert indices [N, K] and their float32 weights [N, K].
        """
        with torch.autocast(x_ND.device.type, enabled=False):
            scores_NE = F.linear(x_ND.float(), self.weight.float()).sigmoid()
        with torch.no_grad():
            chosen_NK = select_experts(
                scores_NE,
                self.e_score_correction_bias,
                num_groups=self.num_groups,
                num_groups_kept=self.num_groups_kept,
                num_selected=self.num_selected,
            )
            if counted_N is not None and not _in_backward():
                self._count(chosen_NK[counted_N])
        weights_NK = scores_NE.gather(1, chosen_NK)
        if self.normalise:
            weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
        return chosen_NK, weights_NK if self.scaling == 1 else weights_NK * self.scaling

    def reset_load(self) -> None:
        """Forget the counted load."""
        self.expert_load_E = None

    def load(self) -> Tensor:
        """Tokens given to each expert since the last reset, summed over ranks: float32 [E]."""
        if self.expert_load_E is None:
            load_E = torch.zeros_like(self.e_score_correction_bias)
        else:
            load_E = self.expert_load_E.to(torch.float32)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(load_E)
        return load_E

    @torch.no_grad()
    def update_bias(self, gamma: float) -> None:
        """Move the bias by `gamma` towards equal load, then reset the load.

        Every rank must call it. A layer that saw no token keeps its bias.
        """
        load_E = self.load()
        self.e_score_correction_bias += gamma * torch.sign(load_E.mean() - load_E)
        self.reset_load()

    def _count(self, chosen_NK: Tensor) -> None:
        counts_E = torch.bincount(chosen_NK.flatten(), minlength=self.num_experts)
        self.expert_load_E = (
            counts_E if self.expert_load_E is None else self.expert_load_E + counts_E
        )

    def _apply(self, fn, recurse: bool = True) -> "Router":  # type: ignore[no-untyped-def]
        """Keep the bias in float32 when the model changes type: bf16 would swallow its steps."""
        exact_E = self.e_score_correction_bias
        super()._apply(fn, recurse)
        moved_E = self.e_score_correction_bias
        if moved_E.dtype != torch.float32:
            self.e_score_correction_bias = exact_E.to(moved_E.device)
        return self


def _in_backward() -> bool:
    """Whether autograd is recomputing a checkpointed layer, whose tokens were counted before."""
    return torch._C._current_graph_task_id() != -1
