"""How far the sampler is from the policy it claims to be: log-probabilities and experts.

Both score the same tokens with the same weights, so that every difference is rounding, or a fault;
a batch drawn ahead (`training/block_rollouts.py`) also shows the update since.
Leaves out what is done about it: importance correction is TRL's, replay is in `training/replay.py`.

Axes: B sequences, T tokens, N = B * T, L layers with routed experts, K experts of a token, E
experts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.experts.router import Router, select_experts
from model.fp8.linear import Fp8Linear
from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UnprovenSyncError

Reduce = Callable[[Tensor], Tensor]  # [1, X] of one process to [processes, X]
TIE = 1e-4  # of scores that differ by rounding alone, where both sides compute in float32
ROUNDED_SHARE = 0.5  # of tokens and layers; routes of another token differ in most
SLACK = 3  # tokens more


def logprob_mismatch(
    policy_BT: Tensor, sampler_BT: Tensor, mask_BT: Tensor, gather: Reduce
) -> dict[str, float]:
    """KL(sampler || policy) estimated on the sampler's tokens (k3, never negative), and extremes.

    Args:
        policy_BT: log-probabilities of the sampled tokens, nats.
        sampler_BT: the same by the sampler.
        mask_BT: 1 for the completions' tokens.
        gather: over processes.
    """
    difference_M = (policy_BT - sampler_BT)[mask_BT.bool()].double()
    k3_M = difference_M.exp() - 1 - difference_M
    largest = difference_M.abs().max() if len(difference_M) else difference_M.sum()
    parts = [k3_M.sum(), difference_M.abs().sum(), difference_M.new_tensor(len(difference_M))]
    kl, total, count = gather(torch.stack(parts)[None]).sum(0).tolist()
    return {
        "rollout/mismatch_kl": kl / max(count, 1),
        "rollout/mismatch_mean": total / max(count, 1),
        "rollout/mismatch_max": gather(largest.view(1, 1)).max().item(),
    }


def importance_figures(ratios_BX: Tensor, mask_BT: Tensor, gather: Reduce) -> dict[str, float]:
    """How much of a batch the importance correction leaves.

    Args:
        ratios_BX: what the loss is weighed with, per completion ([B, 1]) or per token ([B, T]); 0
            where a ratio was masked out.
        mask_BT: 1 for the completions' tokens.
        gather: over processes.

    Returns:
        The share of completions, or of tokens, that were dropped; and the effective sample size,
        (sum w)^2 / sum w^2, as a share of them all: 1 where all weigh the same.
    """
    is_whole = ratios_BX.shape[1] == 1
    counted = mask_BT.bool().any(1, keepdim=True) if is_whole else mask_BT.bool()
    ratios_M = ratios_BX[counted].double()
    dropped, count = (ratios_M == 0).sum(), ratios_M.new_tensor(len(ratios_M))
    parts = torch.stack([ratios_M.sum(), ratios_M.square().sum(), dropped, count])
    total, squares, dropped_sum, num = gather(parts[None]).sum(0).tolist()
    return {
        "policy/importance_dropped": dropped_sum / max(num, 1),
        "policy/importance_ess": total**2 / (squares * num) if squares else 0.0,
    }


class Choices(NamedTuple):
    """A model's own choices, an entry for each pass.

    Attributes:
        experts: [N, L, K].
        margins: [N, L], by how much they were chosen.
    """

    experts: list[Tensor]
    margins: list[Tensor]


class ExpertMismatch:
    """Tokens for which the policy would choose other experts than the sampler did.

    Under replay the policy is asked at the replayed inputs: one difference does not become others,
    and each must be a tie. Without it a tie that fell the other way moves what follows in its
    sequence, and in every sequence of the same prompt: only a sequence's first difference says
    whether its routes are its own.

    Args:
        own_BTLK: the policy's choices.
        margins_BTL: by how much they were the policy's (`margin`).
        routes_BTLK: the sampler's, -1 where a token has none.
        layers: numbers of the layers.
        gather: over processes.
        replayed: whether the policy ran on the sampler's routes.
    """

    def __init__(
        self,
        own_BTLK: Tensor,
        margins_BTL: Tensor,
        routes_BTLK: Tensor,
        layers: list[int],
        gather: Reduce,
        replayed: bool = False,
    ) -> None:
        known_BT = (routes_BTLK >= 0).any(-1).all(-1)
        same_BTL = (own_BTLK.sort(-1).values == routes_BTLK.sort(-1).values).all(-1)
        differs_BTL = ~same_BTL & known_BT[..., None]
        anywhere_B, tokens_B = differs_BTL.any(-1).sum(1), known_BT.sum(1)
        counts = [differs_BTL.sum((0, 1)), anywhere_B.sum()[None], tokens_B.sum()[None]]
        *by_layer, anywhere, num_tokens = gather(torch.cat(counts)[None]).sum(0).tolist()
        self.num_tokens, self.anywhere = num_tokens, anywhere
        self.which = "one" if replayed else "the first of a sequence"
        self.by_layer = dict(zip(layers, by_layer, strict=True))
        excess_B = differs_BTL.sum(1).float().mean(-1) - ROUNDED_SHARE * tokens_B  # over layers
        own_BX = differs_BTL.flatten(1)  # differences that follow from no other one
        if not replayed:
            own_BX = own_BX & (own_BX.cumsum(1) == 1)
        margins_BX = margins_BTL.flatten(1).masked_fill(~own_BX, 0.0)
        worst = torch.stack([excess_B.max(), margins_BX.max()])
        self.worst_excess, self.worst_margin = gather(worst[None]).amax(0).tolist()

    def row(self) -> dict[str, object]:
        """Shares of tokens, for the step's row."""
        count = max(self.num_tokens, 1)
        return {
            "rollout/other_experts": self.anywhere / count,
            "rollout/other_experts_layers": {
                str(layer): round(num / count, 5) for layer, num in self.by_layer.items()
            },
        }

    def check(self, exact: bool) -> None:
        """Refuse routes that cannot be those of these tokens, of all or of one sequence alone.

        Args:
            exact: both sides compute in float32.

        Raises:
            UnprovenSyncError: too many differ, or one whose scores are no tie.
        """
        fault = "the routes are other tokens', or the engine holds other weights"
        if exact and not self.worst_margin <= TIE:  # nor is what cannot be compared a tie
            raise UnprovenSyncError(
                f"the policy would send {self.anywhere:.0f} of {self.num_tokens} tokens to other "
                f"experts than the sampler did, and {self.which} by a margin of "
                f"{self.worst_margin:.2g} of its scores, where rounding makes {TIE:g}: {fault}"
            )
        found = sum(self.by_layer.values()) / max(len(self.by_layer), 1)
        most = ROUNDED_SHARE * self.num_tokens + SLACK
        if found > most or self.worst_excess > SLACK:
            raise UnprovenSyncError(
                f"the policy would send {found:.0f} of {self.num_tokens} tokens to other experts "
                f"than the sampler did, {most:.1f} may differ, and of one sequence "
                f"{self.worst_excess:.0f} tokens more than its share, where {SLACK} may: {fault}"
            )


