"""Runs on data sets as users bring them: short, with faulty rows and problems that are too long."""

import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
from pipeline_cases import CONFIG, SHORT_RUN, random_moe, refused, rows, status

from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rl import main
from pipelines.settings.load import load_settings

pytestmark = pytest.mark.timeout(600)
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
FREE = (
    *SHORT_RUN, "tasks.dialect=free", "tasks.source=dataset", 'tasks.family=""', "tasks.params={}",
    "rollout.engine=transformers", "rollout.max_model_len=900", "run.rounds=2",
    "learner.max_completion_length=4", "critic.max_completion_length=4", "critic.planted_share=0",
    "evaluate.num_samples=1", "pointing.reset_share=0", "learner.steps_per_round=1",
    "learner.grpo.per_device_train_batch_size=64", "learner.grpo.num_generations=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that takes conversations."""
    tokenizer, folder = character_tokenizer(), tmp_path_factory.mktemp("chat") / "moe"
    tokenizer.chat_template = CHAT
    random_moe(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gsm8k(path: Path, num: int, num_long: int = 0, faulty: bool = False) -> Path:
    """A data set in GSM8K's form, saved to disk."""
    asked = [f"Ann has {n} eggs and gets 1 more. How many?" for n in range(num)]
    asked += [f"Ann has {n} eggs. " + "She waits. " * 90 + "How many?" for n in range(num_long)]
    solved = [f"She has {n} + 1 = <<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}" for n in range(num)]
    solved += [f"Still {n}.\n#### {n}" for n in range(num_long)]
    if faulty:
        asked, solved = [*asked, "And then?"], [*solved, "nobody knows"]
    datasets.Dataset.from_dict({"question": asked, "answer": solved}).save_to_disk(path)
    return path


def arguments(chat: Path, run: Path, data: Path, *more: str) -> list[str]:
    return [
        "--config", str(CONFIG), f"run.directory={run}", f"learner.model={chat}",
        f"critic.model={chat}", *FREE, f"tasks.path={data}", "tasks.answer_pattern=gsm8k", *more,
    ]  # fmt: skip


def test_a_short_data_set_with_faults_and_long_problems_is_played(
    chat: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sixty problems, of which each round plays 32; ten more do not fit, one has no answer."""
    data, run = gsm8k(tmp_path / "gsm8k", 60, num_long=10, faulty=True), tmp_path / "run"
    command = arguments(chat, run, data)
    line = refused(capfd, main, command)
    assert "row 70: the answer pattern 'gsm8k' is not in it" in line and not run.exists()

    assert main([*command, "tasks.skip_faulty_rows=true"]) == 0
    assert status(run)["state"] == "finished"
    report = json.loads((run / "tasks.json").read_text())
    (listed,) = report["lists"]
    assert listed["num_rows"] == 71 and len(listed["faults"]) == 1
    assert listed["num_too_long"] == len(report["too_long"]) == 10
    assert sum(listed["num_tasks"].values()) == 60 and report["held_out"]["test"] <= 8
    notes = [str(row["note"]) for row in rows(run, "note")]
    for said in (
        "10 problems are too long",
        "1 of 71 rows",
        "is short",
        "that [evaluate] asks for",
    ):
        assert any(said in note for note in notes), (said, notes)
    epochs = [row["tasks/epochs"] for row in rows(run, "round")]
    num_train = listed["num_tasks"]["train"]
    assert epochs == pytest.approx([32 / num_train, 64 / num_train])
    assert max(played(run).values()) == 2 and len(played(run)) == num_train


def played(run: Path) -> Counter[str]:
    """How often the last checkpoint says that each task was played."""
    state = json.loads((run / "checkpoints" / "round_00001" / "state.json").read_text())
    return Counter(state["curriculum"]["played"])


def test_a_resumed_run_goes_on_with_its_epoch(chat: Path, tmp_path: Path) -> None:
    data, run = gsm8k(tmp_path / "gsm8k", 90), tmp_path / "run"
    assert main(arguments(chat, run, data, "run.rounds=1")) == 0
    assert main(["--resume", str(run), "run.rounds=2"]) == 0
    counts = played(run)
    assert counts.total() == 64 and max(counts.values()) == 1, "no problem twice within an epoch"


def test_a_context_that_holds_no_problem_is_refused(
    chat: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = gsm8k(tmp_path / "gsm8k", 12)
    command = arguments(chat, tmp_path / "run", data, "rollout.max_model_len=100")
    line = refused(capfd, main, command)
    assert "rollout.max_model_len = 100 is too small: the critic's prompts have" in line
    assert not (tmp_path / "run").exists()


def test_settings_of_sources_that_do_not_fit_are_named(tmp_path: Path) -> None:
    for overrides, message in (
        (["tasks.source=jsonl"], 'source = "jsonl" needs a path'),
        (["tasks.source=jsonl", "tasks.path=x", "tasks.test_split=test"], "a dataset's"),
        (["tasks.source=jsonl", "tasks.path=x"], "params are reasoning-gym's"),
        (["tasks.answer_pattern=gms8k"], 'did you mean "gsm8k"'),
        (["tasks.answer_field_=x"], 'did you mean "answer_field"'),
        (
            ['tasks.family=""', "tasks.params={}", "tasks.mixture=[{source='dataset'}]"],
            r"mixture\[0\]: source = \"dataset\" needs a path",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load_settings(CONFIG, overrides)
