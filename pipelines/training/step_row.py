"""The metrics row of an optimizer step: TRL's figures under our names, and our own beside them."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pipelines.rollouts.sample import Scored
from pipelines.rollouts.sampler import Sampler

# TRL's name and ours.
NAMES = {
    "reward": "reward/mean",
    "reward_std": "reward/std",
    "entropy": "rollout/token_entropy",
    "completions/mean_length": "rollout/mean_length",
    "completions/clipped_ratio": "rollout/truncated",
    "kl": "policy/kl",
    "loss": "policy/loss",
    "grad_norm": "policy/grad_norm",
    "learning_rate": "policy/learning_rate",
    "step_time": "time/step",
    "sampling/importance_sampling_ratio/mean": "policy/importance_ratio_mean",
    "clip_ratio/region_mean": "policy/clip_ratio",
    "aux_loss": "moe/balance_loss",
    "indexer_loss": "policy/indexer_loss",
}


def known_figures(
    metrics: Mapping[str, Sequence[float]], logs: Mapping[str, float]
) -> dict[str, float]:
    """TRL's figures under our names; the others are left out.

    What is not finite is left out too: where every reward is masked there is no mean reward.

    Args:
        metrics: what the trainer collected over the step, averaged here.
        logs: what transformers' trainer logs of the step; it wins.
    """
    means = {key: sum(values) / len(values) for key, values in metrics.items() if values}
    found = {NAMES[key]: value for key, value in (means | dict(logs)).items() if key in NAMES}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def stage_figures(
    seconds: Mapping[str, float], sync_costs: Mapping[str, float]
) -> dict[str, float]:
    """Seconds by stage, and what the syncs cost."""
    row = {f"time/{stage}": round(spent, 4) for stage, spent in seconds.items()}
    return row | {f"time/sync/{name}": cost for name, cost in sync_costs.items()}


def take_sampler_figures(sampler: Sampler) -> dict[str, object]:
    """What a sampler did since the last call: concurrency, seconds by stage, costs of the syncs."""
    row: dict[str, object] = {}
    if sampler.engine.concurrency is not None:
        row["rollout/concurrency"] = sampler.engine.concurrency.take_lowest()
    costs = {} if sampler.sync is None else sampler.sync.take_costs()
    row |= stage_figures(sampler.seconds, costs)
    sampler.seconds.clear()
    return row


class OutcomeCounts:
    """Counts a step's outcomes over all processes, from what the rule says and not from rewards.

    Args:
        gather: the tensors of all processes, given one's own.
    """

    def __init__(self, gather: Callable[[Tensor], Tensor]) -> None:
        self.gather, self._counts = gather, Counter[str]()

    def add(self, scored: Sequence[Scored], group_size: int, device: torch.device) -> None:
        """Count a batch, groups adjacent; what was rewarded without a rule's word is left out."""
        groups = [scored[n : n + group_size] for n in range(0, len(scored), group_size)]
        groups = [group for group in groups if not any(map(_is_unjudged, group))]
        scored = [one for group in groups for one in group]
        own = {
            "passed": sum(one.passed is True for one in scored),
            "judged": sum(one.passed is not None for one in scored),
            "masked": sum(one.reward is None for one in scored),
            "samples": len(scored),
            "effective": sum({True, False} <= {one.passed for one in group} for group in groups),
            "groups": len(groups),
        }
        counts_PC = self.gather(torch.tensor([list(own.values())], device=device))
        self._counts.update(dict(zip(own, counts_PC.sum(0).tolist(), strict=True)))

    def take(self) -> dict[str, float]:
        """The figures since the last call; nothing where no batch was scored.

        The pass rate counts masked samples as wrong. Without a rule's judgement there is no rate.
        """
        found, self._counts = self._counts, Counter()
        if not found["samples"]:
            return {}
        row: dict[str, float] = {"reward/masked_samples": found["masked"]}
        if found["judged"]:
            row["reward/pass_rate"] = found["passed"] / found["samples"]
            row["reward/effective_groups"] = found["effective"] / found["groups"]
        return row


def _is_unjudged(one: Scored) -> bool:
    return one.passed is None and one.reward is not None
