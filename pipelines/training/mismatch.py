"""How far the sampler is from the policy it claims to be: log-probabilities and experts.

Both score the same tokens with the same weights, so that every difference is rounding, or a fault;
a batch drawn ahead (`training/block_rollouts.py`) also shows the update since.
Leaves out what is done about it: importance correction is TRL's, replay is in `training/replay.py`.

Axes: B sequences, T tokens, N = B * T, L layers with routed experts, K experts of a token, E
experts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.experts.router import Router, select_experts
from model.fp8.linear import Fp8Linear
from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UnprovenSyncError

Reduce = Callable[[Tensor], Tensor]  # [1, X] of one process to [processes, X]
EXACT_SHARE = 0.001  # of tokens that may be routed otherwise where both compute in float32
EXACT_SLACK = 3  # tokens more, of all and of each sequence: scores can be equal but for rounding
ROUNDED_SHARE = 0.5  # of tokens and layers otherwise; routes of another token differ in most


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


class ExpertMismatch:
    """Tokens for which the policy would choose other experts than the sampler did.

    Under replay the policy is asked at the replayed inputs, so that one layer's difference does
    not become all later layers'.

    Args:
        own_BTLK: the policy's choices.
        routes_BTLK: the sampler's, -1 where a token has none.
        layers: numbers of the layers.
        gather: over processes.
    """

    def __init__(
        self, own_BTLK: Tensor, routes_BTLK: Tensor, layers: list[int], gather: Reduce
    ) -> None:
        known_BT = (routes_BTLK >= 0).any(-1).all(-1)
        same_BTL = (own_BTLK.sort(-1).values == routes_BTLK.sort(-1).values).all(-1)
        differs_BTL = ~same_BTL & known_BT[..., None]
        anywhere_B, tokens_B = differs_BTL.any(-1).sum(1), known_BT.sum(1)
        counts = [differs_BTL.sum((0, 1)), anywhere_B.sum()[None], tokens_B.sum()[None]]
        *by_layer, anywhere, num_tokens = gather(torch.cat(counts)[None]).sum(0).tolist()
        self.num_tokens, self.anywhere = num_tokens, anywhere
        self.by_layer = dict(zip(layers, by_layer, strict=True))
        mean_B = differs_BTL.sum(1).float().mean(-1)  # over layers
        over = [anywhere_B - EXACT_SHARE * tokens_B, mean_B - ROUNDED_SHARE * tokens_B]
        worst = torch.stack([excess_B.max() for excess_B in over])
        self.worst_exact, self.worst_rounded = gather(worst[None]).amax(0).tolist()

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
            UnprovenSyncError: too many differ.
        """
        if exact:
            found, most = self.anywhere, EXACT_SHARE * self.num_tokens + EXACT_SLACK
            worst = self.worst_exact
        else:
            found = sum(self.by_layer.values()) / max(len(self.by_layer), 1)
            most, worst = ROUNDED_SHARE * self.num_tokens + EXACT_SLACK, self.worst_rounded
        if found > most or worst > EXACT_SLACK:
            raise UnprovenSyncError(
                f"the policy would send {found:.0f} of {self.num_tokens} tokens to other experts "
                f"than the sampler did, {most:.1f} may differ, and of one sequence {worst:.0f} "
                f"tokens more than its share, where {EXACT_SLACK} may: the routes are other "
                "tokens', or the engine holds other weights"
            )


@contextmanager
def own_choices(moe: SparringMoeForCausalLM) -> Iterator[list[Tensor]]:
    """The experts [N, L, K] that the model itself prefers in each pass, whatever is replayed."""
    num_layers = moe.config.num_hidden_layers  # those beyond predict further tokens
    routers = [router for layer, router in moe.routers().items() if layer < num_layers]
    passes: list[Tensor] = []
    layers: list[Tensor] = []

    def note(router: Router, _inputs: tuple, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        layers.append(preferred(router, outputs[2]))
        if len(layers) == len(routers):
            passes.append(torch.stack(layers, dim=1))
            layers.clear()

    handles = [router.register_forward_hook(note) for router in routers]
    try:
        yield passes
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


def computes_exactly(policy: nn.Module, rounds: bool) -> bool:
    """Whether a policy computes in float32 throughout, unless it or its sampler `rounds`."""
    if rounds or any(isinstance(module, Fp8Linear) for module in policy.modules()):
        return False
    return all(p.dtype == torch.float32 for p in policy.parameters())
