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
from model.experts.balance import balance_metrics
from model.experts.routing import Routing


def select_experts(
    scores_NE: Tensor, bias_E: Tensor, *, num_groups: int, num_groups_kept: int, num_selected: int
) -> Tensor:
    """The best experts by biased score, among the groups whose two best experts sum highest.

    Returns:
        int64 [N, K], the best first.
    """
    biased_NE = scores_NE + bias_E
    if num_groups_kept < num_groups:
        biased_NGE = biased_NE.unflatten(-1, (num_groups, -1))
        group_score_NG = biased_NGE.topk(2, dim=-1).values.sum(-1)
        kept = group_score_NG.topk(num_groups_kept, dim=-1, sorted=False).indices
        dropped_NG = torch.ones_like(group_score_NG, dtype=torch.bool).scatter_(1, kept, False)
        biased_NE = biased_NGE.masked_fill(dropped_NG[..., None], float("-inf")).flatten(1)
    return biased_NE.topk(num_selected, dim=-1).indices


class Router(nn.Module):
    """Scores, selection and the load that each expert got.

    `counts_E1` counts since the last `reset_load`, in training and without padding: the tokens
    given to each expert, then all tokens. It is not a buffer: DDP would overwrite it with rank 0's.
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
        self.counts_E1: Tensor | None = None

    def forward(
        self, x_ND: Tensor, routing: Routing | None = None, moe_layer: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Route each token.

        Args:
            routing: what this forward pass asks for; by default the router's own choice.
            moe_layer: index of this layer among those with routed experts.

        Returns:
            Expert ids [N, K], -1 for an empty slot; their weights [N, K], 0 there; and the scores
            of all experts [N, E]. Both are float32, or wider where x is.
        """
        exact = torch.promote_types(x_ND.dtype, torch.float32)
        with torch.autocast(x_ND.device.type, enabled=False):
            scores_NE = F.linear(x_ND.to(exact), self.weight.to(exact)).sigmoid()
        with torch.no_grad():
            chosen_NK = self._choose(scores_NE, routing, moe_layer)
            if routing is not None and routing.counts and not _in_backward():
                self._count(chosen_NK, routing.real_N)
            if routing is not None and routing.record:
                routing.chosen[moe_layer] = chosen_NK
        weights_NK = scores_NE.gather(1, chosen_NK.clamp(min=0))
        if routing is not None and routing.may_leave_slots_empty:
            weights_NK = weights_NK.masked_fill(chosen_NK < 0, 0.0)
        if self.normalise:
            weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
        if self.scaling != 1:
            weights_NK = weights_NK * self.scaling
        return chosen_NK, weights_NK, scores_NE

    def _choose(self, scores_NE: Tensor, routing: Routing | None, moe_layer: int) -> Tensor:
        numbers_N = None if routing is None else routing.num_selected_N
        most = self.num_selected if numbers_N is None else routing.max_selected
        chosen_NK = select_experts(
            scores_NE,
            self.e_score_correction_bias,
            num_groups=self.num_groups,
            num_groups_kept=self.num_groups_kept,
            num_selected=most,
        )
        if numbers_N is not None:
            slot_K = torch.arange(most, device=chosen_NK.device)
            chosen_NK = chosen_NK.masked_fill(slot_K >= numbers_N[:, None], -1)
        if routing is None or routing.replayed_NLK is None:
            return chosen_NK
        return _replay(chosen_NK, routing.replayed_NLK[:, moe_layer])

    def reset_load(self) -> None:
        """Forget the counted load."""
        self.counts_E1 = None

    def load(self) -> Tensor:
        """Tokens given to each expert since the last reset, summed over ranks: float32 [E]."""
        return self._total_counts()[:-1].float()

    def metrics(self) -> dict[str, float] | None:
        """`balance_metrics` of the load over ranks; None if there is no load."""
        total_E1 = self._total_counts()
        num_tokens = int(total_E1[-1])
        return balance_metrics(total_E1[:-1], num_tokens) if num_tokens else None

    @torch.no_grad()
    def update_bias(self, gamma: float) -> None:
        """Move the bias by `gamma` towards equal load, then reset the load.

        Every rank must call it. A layer that saw no token, or replayed ones only, keeps its bias.
        """
        load_E = self.load()
        self.e_score_correction_bias += gamma * torch.sign(load_E.mean() - load_E)
        self.reset_load()

    def _count(self, chosen_NK: Tensor, real_N: Tensor | None) -> None:
        chosen_NK = chosen_NK if real_N is None else chosen_NK[real_N]
        chosen_M = chosen_NK.flatten()
        counts_E = torch.bincount(chosen_M[chosen_M >= 0], minlength=self.num_experts)
        counts_E1 = torch.cat((counts_E, counts_E.new_tensor([len(chosen_NK)])))
        self.counts_E1 = counts_E1 if self.counts_E1 is None else self.counts_E1 + counts_E1

    def _total_counts(self) -> Tensor:
        """int64 [E + 1]: `counts_E1` over ranks."""
        if self.counts_E1 is None:
            bias_E = self.e_score_correction_bias
            total_E1 = bias_E.new_zeros(self.num_experts + 1, dtype=torch.int64)
        else:
            total_E1 = self.counts_E1.clone()  # all_reduce writes to its argument
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total_E1)
        return total_E1

    def _apply(self, fn, recurse: bool = True) -> "Router":  # type: ignore[no-untyped-def]
        """Keep the bias in float32 when the model changes type: bf16 would swallow its steps."""
        exact_E = self.e_score_correction_bias
        super()._apply(fn, recurse)
        moved_E = self.e_score_correction_bias
        if moved_E.dtype != torch.float32:
            self.e_score_correction_bias = exact_E.to(moved_E.device)
        return self


def _replay(chosen_NK: Tensor, replayed_NJ: Tensor) -> Tensor:
    """The recorded ids, but a token's own choice where none was recorded."""
    width = max(chosen_NK.shape[1], replayed_NJ.shape[1])
    chosen_NK = F.pad(chosen_NK, (0, width - chosen_NK.shape[1]), value=-1)
    replayed_NK = F.pad(replayed_NJ, (0, width - replayed_NJ.shape[1]), value=-1)
    return torch.where((replayed_NK >= 0).any(-1, keepdim=True), replayed_NK, chosen_NK)


def _in_backward() -> bool:
    """Whether autograd is recomputing a checkpointed layer, whose tokens were counted before."""
    return torch._C._current_graph_task_id() != -1