@contextmanager
def own_choices(moe: SparringMoeForCausalLM) -> Iterator[Choices]:
    """What the model itself prefers in each pass, whatever is replayed."""
    num_layers = moe.config.num_hidden_layers  # those beyond predict further tokens
    routers = [router for layer, router in moe.routers().items() if layer < num_layers]
    found = Choices([], [])
    layers: list[tuple[Tensor, Tensor]] = []

    def note(router: Router, _inputs: tuple, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        layers.append((preferred(router, outputs[2]), margin(router, outputs[2])))
        if len(layers) == len(routers):
            for into, parts in zip(found, zip(*layers, strict=True), strict=True):
                into.append(torch.stack(parts, dim=1))
            layers.clear()

    handles = [router.register_forward_hook(note) for router in routers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def preferred(router: Router, scores_NE: Tensor) -> Tensor:
    """A router's choice by its scores, [N, K]."""
    return select_experts(
        scores_NE,
        router.e_score_correction_bias,
        num_groups=router.num_groups,
        num_groups_kept=router.num_groups_kept,
        num_selected=router.num_selected,
    )


@torch.no_grad()
def margin(router: Router, scores_NE: Tensor) -> Tensor:
    """How far a token's scores are from another choice, [N]: 0 is a tie.

    The least of two gaps: between the last group kept and the best one dropped, by the sum of their
    two best experts, and within the kept groups between the last expert chosen and the next.
    """
    biased_NE = scores_NE + router.e_score_correction_bias
    gaps = list[Tensor]()
    if router.num_groups_kept < router.num_groups:
        biased_NGE = biased_NE.unflatten(-1, (router.num_groups, -1))
        groups_NG = biased_NGE.topk(2, dim=-1).values.sum(-1)
        best_NG = groups_NG.topk(router.num_groups_kept + 1, dim=-1)
        gaps.append(best_NG.values[:, -2] - best_NG.values[:, -1])
        dropped_NG = torch.ones_like(groups_NG, dtype=torch.bool)
        dropped_NG.scatter_(1, best_NG.indices[:, :-1], False)
        biased_NE = biased_NGE.masked_fill(dropped_NG[..., None], float("-inf")).flatten(1)
    if router.num_selected < router.num_experts:
        best_NE = biased_NE.topk(router.num_selected + 1, dim=-1).values
        gaps.append(best_NE[:, -2] - best_NE[:, -1])
    if not gaps:
        return scores_NE.new_full((len(scores_NE),), float("inf"))
    return torch.stack(gaps).amin(0)


def computes_exactly(policy: nn.Module, rounds: bool) -> bool:
    """Whether a policy computes in float32 throughout, unless it or its sampler `rounds`."""
    if rounds or any(isinstance(module, Fp8Linear) for module in policy.modules()):
        return False
    return all(p.dtype == torch.float32 for p in policy.parameters())
