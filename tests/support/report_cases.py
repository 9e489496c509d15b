"""A run that improves and then collapses, written by hand with the monitor's real decisions."""

import json
import math
from pathlib import Path

from critic.monitor.decide import check
from critic.monitor.readings import reading
from critic.monitor.replay import readings_row
from critic.monitor.settings import MonitorSettings
from critic.monitor.state import MonitorState

JsonRow = dict[str, object]
STAGES = ("learner", "critic", "gate", "monitor", "commit")


def step_rows(round_: int) -> list[JsonRow]:
    return [
        {
            "kind": "step",
            "role": role,
            "round": round_,
            "step": 4 * round_ + index,
            "reward/mean": level + 0.03 * round_ + 0.005 * index,
            "reward/std": 0.2,
            **({"reward/pass_rate": level} if role == "learner" else {}),
            "rollout/token_entropy": 0.5 - 0.03 * round_ - 0.004 * index,
            "policy/loss": 0.01,
            "time/generate": 1.1,
        }
        for role, level in (("learner", 0.35), ("critic", 0.5))
        for index in range(4)
    ]


def metrics(num_rounds: int = 8) -> list[JsonRow]:
    """Rows of a run that improves, then collapses; the monitor's fields are its real decisions."""
    rows: list[JsonRow] = []
    state = MonitorState()
    for t in range(num_rounds):
        bad = max(t - 5, 0)
        accuracy = max(0.35 + 0.03 * min(t, 5) - 0.35 * bad, 0.0)
        means = {
            "token_entropy": 0.5 - 0.03 * t - 0.1 * bad,
            "answer_entropy_across": 2.6 - 0.8 * bad,
            "answer_entropy_within": max(1.2 - 0.05 * t - 0.6 * bad, 0.0),
            "mutual_information": max(1.4 - 0.95 * bad, 0.0),
            "distinct_ratio": 0.8 - 0.2 * bad,
            "effective_groups": math.nan if t == 0 else 0.7,
            "gold_nll": 0.9 - 0.02 * t + 0.4 * bad,
            "gold_accuracy": accuracy,
            "critic_brier": 0.1,
        }
        readings = {name: reading(mean, 0.02) for name, mean in means.items()}
        state, health = check(state, readings, MonitorSettings())
        rows += step_rows(t)
        rows.append(
            {
                "kind": "round",
                "round": t,
                "probe/mean_at_k": accuracy,
                "probe/nll": means["gold_nll"],
                "critic/auroc": 0.6 + 0.03 * t,
                "critic/ece": 0.25 - 0.02 * t,
                "critic/false_accusations": 0.04 + 0.02 * t,
                "critic/fresh/location_accuracy": 0.5 - 0.02 * t,
                "monitor/state": health.state,
                **readings_row(readings),
                "monitor/alarms": list(health.alarms),
                "monitor/actions": [action.model_dump() for action in health.actions],
                "monitor/reasons": list(health.reasons),
                "gate/admitted": 100 + t,
                "gate/rejected": {"incorrect": 40 - t, "near_duplicate": 5},
                "moe/load": [[120 + 9 * t, 80, 100 - 9 * t, 100], [90, 110, 130, 70]],
                "critic/num_solutions": 96,
                **{f"time/{stage}": 2.0 + index for index, stage in enumerate(STAGES)},
                "time/learner: generate": 1.5,
            }
        )
    return rows


def write_run(folder: Path) -> Path:
    run = folder / "tiny-seed0"
    (run / "transcripts").mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics()))
    documents: dict[str, JsonRow] = {
        "status": {"state": "halted", "reason": "Entropy Threshold", "round": 7},
        "config": {"run": {"seed": 0, "rounds": 8}, "learner": {"model": ""}},
        "versions": {"torch": "2.13.0", "trl": "1.16.0", "commit": "abc1234"},
        "summary": {
            "before": {"mean_at_k": 0.352, "mean_at_k_interval": [0.32, 0.38], "ece": 0.25}
            | {"false_accusations": 0.04, "brier": 0.088, "by_kind": {}, "ece_perfect": 0.0625},
            "after": {"mean_at_k": 0.511, "mean_at_k_interval": [0.48, 0.54], "ece": 0.11}
            | {"false_accusations": 0.403, "brier": 0.188, "by_kind": {}, "ece_perfect": 0.0625},
            "change": {
                "mean_at_k": {"value": 0.159, "interval": [0.12, 0.19], "verdict": "better"},
                "false_accusations": {"value": 0.363, "interval": [0.3, 0.4], "verdict": "worse"},
                "brier": {"value": 0.1, "interval": [-0.01, 0.2], "verdict": "unchanged"},
            },
            "fresh": {
                "first": {"location_accuracy": 0.734},
                "last": {
                    "location_accuracy": 0.321,
                    "parsed": 0.987,
                    "by_kind": {
                        "carry <b>": {
                            "share": 0.62,
                            "num": 1240,
                            "location_accuracy": 0.1111,
                            "location_accuracy_interval": [0.05, 0.17],
                        },
                    },
                },
                "change": {
                    "location_accuracy": {"value": -0.413, "interval": None, "verdict": "unknown"}
                },
            },
            "stages": {"cold start": 101.25, "self-play": 240.5, "self-play: generate": 200.0},
            "seconds": 350.0,
            "monitor": "halt",
        },
    }
    for name, document in documents.items():
        (run / f"{name}.json").write_text(json.dumps(document))
    sample = {"task": "t1", "reward": 1.0, "problem": "a4b1c7d10 <script>alert(1)</script>"}
    (run / "transcripts" / "round 0.jsonl").write_text(json.dumps(sample) + "\n")
    for number in range(1, 5):
        text = f"transcript of round {number}: a4=40"
        (run / "transcripts" / f"round_{number}.md").write_text(text)
    return run
