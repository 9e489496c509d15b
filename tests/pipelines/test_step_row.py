"""What a step's row says of outcomes: exact counts, whatever the rewards are."""

import pytest
import torch

from pipelines.rollouts.sample import Scored
from pipelines.training.step_row import OutcomeCounts, known_figures

CPU = torch.device("cpu")


def _scored(*outcomes: tuple[float | None, bool | None]) -> list[Scored]:
    return [Scored(reward, passed=passed) for reward, passed in outcomes]


def test_groups_with_both_outcomes_are_counted_and_not_those_whose_rewards_differ() -> None:
    """Eight rewards of 0.99 have a float32 deviation, and shades are no outcome."""
    counts = OutcomeCounts(lambda own: own)
    shaded = _scored((0.99, True), (0.97, True), (0.85, True), (0.99, True))
    mixed = _scored((1.0, True), (0.0, False), (0.0, False), (0.0, False))
    counts.add([*shaded, *mixed], 4, CPU)
    assert counts.take() == {
        "reward/masked_samples": 0,
        "reward/pass_rate": 5 / 8,
        "reward/effective_groups": 1 / 2,
    }
    assert counts.take() == {}, "a step that draws no batch has no figures"


def test_masked_samples_count_as_wrong_and_make_no_group_effective() -> None:
    counts = OutcomeCounts(lambda own: own)
    counts.add(_scored((1.0, True), (None, None), (1.0, True), (None, None)), 4, CPU)
    counts.add(_scored((0.0, False), (None, None), (1.0, True), (0.0, False)), 4, CPU)
    assert counts.take() == {
        "reward/masked_samples": 3,
        "reward/pass_rate": 3 / 8,
        "reward/effective_groups": 1 / 2,
    }


def test_without_a_rule_there_is_no_pass_rate() -> None:
    """The critic's step: a reward is no outcome."""
    counts = OutcomeCounts(lambda own: own)
    counts.add(_scored((0.7, None), (0.1, None)), 2, CPU)
    assert counts.take() == {}


def test_groups_that_were_begun_for_the_learner_are_no_measure_of_it() -> None:
    """Their verdicts are left out, and so are masked samples among them."""
    counts = OutcomeCounts(lambda own: own)
    counts.add(_scored((1.0, None), (None, None), (1.0, True), (0.0, False)), 2, CPU)
    row = counts.take()
    assert row["reward/pass_rate"] == 0.5 and row["reward/masked_samples"] == 0


def test_counts_are_of_all_processes() -> None:
    other = torch.tensor([[0, 2, 0, 2, 0, 1]])  # two more wrong ones
    counts = OutcomeCounts(lambda own: torch.cat([own, other]))
    counts.add(_scored((1.0, True), (0.0, False)), 2, CPU)
    row = counts.take()
    assert row["reward/pass_rate"] == pytest.approx(1 / 4)
    assert row["reward/effective_groups"] == 1 / 2


def test_trls_count_of_flat_groups_is_left_out() -> None:
    assert "frac_reward_zero_std" not in known_figures({"frac_reward_zero_std": [0.3]}, {})
    assert known_figures({"frac_reward_zero_std": [0.3]}, {}) == {}
