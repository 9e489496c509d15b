"""The best checkpoint: selected on tasks of its own, kept, named, and examined on others."""

import html
import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from pipeline_cases import CONFIG, SMALLEST_RUN, arguments, random_moe, rows, save, status

from critic.monitor.replay import COLD_START
from pipelines import rl
from pipelines.errors import UserError
from pipelines.game.curriculum import Curriculum, build_source
from pipelines.game.examiner import HeldOutTasks
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.report.account import FEW_FORMED
from pipelines.run.origin import find_origin
from pipelines.run.selection import MEAN, best_round, selection_tasks
from pipelines.run.trackers import numbers
from pipelines.settings.load import load_settings

pytestmark = pytest.mark.timeout(900)
ROUNDS = 5
SMALL = (
    *SMALLEST_RUN, "learner.grpo.lr_scheduler_type=constant",
    "evaluate.num_tasks=4", "evaluate.num_probe_tasks=4", "evaluate.num_audit_tasks=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("selection") / "moe")


@pytest.fixture(scope="module")
def selecting(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose means are all 0, and what it printed."""
    run, printed = tmp_path_factory.mktemp("selecting") / "run", StringIO()
    more = (f"run.rounds={ROUNDS}", "evaluate.every_rounds=2", "evaluate.num_selection_tasks=3")
    with redirect_stdout(printed):
        assert rl.main(arguments(checkpoint, run, *SMALL, *more)) == 0
    return run, printed.getvalue()


def test_it_is_evaluated_when_due_and_at_the_end(selecting: tuple[Path, str]) -> None:
    run, printed = selecting
    found = rows(run, "round")
    assert [row["round"] for row in found if MEAN in row] == [1, 3, ROUNDS - 1]
    before, *rest = [row for row in rows(run) if MEAN in row]
    assert before["kind"] == COLD_START and len(rest) == 3
    assert all(row["evaluation/num_tasks"] == 3 for row in (before, *rest))
    assert printed.count("evaluation: ") == 4
    assert "evaluation: round 3 has mean@2 0.0%" in printed


def test_the_first_of_equals_is_kept_for_good_and_examined_on_the_test_tasks(
    selecting: tuple[Path, str],
) -> None:
    run, printed = selecting
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept[0] == "round_00001" and len(kept) == 4, "the last three, and the best"
    assert (run / "best").is_symlink() and (run / "best").resolve().name == "round_00001"
    best = json.loads((run / "summary.json").read_text())["best"]
    assert (best["round"], best["selected_at"]) == (1, 0.0)
    assert best["num_tasks"] == 4, "the test tasks, not those of the selection"
    assert "best checkpoint: of round 1, 0.0% on the selection tasks" in printed
    origin = find_origin(run / "best", None, (), None, True)
    assert origin.learner == str((run / "checkpoints" / "round_00001" / "learner").resolve())


def test_the_last_line_says_where_the_model_is_and_what_comes_next(
    selecting: tuple[Path, str],
) -> None:
    run, printed = selecting
    last = printed.rstrip().splitlines()[-1]
    longer = f"python pipelines/rl.py --resume {run} run.rounds={2 * ROUNDS}"
    few = json.loads((run / "summary.json").read_text())["after"]["well_formed"] < FEW_FORMED
    evaluate = f"sparring-evaluate {run}/best, or longer: {longer}"
    assert last.startswith(f"model: {run}/best/learner; next: ") and last.endswith(longer)
    assert last.endswith(evaluate) != few and (f"see in {run}/report.html" in last) == few
    assert (run / "best" / "learner" / "model.safetensors").exists()
    found = status(run)
    assert found["model"] == f"{run}/best/learner" and found["rounds_played"] == ROUNDS


def test_terminal_status_and_report_say_the_same_of_the_monitor(
    selecting: tuple[Path, str],
) -> None:
    run, printed = selecting
    level = rows(run, "round")[-1]["monitor/state"]
    assert status(run)["monitor"] == level
    assert json.loads((run / "summary.json").read_text())["monitor"] == level
    said = status(run)["account"]["monitor"]
    assert said.startswith(f"{level} ")
    assert f"\nmonitor: {said}\n" in printed
    assert f"<dd>{html.escape(said)}</dd>" in (run / "report.html").read_text()


def test_selection_changes_nothing_of_the_training(
    selecting: tuple[Path, str], checkpoint: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "run"
    with redirect_stdout(StringIO()):
        assert rl.main(arguments(checkpoint, plain, *SMALL, "run.rounds=1")) == 0
    assert not (plain / "best").exists() and not any(MEAN in row for row in rows(plain))
    with pytest.raises(UserError, match=r"has selected no best checkpoint: .*every_rounds"):
        find_origin(plain / "best", None, (), None, True)

    def untimed(run: Path) -> list[dict[str, object]]:
        """Steps and round of round 0."""
        timed = ("time/", "run/seconds", "evaluation/")
        return [
            {key: value for key, value in row.items() if not key.startswith(timed)}
            for row in rows(run)
            if row["round"] == 0 and row["kind"] != "note"
        ]

    assert untimed(selecting[0]) == untimed(plain)


@pytest.mark.parametrize(("change", "late"), [((), [5]), (("evaluate.every_rounds=0",), [])])
def test_a_resumed_run_knows_its_best(
    selecting: tuple[Path, str], tmp_path: Path, change: tuple[str, ...], late: list[int]
) -> None:
    """From its metrics alone: the link was lost when the run was copied.

    A run that is evaluated no more once lost its best checkpoint to the pruning.
    """
    run = tmp_path / "copied"
    shutil.copytree(selecting[0], run, symlinks=True)
    (run / "best").unlink()
    with redirect_stdout(StringIO()):
        assert rl.main(["--resume", str(run), f"run.rounds={ROUNDS + 1}", *change]) == 0
    assert (run / "best").resolve() == run / "checkpoints" / "round_00001"
    assert (run / "best" / "learner" / "model.safetensors").exists()
    assert [row["round"] for row in rows(run, "round") if MEAN in row] == [1, 3, 4, *late]


def test_trackers_get_the_mean_with_its_interval(selecting: tuple[Path, str]) -> None:
    found = numbers(rows(selecting[0], "round")[-1])
    low, high = found["evaluation/mean_at_k_low"], found["evaluation/mean_at_k_high"]
    assert low <= found[MEAN] <= high and high > 0


def test_ties_go_to_the_earlier_round_and_only_some_may_count() -> None:
    found = [
        {"kind": COLD_START, "round": 0, MEAN: 0.9},
        *({"kind": "round", "round": n, MEAN: m} for n, m in enumerate((0.1, 0.5, 0.5, 0.7))),
        {"kind": "round", "round": 4},
    ]
    assert best_round(found) == 3
    assert best_round(found, [0, 1, 2, 4]) == 1
    assert best_round(found, []) is None
    assert best_round([]) is None


def test_its_tasks_are_in_no_other_measurement_and_not_trained_on(tmp_path: Path) -> None:
    overrides = (f"run.directory={tmp_path}", "evaluate.every_rounds=1")
    settings = load_settings(CONFIG, overrides)
    curriculum = Curriculum(build_source(settings), 0)
    held_out = HeldOutTasks.draw(curriculum, settings.evaluate)
    tasks = selection_tasks(curriculum.source, settings.evaluate, held_out.audit)
    assert len({task.id for task in tasks}) == settings.evaluate.num_selection_tasks
    assert {task.split for task in tasks} == {"audit"}
    others = {task.id for task in [*held_out.all(), *curriculum.draw(0, 64)]}
    assert not others & {task.id for task in tasks}
    table = settings.evaluate.model_copy(update={"every_rounds": 0})
    assert selection_tasks(curriculum.source, table, held_out.audit) == []


def test_a_short_list_shares_the_audited_tasks(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    lines = ({"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(60))
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    settings = load_settings(
        CONFIG,
        ("tasks.source=jsonl", f"tasks.path={file}", "tasks.family=", "tasks.params={}",
         "tasks.dialect=free", "evaluate.every_rounds=1", f"run.directory={tmp_path}"),
    )  # fmt: skip
    source = build_source(settings)
    audited = Curriculum(source, 0).held_out("audit", 2)
    tasks = selection_tasks(source, settings.evaluate, audited)
    assert {task.id for task in tasks} == source.ids("audit"), "all there are"
    assert [task.id for task in tasks[-2:]] == [task.id for task in audited], "those last"
