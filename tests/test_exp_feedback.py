"""The arms of the feedback comparison: equal updates, and what tells them apart."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from exp_feedback import (
    ARMS,
    SEEDS,
    SWEPT,
    Job,
    best_rates,
    is_current,
    job_of,
    jobs,
    overrides_of,
    table,
)
from harness import ROOT

from pipelines.settings.load import load_settings
from pipelines.settings.tables import Settings


def _settings(arm: str) -> Settings:
    return load_settings(ROOT / "configs" / "tiny.toml", overrides_of(Job(arm, "3e-4", 0), ()))


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_takes_as_many_updates_and_learns_from_nothing_else(arm: str) -> None:
    settings = _settings(arm)
    taken = settings.learner.steps_per_round + settings.feedback.steps + settings.proposer.steps
    assert taken == 8
    assert settings.critic.steps_per_round == settings.critic.imitation_steps == 0
    assert settings.pointing.source == "none" and settings.pointing.reset_share == 0
    restricts = ("verified_only",) if arm == "guarded" else ()
    assert settings.monitor.offers == restricts
    assert (settings.feedback.gate == "none") == (arm in ("ungated", "guarded"))


def test_the_guarded_arm_takes_the_rate_of_the_one_that_it_guards() -> None:
    rates = {arm: f"{place}e-4" for place, arm in enumerate(SWEPT)}
    played = list(jobs("run", rates))
    assert len(played) == len(SEEDS) * len(ARMS) and len(SEEDS) >= 5
    assert {job.rate for job in played if job.arm in ("ungated", "guarded")} == {rates["ungated"]}
    assert [job_of(job.name) for job in played] == played
    assert len(list(jobs("sweep", {}))) == 30


def test_a_rate_wins_by_its_whole_curve_and_a_halt_is_no_shortcut() -> None:
    """A run that was halted early holds its last reading: its mean is not of its best rounds."""
    found = {
        "rft/1e-4/100": _run(0.1, 0.2, 0.3),
        "rft/3e-4/100": _run(0.1, 0.3, 0.5),
        "ungated/1e-4/100": _run(0.2, 0.2, 0.2),
        "ungated/3e-4/100": _run(0.3, 0.0, halted=True),
        "rft/1e-3/0": _run(0.9, 0.9, 0.9),
    }
    assert best_rates(found) == {"rft": "3e-4", "ungated": "1e-4"}


def test_the_table_counts_the_updates_that_were_taken() -> None:
    lines = table({"rft/3e-4/0": _run(0.1, 0.3), "none/3e-4/0": _run(0.1, 0.2)}).splitlines()
    assert {line.count("|") for line in lines} == {15}
    rft, none = (line.split(" | ") for line in lines[2:])
    assert rft[6] == "10, 2" and none[6] == "16, 2"
    assert rft[4].startswith("0.300") and rft[9] == "0.80"


def test_a_result_counts_only_if_it_was_played_as_its_arm_is_today() -> None:
    job = Job("rft", "3e-4", 0)
    found = {"overrides": overrides_of(job, ())}
    assert is_current(job.name, found, ())
    assert not is_current("rft+replay/3e-4/0", found, ())
    assert not is_current(job.name, found, ("run.rounds=2",))


def _run(*accuracies: float, halted: bool = False) -> dict:
    point = {"train/seconds": 10.0, "tokens/rollouts": 1000, "monitor/state": "ok"}
    fed = {"feedback/steps": 1, "feedback/accuracy": 0.8, "time/feedback": 1.0}
    return {
        "rounds": [{**point, "probe/mean_at_k": one} for one in accuracies],
        "feedback": [fed for _ in accuracies],
        "before": {"figures": {"mean_at_k": 0.01}},
        "halted": halted,
    }
