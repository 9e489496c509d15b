"""What a run came to, in words: every end and every verdict has its sentence, with its n."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_cases import write_run

from critic.critique import Critique, Flaw
from critic.meta import ClaimResult
from pipelines.game.bout import CheckedCritique, Pointing
from pipelines.report.account import account
from pipelines.report.bouts import bouts
from pipelines.report.read import RunData, read_run
from pipelines.run.round_log import transcript
from rewards.chain import ChainDialect

BEFORE = {"mean_at_k": 0.1, "mean_at_k_interval": [0.05, 0.15], "num_tasks": 64, "num_samples": 8}
AFTER = {"mean_at_k": 0.3, "mean_at_k_interval": [0.2, 0.4], "num_tasks": 64, "num_samples": 8}
CRITIC = {"num_solutions": 96, "location_accuracy": 0.5, "false_accusations": 0.25, "parsed": 0.99}
ROUNDS = ({"kind": "round", "round": 0, "monitor/state": "ok"},) * 2


def finished(verdict: str, level: str = "ok", **judged: str) -> RunData:
    changes = {"mean_at_k": {"value": 0.2, "interval": [0.1, 0.3], "verdict": verdict}}
    changes |= {name: {"verdict": said} for name, said in judged.items()}
    last = {"kind": "round", "round": 1, "monitor/state": level, "monitor/reasons": ["novelty"]}
    summary = {"before": BEFORE | CRITIC, "after": AFTER | CRITIC, "change": changes}
    status: dict[str, object] = {"state": "finished", "next": "model: x"}
    return RunData(Path(), (ROUNDS[0], last), status, {}, {}, summary, (), ())


@pytest.mark.parametrize(
    ("run", "tone", "health"),
    [
        (finished("better"), "good", "yes: nothing speaks against it; all 2 rounds are complete"),
        (finished("unchanged"), "warn", "no fault found, and no gain shown"),
        (finished("unknown"), "warn", "no fault found, and no gain shown"),
        (finished("worse"), "bad", "no: the learner got worse"),
        (finished("better", "warn"), "warn", "in doubt: the monitor stands at warn"),
        (finished("better", auroc="worse"), "warn", "in part: the critic got worse"),
    ],
)
def test_health(run: RunData, tone: str, health: str) -> None:
    said = account(run)
    assert said.health.startswith(health) and said.tone == tone


def test_a_gain_is_said_with_its_n_and_whether_it_may_be_chance() -> None:
    assert account(finished("better")).learner == (
        "10.0% [5.0, 15.0] → 30.0% [20.0, 40.0] of its samples are right (mean@8, 64 test tasks): "
        "+20.0 points [+10.0, +30.0], more than chance explains"
    )
    assert account(finished("unchanged")).learner.endswith("no more than chance explains")
    assert account(finished("unknown")).learner.endswith("too few tasks to tell it from chance")


def test_the_critic_and_the_monitor() -> None:
    said = account(finished("better", "warn", auroc="worse", brier="better"))
    assert said.critic == (
        "names the first wrong step in 50.0% → 50.0% and accuses 25.0% → 25.0% of sound solutions "
        "(96 audited solutions); worse beyond chance: AUROC; better: Brier score"
    )
    assert said.monitor == "warn since round 1: novelty"
    run = finished("better")
    mute = replace(run, summary={**run.summary, "after": AFTER | CRITIC | {"parsed": 0.02}})
    assert account(mute).critic.startswith("only 2% of its critiques could be read")
    right = {"location_accuracy": None}  # a run whose audit has no flawed solution
    summary = {"before": BEFORE | CRITIC | right, "after": AFTER | CRITIC | right}
    assert account(replace(run, summary=summary)).critic == (
        "accuses 25.0% → 25.0% of sound solutions (96 audited solutions, none with a known wrong "
        "step)"
    )
    silent = replace(run, summary={"before": BEFORE, "after": AFTER})
    assert account(silent).critic == "it was not asked"


@pytest.mark.parametrize(
    ("status", "tone", "health"),
    [
        ({"state": "interrupted", "round": 1}, "warn", "stopped by hand in round 1"),
        ({"state": "failed", "round": 1, "error": "E: x"}, "bad", "no: failed in round 1: E: x"),
        (
            {"state": "halted", "round": 1, "reasons": ["a", "b"]},
            "bad",
            "no: halted by the monitor",
        ),
        ({"state": "running", "round": 1}, "warn", "not at its end: it goes on in round 1, or was"),
        ({}, "warn", "unknown: how it ended is not recorded; 2 of 4 rounds are complete"),
    ],
)
def test_ends_before_the_last_round(status: dict[str, object], tone: str, health: str) -> None:
    run = replace(finished("better"), status=status, config={"run": {"rounds": 4}}, summary={})
    said = account(run)
    assert said.health.startswith(health) and said.tone == tone
    assert said.learner == "not measured yet" and "test tasks" not in said.learner


def test_without_an_end_the_gold_probe_speaks(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run / "summary.json").unlink()
    (run / "status.json").write_text(json.dumps({"state": "running", "round": 8}))
    said = account(read_run(run)).learner
    assert said.startswith("35.0% → ") and "up to round 7; whether that is chance" in said


def test_a_bout_shows_who_marked_which_step_and_what_was_found(tmp_path: Path) -> None:
    text = "a4=40\nb9=41>41"
    solution = ChainDialect().parse_solution(text, truncated=False)
    flaw = Flaw(step=solution.steps[1].id, quote="b9=41", type="value",
                evidence_kind="recompute", payload="31")  # fmt: skip
    judged = CheckedCritique(
        text="a4=40.b9=31.~1", critique=Critique((), (flaw,), "flawed", 0.15),
        claims=(ClaimResult(flaw, "confirmed"),), weights_hash="",
    )  # fmt: skip
    bout = SimpleNamespace(
        task=SimpleNamespace(id="t", question="4 + 9 <b>", reference="13"), solution=solution,
        prefix="a4=40\n", verdict=SimpleNamespace(outcome="incorrect"), reward=0.0, judged=judged,
        pointing=Pointing(index=1, source="critic", status="confirmed", right_step="b9=31"),
    )  # fmt: skip
    (tmp_path / "transcripts").mkdir()
    path = tmp_path / "transcripts" / "round_00003.jsonl"
    path.write_text(json.dumps(transcript(bout)) + "\n")  # type: ignore[arg-type]
    html = bouts(read_run(tmp_path))
    assert "Round 3" in html and "1 of 1 kept bouts" in html and "4 + 9 &lt;b&gt;" in html
    assert (
        "a4=40\n<i>│</i><mark>b9=41</mark><em>← critic: confirmed, should be b9=31; "
        "critic&#x27;s claim: confirmed, should be 31</em>&gt;41"
    ) in html
    assert "flawed, 15% sure that the answer passes" in html
