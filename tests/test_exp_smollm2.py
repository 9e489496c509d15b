"""The campaign on SmolLM2: what it compares a critic with, and what a kept result counts for."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from exp_smollm2 import ARMS, CONFIG, is_current, majority, overrides_of, table

from pipelines.settings.load import load_settings


def test_the_baseline_names_the_commonest_first_wrong_step() -> None:
    assert majority({"first_bad": ["1", "2", None, "1", "1"]}) == 0.75
    assert majority({"first_bad": [None]}) is None and majority({}) is None


def test_a_result_counts_only_if_it_was_played_as_its_arm_is_today() -> None:
    found = {"overrides": overrides_of("shuffled", 1, ())}
    assert is_current("shuffled/1", found, ())
    assert not is_current("trained/1", found, ())
    assert not is_current("shuffled/1", found, ("run.rounds=2",))


def test_every_arm_is_a_configuration_that_loads() -> None:
    for arm in ARMS:
        settings = load_settings(CONFIG, overrides_of(arm, 2, ()))
        assert settings.run.seed == 2 and settings.rewards.shuffled == (arm == "shuffled")


def test_the_table_shows_a_run_that_was_halted() -> None:
    before = {"mean_at_k": 0.125, "mean_at_k_interval": [0.1, 0.15]}
    found = {"before": before, "rounds": [], "monitor": "halt", "seconds": None}
    row = table({"trained/0": found}).splitlines()[-1]
    assert "12.5% [10, 15]" in row and row.endswith("halt |")
