"""What the tests of `sparring-data` share: demonstrations, commands, what a command wrote."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from critic.format import critique_dialect, true_critique
from data.dataset_folder import DatasetFolder
from data.records import Record
from data.sources import draw_up_to
from pipelines.dataset import main
from pipelines.game.curriculum import build_source
from pipelines.settings.load import load_settings
from rewards.chain import encode_value
from rewards.dialect import dialect

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "tiny.toml"
EASY = ["tasks.params.min_terms=1", "tasks.params.max_terms=1", "tasks.params.max_digits=2"]
SMALL = {"num_hidden_layers": 2, "hidden_size": 64}
NUM, GROUP, BATCH = 40, 4, 4


def save(model: torch.nn.Module, tokenizer: object, path: Path) -> Path:
    model.save_pretrained(path)  # type: ignore[operator]
    tokenizer.save_pretrained(path)  # type: ignore[attr-defined]
    return path


def demonstrations() -> list[tuple[str, str]]:
    """Solutions and critiques for every task there is; one solution in four is off by one."""
    settings, rng = load_settings(CONFIG, EASY), random.Random(0)
    solver, judge = dialect("chain"), critique_dialect("chain")
    rows = []
    for task in draw_up_to(build_source(settings), "train", 200, 0):
        right, problem = solver.write_solution(task, rng, 0.0), solver.render_problem(task)
        stated, off = (encode_value(int(task.reference) + error) for error in (0, 1))
        wrong = right.replace(f"={stated}>{stated}", f"={off}>{off}")
        rows += [(problem, right)] * 3 + [(problem, wrong)]
        for text in (right, wrong):
            solution = solver.parse_solution(text, truncated=False)
            critique = true_critique(task, solution, solver, rng)
            rows += [(judge.render_prompt(problem, text), critique)] * 2
    return rows


def command(source: Path, out: Path, *more: str) -> list[str]:
    """The generate command of most tests."""
    return [
        "generate", str(source), "--config", str(CONFIG), "--out", str(out), "--num", str(NUM),
        "--group", str(GROUP), "--batch", str(BATCH), *EASY, *more,
    ]  # fmt: skip


def records(out: Path) -> list[Record]:
    folder = DatasetFolder(out)
    return [*folder.accepted.records(), *folder.rejected.records()]


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    """The one line that the command fails with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert lines[-1].startswith("error: ")
    return lines[-1]
