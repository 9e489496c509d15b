"""What a resumed run may change, how it is told and kept, and what it may not."""

import copy
import json
import math
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from chat_cases import FAMILIES
from pipeline_cases import CONFIG, SMALLEST_RUN, arguments, random_moe, refused, rows, save, status
from transformers import get_scheduler
from trl import GRPOConfig

from pipelines import rl
from pipelines.errors import UserError
from pipelines.game.referee import Referee, verifiers_of
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.run.changes import changes, check_changes, history, with_first_context
from pipelines.run.schedule import moved
from pipelines.run.tasks import run_tasks
from pipelines.settings.load import load_settings
from pipelines.settings.tables import Settings
from pipelines.training.role_spec import RoleSpec

pytestmark = pytest.mark.timeout(900)
SMALL = (*SMALLEST_RUN, "learner.grpo.learning_rate=1e-3")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("resumed") / "moe")


def played(*command: str) -> str:
    printed = StringIO()
    with redirect_stdout(printed):
        assert rl.main(command) == 0
    return printed.getvalue()


def test_a_run_goes_on_longer_at_another_rate_and_length(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    played(*arguments(checkpoint, run, *SMALL, "run.rounds=1"))

    more = ("run.rounds=3", "learner.grpo.learning_rate=5e-4", "run.max_seconds=0.001")
    printed = played("--resume", str(run), *more)
    assert "resume: run.rounds = 3, before 1: the run ends after so many rounds in all\n" in printed
    assert "resume: learner.grpo.learning_rate = 0.0005, before 0.001: its steps" in printed
    assert (
        "resume: learner: learning rate 0.000375 at step 2, before 0; its cosine schedule ends at "
        "step 3" in printed
    )
    assert (
        "stopped by run.max_seconds = 0.001 after 1 of 3 rounds; go on: python pipelines/rl.py "
        f"--resume {run} (which gets as many seconds again; run.max_seconds=0 beside it lifts the "
        "limit)\nlearner: "
    ) in printed
    stopped = status(run)
    assert stopped["state"] == "finished" and stopped["rounds_played"] == 1
    assert str(stopped["stopped"]).startswith("stopped by run.max_seconds")
    assert "stopped by run.max_seconds" in (run / "report.html").read_text()

    printed = played("--resume", str(run), "run.max_seconds=0", "learner.max_completion_length=8")
    assert "resume: learner.max_completion_length = 8, before 6: longer replies" in printed
    steps = [row for row in rows(run, "step") if row["role"] == "learner"]
    expected = [1e-3, *(5e-4 * (1 + math.cos(math.pi * n / 3)) / 2 for n in (1, 2))]
    assert [row["policy/learning_rate"] for row in steps] == pytest.approx(expected)
    assert max(float(str(row["rollout/mean_length"])) for row in steps[1:]) > 6
    first, second = history(run)
    assert first["round"] == second["round"] == 1
    assert first["changes"]["run.rounds"] == [1, 3]
    assert second["changes"] == {
        "run.max_seconds": [0.001, 0],
        "learner.max_completion_length": [6, 8],
    }
    assert json.loads((run / "config.json").read_text())["run"]["rounds"] == 3

    line = refused(capfd, rl.main, ["--resume", str(run)])
    assert f"{run} has finished its 3 rounds: add run.rounds=6" in line
    assert f"its model is {run}/checkpoints/round_00002/learner" in line


def trained(schedule: str, rounds: int, rate: float = 1e-3) -> tuple[dict[str, object], RoleSpec]:
    """The state of an optimizer after two steps of a schedule, and the spec that made it."""
    config = GRPOConfig(
        output_dir="unused", learning_rate=rate, lr_scheduler_type=schedule, use_cpu=True,
        bf16=False, num_generations=2, per_device_train_batch_size=2, warmup_steps=1,
    )  # fmt: skip
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.AdamW([{"params": [weight], "lr": rate}])
    scheduler = get_scheduler(schedule, optimizer, 1, rounds)
    for _ in range(2):
        weight.sum().backward()
        optimizer.step()
        scheduler.step()
    state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    return state, RoleSpec("learner", config, run_steps=rounds)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "constant_with_warmup"])
