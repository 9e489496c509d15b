"""How much of a batch TRL's importance correction leaves, and what a role's GRPO is by default.

Axes: B sequences, T tokens.
"""

import pytest
import torch
from pipeline_cases import CONFIG

from pipelines.run.build import LONG_COMPLETION, _grpo_config, _spec
from pipelines.settings.load import load_settings
from pipelines.training.mismatch import importance_figures


def test_the_importance_corrections_share_is_of_what_it_weighs() -> None:
    """Completions where they are weighed whole, tokens elsewhere; padding is neither."""
    mask_BT = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
    whole = importance_figures(torch.tensor([[1.0], [0.0], [2.0], [9.0]]), mask_BT, lambda x: x)
    assert whole["policy/importance_dropped"] == pytest.approx(1 / 3)
    assert whole["policy/importance_ess"] == pytest.approx((1 + 2) ** 2 / (1 + 4) / 3)
    ratios_BT = torch.full((4, 3), 0.7).masked_fill(mask_BT == 0, 50.0)
    tokens = importance_figures(ratios_BT, mask_BT, lambda x: x)
    assert tokens["policy/importance_dropped"] == 0
    assert tokens["policy/importance_ess"] == pytest.approx(1), "all weigh the same"
    twice = importance_figures(ratios_BT, mask_BT, lambda x: x.repeat(2, 1))
    assert twice == pytest.approx(tokens), "two processes alike are as one"
    none = importance_figures(torch.zeros(4, 1), mask_BT, lambda x: x)
    assert none == {"policy/importance_dropped": 1.0, "policy/importance_ess": 0.0}
    nothing = importance_figures(torch.ones(4, 1), torch.zeros(4, 3), lambda x: x)
    assert nothing == {"policy/importance_dropped": 0.0, "policy/importance_ess": 0.0}


def test_a_long_completion_is_hardly_ever_weighed_whole() -> None:
    """Why ratios are taken per token beyond a length: rounding of 0.02 nats, over 8192 tokens."""
    generator = torch.Generator().manual_seed(0)
    rounding_BT = 0.02 * torch.randn(256, 8192, generator=generator)
    mask_BT = torch.ones(256, 8192)
    whole_B1 = rounding_BT.sum(1, keepdim=True).exp()
    whole = importance_figures(whole_B1.masked_fill(whole_B1 > 3, 0.0), mask_BT, lambda x: x)
    tokens = importance_figures(rounding_BT.exp().clamp(max=3), mask_BT, lambda x: x)
    assert whole["policy/importance_ess"] < 0.5 < 0.99 < tokens["policy/importance_ess"]
    assert whole["policy/importance_dropped"] > 0.02 > tokens["policy/importance_dropped"]


@pytest.mark.parametrize(
    ("num_tokens", "table", "mode"),
    [
        (LONG_COMPLETION, "", "sequence_mask"),
        (LONG_COMPLETION + 1, "", "token_truncate"),
        (LONG_COMPLETION + 1, "sequence_truncate", "sequence_truncate"),
    ],
)
def test_ratios_are_per_token_beyond_a_length(num_tokens: int, table: str, mode: str) -> None:
    """Unless the table says otherwise."""
    given = [f"learner.grpo.vllm_importance_sampling_mode={table}"] if table else []
    length = f"learner.max_completion_length={num_tokens}"
    settings = load_settings(CONFIG, [length, "rollout.max_model_len=4096", *given])
    config = _grpo_config("learner", settings, settings.learner)
    assert config.vllm_importance_sampling_mode == mode


def test_only_the_learners_rewards_are_divided_by_a_groups_spread() -> None:
    """The critic's reward is proper only undivided; a table may ask for it all the same."""
    settings = load_settings(CONFIG, ["pointing.flaw_penalty=0.5"])
    specs = {
        name: _spec(name, settings, role)
        for name, role in (("learner", settings.learner), ("critic", settings.critic))
    }
    assert specs["learner"].grpo.scale_rewards == "group"
    assert specs["critic"].grpo.scale_rewards == "none"
    assert specs["learner"].flaw_penalty == 0.5
    asked = load_settings(CONFIG, ["critic.grpo.scale_rewards=group"])
    assert _grpo_config("critic", asked, asked.critic).scale_rewards == "group"
