"""configs/yours.toml: a chat model and a file of problems are all that a user must name."""

import json
from pathlib import Path

import pytest
from chat_cases import FAMILIES
from family_cases import ARCHITECTURES
from pipeline_cases import ROOT, rows, status

from pipelines.rl import main
from pipelines.settings.load import load_settings

pytestmark = pytest.mark.timeout(600)
YOURS = ROOT / "configs" / "yours.toml"
ANSWERS = ("{n}", "#### {n}", "{n} apples", "\\boxed{{{n}}}", "${n}", "{n}.0")
SMALL = (
    "rollout.engine=transformers", "run.rounds=1", "learner.steps_per_round=1",
    "learner.max_completion_length=8", "critic.steps_per_round=1", "critic.imitation_steps=0",
    "critic.max_completion_length=8", "evaluate.num_samples=1", "evaluate.num_tasks=4",
    "evaluate.num_probe_tasks=4", "evaluate.num_audit_tasks=4", "critic.critiques_per_audit=1",
)  # fmt: skip


def test_it_loads_and_is_short() -> None:
    settings = load_settings(YOURS)
    assert settings.learner.model == settings.critic.model and settings.tasks.source == "jsonl"
    lines = [line for line in YOURS.read_text().splitlines() if line and line[0] not in "#["]
    assert len(lines) <= 20, "a file that a user reads before the first run"
    assert sum("<-" in line for line in lines) == 5, "what a user must look at is marked"


def test_a_run_starts_from_it(tmp_path: Path) -> None:
    """Sixty problems, whose answers are written in six ways, and a tiny model of a real family."""
    tokenizer, model = FAMILIES["Qwen3"].tokenizer(), tmp_path / "model"
    ARCHITECTURES["Qwen3"](tokenizer).save_pretrained(model)
    tokenizer.save_pretrained(model)
    problems = [
        {"question": f"Ann has {n} apples and gets 1 more. How many?", "answer": style}
        for n in range(60)
        for style in [ANSWERS[n % len(ANSWERS)].format(n=n + 1)]
    ]
    file, run = tmp_path / "mine.jsonl", tmp_path / "run"
    file.write_text("".join(f"{json.dumps(problem)}\n" for problem in problems))
    paths = (f"learner.model={model}", f"critic.model={model}", f"tasks.path={file}")
    assert main(["--config", str(YOURS), f"run.directory={run}", *paths, *SMALL]) == 0

    assert status(run)["state"] == "finished"
    (listed,) = json.loads((run / "tasks.json").read_text())["lists"]
    assert listed["num_rows"] == 60 and not listed["faults"]
    assert len(rows(run, "round")) == 1
    assert (run / "checkpoints" / "round_00000" / "learner" / "model.safetensors").exists()
