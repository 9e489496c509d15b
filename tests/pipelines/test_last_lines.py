"""The last line of a run says where its model is and what to type next, however it ended."""

from pathlib import Path

from pipeline_cases import CONFIG

from pipelines.run.last_lines import after_halt, how_to_go_on, last_line, stopped
from pipelines.settings.load import load_settings

SETTINGS = load_settings(CONFIG, ["run.directory=runs/x", "run.rounds=4"])
RESUME = "python pipelines/rl.py --resume runs/x"


def test_a_finished_run_names_its_model_and_how_to_train_longer() -> None:
    model = Path("runs/x/checkpoints/round_00003/learner")
    assert last_line(SETTINGS, 4, model) == (
        f"model: {model}; next: sparring-evaluate runs/x, or longer: {RESUME} run.rounds=8"
    )
    best = Path("runs/x/best/learner")
    assert "next: sparring-evaluate runs/x/best, or longer:" in last_line(SETTINGS, 4, best)
    assert stopped(SETTINGS, 4) == ""
    unread = last_line(SETTINGS, 4, model, is_read=False)
    assert "runs/x/report.html" in unread and "sparring-evaluate" not in unread
    assert unread.endswith(f"before a longer run: {RESUME} run.rounds=8")


def test_a_run_that_stopped_early_goes_on_without_more_rounds() -> None:
    model = Path("runs/x/checkpoints/round_00001/learner")
    assert last_line(SETTINGS, 2, model).endswith(f"or longer: {RESUME}")
    assert last_line(SETTINGS, 0, None) == (
        f"model: none yet, no round is complete; next: {RESUME}"
    )
    assert how_to_go_on(SETTINGS, 2) == f"2 of 4 rounds are complete; go on: {RESUME}"


def test_several_processes_go_on_as_several() -> None:
    settings = load_settings(CONFIG, ["run.directory=runs/x", "run.num_processes=2"])
    assert how_to_go_on(settings, 0).endswith(
        "go on: accelerate launch --multi_gpu --num_processes 2 pipelines/rl.py --resume runs/x"
    )


def test_a_halted_run_names_the_last_sound_checkpoint() -> None:
    said = after_halt(Path("runs/x/checkpoints/round_00001"))
    assert said == (
        "model: runs/x/checkpoints/round_00001/learner, the last sound one; next: a new run with "
        "learner.model=runs/x/checkpoints/round_00001/learner "
        "critic.model=runs/x/checkpoints/round_00001/critic"
    )
    assert "cold start is the last sound one" in after_halt(None)
