"""The metrics row of an optimizer step: TRL's figures under our names, and our own beside them."""

import math
from collections.abc import Mapping, Sequence

# TRL's name and ours.
NAMES = {
    "reward": "reward/mean",
    "reward_std": "reward/std",
    "frac_reward_zero_std": "reward/zero_std_groups",
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
