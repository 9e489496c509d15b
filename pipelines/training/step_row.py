"""The metrics row of an optimizer step, under our names."""

LOG_NAMES = {
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