def test_nothing_moves_where_nothing_changed(schedule: str) -> None:
    state, spec = trained(schedule, 10)
    same, said = moved(state, spec)
    assert same is state and said == ""


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_moved_schedule_is_that_of_a_run_begun_with_it(schedule: str) -> None:
    """Its rate and what follows; the optimizer's moments stay those that there were."""
    state, _ = trained(schedule, 10)
    wanted, spec = trained(schedule, 20, rate=3e-4)
    before = copy.deepcopy(state)
    found, said = moved(state, spec)
    assert found["scheduler"] == wanted["scheduler"]
    groups = (found["optimizer"]["param_groups"], wanted["optimizer"]["param_groups"])
    assert groups[0] == groups[1]
    assert found["optimizer"]["state"] is state["optimizer"]["state"]
    assert state["scheduler"] == before["scheduler"], "the saved state is left as it was"
    assert said.startswith("resume: learner: learning rate ") and "ends at step 20" in said


def test_a_role_that_has_not_trained_has_no_rate_to_move() -> None:
    _, spec = trained("cosine", 10)
    state = {"optimizer": None, "scheduler": None}
    assert moved(state, spec) == (state, "")


def with_list(folder: Path, *more: str) -> Settings:
    """Settings of a list of which every fourth problem is long."""
    checkpoint = folder / "chat"
    FAMILIES["Qwen3"].tokenizer().save_pretrained(checkpoint)
    file = folder / "mine.jsonl"
    lines = (
        {"question": f"What is {n} + 1{' please' * (9 * (n % 4 == 0))}?", "answer": str(n + 1)}
        for n in range(200)
    )
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return load_settings(CONFIG, [
        "tasks.source=jsonl", f"tasks.path={file}", "tasks.family=", "tasks.params={}",
        "tasks.dialect=tagged", f"run.directory={folder}", f"learner.model={checkpoint}",
        f"critic.model={checkpoint}", *more,
    ])  # fmt: skip


def test_what_measures_stays_the_same_when_the_context_grows(tmp_path: Path) -> None:
    """Longer problems are trained on from then on; in no measurement do they stand for others."""
    small = with_list(tmp_path, "rollout.max_model_len=1074", "evaluate.num_tasks=6")
    large = small.model_copy(
        update={"rollout": small.rollout.model_copy(update={"max_model_len": 1234})}
    )
    assert with_first_context(large, changes(small, large)) == small
    with closing(verifiers_of(small.rewards)) as verifiers:
        before = run_tasks(small, Referee(small, verifiers))
        naive = run_tasks(large, Referee(large, verifiers))
        after = run_tasks(large, Referee(large, verifiers), small)
    assert before.context.needed and not after.context.needed, "the test's own sizes"
    assert naive.held_out != before.held_out, "else there is nothing to keep"
    assert after.held_out == before.held_out
    lists = [found.curriculum.source.ids("train") for found in (before, after)]
    assert lists[0] < lists[1]


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_rate_that_a_schedule_keeps_to_itself_is_refused(schedule: str) -> None:
    """It was announced as taken, and the checkpoint's rate went on."""
    settings = load_settings(CONFIG, [f"critic.grpo.lr_scheduler_type={schedule}"])
    with pytest.raises(UserError, match=f"does nothing to a {schedule} schedule"):
        check_changes(settings, ["critic.grpo.learning_rate=1e-6"])
    check_changes(settings, ["learner.grpo.learning_rate=1e-6", "run.rounds=99"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.seed=4", "would change the experiment: with --resume only run.rounds, "),
        ("learner.grpo.beta=0.1", "would change the experiment"),
        ("rollout.max_model_len=200", "it may only grow"),
        ("learner.max_completion_length=8", "is less than the 96 that the run began with"),
        ("learner.grpo.learning_rat=1e-3", "would change the experiment"),
    ],
)
def test_what_may_not_change_is_refused_by_name(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        check_changes(load_settings(CONFIG), [override])
    assert said in str(caught.value) and override.partition("=")[0] in str(caught.value)
