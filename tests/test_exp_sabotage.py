"""The spoiled runs: each arm spoils what its name says, and a result counts for its own arm."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from exp_sabotage import (
    ARMS,
    SPREAD,
    Job,
    base_of,
    is_current,
    overrides_of,
    randomize,
    settings_of,
    table,
)
from harness import ROOT

from pipelines.policy.checkpoint import load_model
from pipelines.settings.load import load_settings

CONFIGS = [ROOT / "configs" / f"{name}.toml" for name in ("tiny", "smollm2")]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_spoils_one_thing(config: Path, arm: str) -> None:
    found, plain = (
        load_settings(config, overrides_of(Job(config, one, 3))) for one in (arm, "none")
    )
    assert found.run.seed == plain.run.seed == 3
    found_tables, plain_tables = found.model_dump(), plain.model_dump()
    spoiled = {
        f"{table}.{key}": value
        for table, keys in found_tables.items()
        for key, value in (keys or {}).items()
        if value != plain_tables[table][key]
    }
    rate = {**plain.learner.grpo}
    rate["learning_rate"] = pytest.approx(30 * rate["learning_rate"])
    assert (
        spoiled
        == {
            "none": {},
            "shuffled": {"rewards.shuffled": True},
            "random_critic": {"critic.imitation_steps": 0},
            "rate_x30": {"learner.grpo": rate},
        }[arm]
    )


def test_a_result_counts_only_if_it_was_played_as_its_arm_is_today() -> None:
    found = {"overrides": settings_of(Job(CONFIGS[0], "shuffled", 1))}
    assert is_current("tiny/shuffled/1", found)
    assert not is_current("tiny/shuffled/2", found) and not is_current("tiny/none/1", found)
    assert not is_current("other/shuffled/1", found)
    untaught = {"overrides": overrides_of(Job(CONFIGS[0], "random_critic", 1))}
    assert not is_current("tiny/random_critic/1", untaught), "its weights are part of the arm"


def test_one_arm_alone_is_given_a_random_critic(judgeable: Path, tmp_path: Path) -> None:
    base = tmp_path / "tiny" / "base" / "0"
    shutil.copytree(judgeable, base)
    (base / "cold_start.json").touch()
    plain = [f"sft.directory={base}"]
    for arm in ("none", "shuffled", "rate_x30"):
        assert base_of(Job(CONFIGS[0], arm, 0), tmp_path) == plain
    spoiled = base_of(Job(CONFIGS[0], "random_critic", 0), tmp_path)
    (critic,) = [one.removeprefix("critic.model=") for one in spoiled if one not in plain]
    assert Path(critic, "config.json").exists() and Path(critic) != base


def test_a_random_critic_knows_nothing_of_its_base(judgeable: Path, tmp_path: Path) -> None:
    randomize(judgeable, tmp_path / "random")
    spoiled, base = (
        dict(load_model(str(path), "float32").named_parameters())
        for path in (tmp_path / "random", judgeable)
    )
    assert spoiled.keys() == base.keys()
    for name, weight in spoiled.items():
        if weight.dim() > 1 and weight.numel() > 1000:
            assert float(weight.detach().std()) == pytest.approx(SPREAD, rel=0.2), name
            assert not torch.equal(weight, base[name]), name


def test_the_table_shows_how_a_run_went_and_what_was_said() -> None:
    found = {
        "held_out": {"before": 0.004, "after": 0.86}, "gold_accuracy": [0.5, None],
        "states": ["ok", "halt"], "reasons": ["E alarms", "x"],
    }  # fmt: skip
    assert table({"tiny/none/0": found}).splitlines()[-1] == (
        "| tiny/none/0 | 0.4% → 86.0% | 0.50, - | ok, halt | E alarms |"
    )
