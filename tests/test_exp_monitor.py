"""The proof grid's arithmetic on made-up runs: events, leads, baselines, ablations, intervals."""

import random
import sys
from pathlib import Path

import pytest
from critic_cases import chain_task

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from biased_judge import likes_brevity, likes_length, likes_size
from exp_monitor import (
    ARMS,
    FAMILIES,
    Job,
    is_current,
    jobs,
    outcome,
    overrides_of,
    settings_of,
    show,
)
from mixes import Attempt, kept
from monitor_tables import (
    BASELINES,
    FROZEN,
    NUM_SAMPLES,
    NUM_TASKS,
    ablated,
    chosen,
    detector_table,
    event_of,
    judge,
    once,
    points,
    saved,
    score,
    share,
    signal,
)

from critic.monitor.calibrate import BEFORE, ERRORS
from critic.monitor.settings import GOLD
from pipelines.settings.load import load_settings


def point(accuracy: float, rng: random.Random, **signals: float) -> dict[str, object]:
    means = {**BEFORE, GOLD: accuracy, "training_reward": accuracy, **signals}
    noisy = {name: mean + rng.gauss(0, ERRORS[name]) for name, mean in means.items()}
    held_out = sum(rng.random() < accuracy for _ in range(HELD_OUT)) / HELD_OUT
    return {
        "evaluation/mean_at_k": held_out, "kl": 0.0, "monitor/signals": noisy,
        "monitor/errors": dict(ERRORS),
    }  # fmt: skip


def run_of(accuracies: list[float], seed: int, **signals: float) -> dict[str, object]:
    """A run that starts at the first; once it has lost ten points the signals are as given."""
    rng = random.Random(seed)
    start, *rest = [
        point(one, rng, **(signals if one < accuracies[0] - 0.1 else {})) for one in accuracies
    ]
    return {"start": start, "rounds": rest}


HELD_OUT = NUM_TASKS * NUM_SAMPLES
STEADY = [0.5] * 17
FALLING = [0.5] * 6 + [0.5 - 0.06 * n for n in range(1, 8)] + [0.08] * 4
DULL = {"token_entropy": 0.05, "distinct_ratio": 0.2, "answer_entropy_within": 0.2}


def test_a_collapse_is_dated_and_noise_is_none() -> None:
    """At most 5% of runs that stand still, whose held-out accuracy is of 512 samples."""
    false = sum(event_of(run_of(STEADY, seed)) is not None for seed in range(100))
    assert false <= 5
    dates = [event_of(run_of(FALLING, seed)) for seed in range(20)]
    assert all(date in (5, 6, 7) for date in dates), "the second check that is 5 points lower"
    exact = {
        "start": {"evaluation/mean_at_k": 0.5},
        "rounds": [{"evaluation/mean_at_k": v} for v in (0.44,)],
    }
    assert event_of(exact) is None, "one check is none"


def test_the_monitors_own_decisions_are_replayed() -> None:
    judged = judge(run_of(FALLING, 0, **DULL))
    assert judged.last == "halt" and judged.reached["warn"] <= judged.reached["halt"]
    gained = saved(run_of(FALLING, 0, **DULL), judged)
    assert gained is not None and gained > 0.3
    quiet = judge(run_of(STEADY, 1))
    assert quiet.reached.get("halt") is None and saved(run_of(STEADY, 1), quiet) is None


def test_scores_count_false_alarms_of_health_and_leads_of_collapses() -> None:
    runs = [(True, run_of(STEADY, 1)), (False, run_of(FALLING, 2)), (False, run_of(STEADY, 3))]
    event = event_of(runs[1][1])
    assert event is not None
    early = score(runs, lambda run: event - 2)
    assert (early.healthy, early.leads) == ([True], [2]), "what did not collapse counts nowhere"
    assert score(runs, lambda run: None).leads == [None]
    assert early.cells()[1:] == ["1/1 = 100% [3%, 100%]"] * 2 + ["+2"]
    assert score(runs, lambda run: event).cells()[1].startswith("0/1"), "not before the event"
    fell = [(True, runs[1][1])]
    assert score(fell, lambda run: event - 2) == score(runs[1:2], lambda run: event - 2)


def test_baselines_choose_their_threshold_on_other_runs() -> None:
    baseline = BASELINES["gold accuracy alone"]
    healthy = [run_of(STEADY, seed) for seed in range(20)]
    threshold = chosen(baseline, healthy)
    assert sum(baseline.first(run, threshold) is not None for run in healthy) <= 1
    falling = run_of(FALLING, 30)
    found = baseline.first(falling, threshold)
    assert found is not None and 4 <= found <= 9
    low = BASELINES["token entropy"].first(run_of(FALLING, 4, token_entropy=0.01), 0.5)
    assert low is not None and low >= 5
    moved = {**falling, "rounds": [{**p, "kl": 0.3} for p in falling["rounds"]]}  # type: ignore[attr-defined, dict-item]
    assert BASELINES["KL from the start"].first(moved, 0.2) == 0
    rewards = run_of(FALLING, 5)
    assert BASELINES["fall of the mean reward"].first(rewards, 0.2) is not None


