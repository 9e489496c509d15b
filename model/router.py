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
from model.routing import Routing


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

    def forward(
        self, x_ND: Tensor, routing: Routing | None = None, rank: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Route each token.

        Args:
            routing: what this forward pass asks for; by default the router's own choice.
            rank: of this layer among those with routed experts.

        Returns:
            Expert ids [N, K], -1 for an empty slot; their float32 weights [N, K], 0 there; and
            the scores of all experts, float32 [N, E].
        """
        with torch.autocast(x_ND.device.type, enabled=False):
            scores_NE = F.linear(x_ND.float(), self.weight.float()).sigmoid()
        with torch.no_grad():
            chosen_NK = self._choose(scores_NE, routing, rank)
            if routing is not None and routing.counted_N is not None and not _in_backward():
                self._count(chosen_NK[routing.counted_N])
            if routing is not None and routing.record:
                routing.chosen[rank] = chosen_NK
        weights_NK = scores_NE.gather(1, chosen_NK.clamp(min=0))
        if routing is not None and (routing.replayed_NLK is not None or routing.varies):
            weights_NK = weights_NK.masked_fill(chosen_NK < 0, 0.0)
        if self.normalise:
            weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
        if self.scaling != 1:
            weights_NK = weights_NK * self.scaling
        return chosen_NK, weights_NK, scores_NE

    def _choose(self, scores_NE: Tensor, routing: Routing | None, rank: int) -> Tensor:
        num_selected_N = None if routing is None else routing.num_selected_N
        most = self.num_selected if num_selected_N is None else int(num_selected_N.max())
        chosen_NK = select_experts(
            scores_NE,
            self.e_score_correction_bias,
            num_groups=self.num_groups,
            num_groups_kept=self.num_groups_kept,
            num_selected=most,
        )
        if num_selected_N is not None and routing.varies:
            empty_NK = torch.arange(most, device=chosen_NK.device) >= num_selected_N[:, None]
            chosen_NK = chosen_NK.masked_fill(empty_NK, -1)
        replayed_NK = None if routing is None else routing.replayed_NK(rank)
        return chosen_NK if replayed_NK is None else _replay(chosen_NK, replayed_NK)

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
        chosen_M = chosen_NK.flatten()
        counts_E = torch.bincount(chosen_M[chosen_M >= 0], minlength=self.num_experts)
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


def _replay(chosen_NK: Tensor, replayed_NJ: Tensor) -> Tensor:
    """The recorded ids, but a token's own choice where none was recorded."""
    width = max(chosen_NK.shape[1], replayed_NJ.shape[1])
    chosen_NK = F.pad(chosen_NK, (0, width - chosen_NK.shape[1]), value=-1)
    replayed_NK = F.pad(replayed_NJ, (0, width - replayed_NJ.shape[1]), value=-1)
    return torch.where((replayed_NK >= 0).any(-1, keepdim=True), replayed_NK, chosen_NK)


def _in_backward() -> bool:
    """Whether autograd is recomputing a checkpointed layer, whose tokens were counted before."""
    return torch._C._current_graph_task_id() != -1