def test_an_ablated_signal_does_not_decide() -> None:
    only = run_of(STEADY, 1)
    for one in only["rounds"][8:]:  # type: ignore[index]
        one["monitor/signals"]["training_reward"] = 1.0
    assert "intervene" in judge(only).reached
    assert "intervene" not in judge(only, ablated("training_reward")).reached
    assert "training_reward" not in ablated("training_reward").active and FROZEN.offers == ()


def test_a_reading_that_was_taken_again_is_not_the_baselines() -> None:
    """They would profit from what the monitor chose to look at."""
    again = run_of(STEADY, 1)
    one = points(again)[9]
    assert isinstance(one, dict)
    now = one["monitor/signals"][GOLD]
    one["monitor/first"] = {GOLD: [now - 0.2, 0.03]}
    assert signal(one, GOLD) == now - 0.2 and one["monitor/signals"][GOLD] == now
    first = points(once(again))[9]["monitor/errors"]
    assert isinstance(first, dict) and first[GOLD] == 0.03
    assert once(run_of(STEADY, 1)) == run_of(STEADY, 1)


def test_every_table_is_drawn() -> None:
    results = {}
    for seed in range(7):
        for arm, path in (("stationary", STEADY), ("rate_x30", FALLING)):
            results[f"sums/{arm}/{seed}"] = run_of(path, seed, **DULL)
    page = show(results)
    assert "| stationary | 2 |" in page and "| monitor: halt |" in page
    assert "## the first 5 seeds" in page and "| stationary | 5 |" in page
    assert "halt without token_entropy" in page and "halt without reading again" in page
    assert detector_table([], [(False, run_of(FALLING, 1))]).count("\n") > 8


@pytest.mark.parametrize(
    ("count", "num", "said"), [(0, 20, "0/20 = 0% [0%, 17%]"), (20, 20, "20/20 = 100% [83%, 100%]")]
)
def test_intervals_are_exact(count: int, num: int, said: str) -> None:
    """Clopper-Pearson: 1 - 0.025 ** (1 / 20) is 17%."""
    assert share(count, num) == said and share(0, 0) == "-"


# -- how runs are played ------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_configuration(family: str, arm: str) -> None:
    job = Job(family, arm, 0)
    settings = load_settings(Path("configs") / "tiny.toml", overrides_of(job, ()))
    assert settings.monitor.watch_only
    assert settings.evaluate.every_rounds == 1
    assert is_current(job.name, {"overrides": settings_of(job, ())}, ())
    assert not is_current(job.name, {"overrides": settings_of(job, ("run.rounds=2",))}, ())
    assert not any("/" in one and ROOT_NAME in one for one in settings_of(job, ()))


ROOT_NAME = str(Path(__file__).resolve().parents[1])


def test_a_biased_judge_looks_at_nothing_but_its_bias() -> None:
    task, right, wrong = chain_task([4, 7]), "4 + 7 = 11\n11", "4 + 7 = 99\n99"
    assert likes_length(task, right) == likes_length(task, wrong) == len(right) / 96
    assert likes_length(task, "x" * 200) == 1 - likes_brevity(task, "x" * 200) == 1
    assert likes_brevity(task, "") == likes_size(task, wrong) == 1
    assert likes_size(task, right) == 11 / 99 and likes_size(task, "none") == 0
    assert likes_size(task, "9" * 5000) == 1, "more digits than int() reads are no error"


def test_a_campaign_that_is_cut_off_has_some_of_every_arm() -> None:
    first = list(jobs(list(FAMILIES), list(ARMS), range(2)))[: len(FAMILIES) * len(ARMS)]
    assert {job.seed for job in first} == {0}


def test_a_runs_files_are_read(tmp_path: Path) -> None:
    signals = '"monitor/signals": {"gold_accuracy": 0.123456789}, "monitor/errors": {}'
    rows = [
        f'{{"kind": "cold_start", "round": 0, "evaluation/mean_at_k": 0.5, {signals}}}',
        '{"kind": "step", "role": "learner", "round": 0, "policy/kl": 0.1}',
        '{"kind": "step", "role": "learner", "round": 0, "policy/kl": 0.3}',
        f'{{"kind": "round", "round": 0, "evaluation/mean_at_k": 0.25, {signals}}}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows))
    found = outcome(tmp_path)
    assert found["start"]["evaluation/mean_at_k"] == 0.5  # type: ignore[index]
    (only,) = found["rounds"]  # type: ignore[misc]
    assert only["kl"] == 0.2 and only["monitor/signals"] == {GOLD: 0.123457}


def test_a_generation_keeps_what_its_mix_says() -> None:
    tasks = [chain_task([4, number]) for number in range(2)]
    said = [("1", True), ("1", True), ("2", False), (None, False), ("3", False), ("3", False)]
    found = [
        Attempt(tasks[place >= 3], "", "", (), (), answer, passed)
        for place, (answer, passed) in enumerate(said)
    ]
    assert kept(found, "own") == found
    assert kept(found, "verified") == found[:2]
    assert kept(found, "voted") == [*found[:2], *found[4:]], "a majority may be wrong"
