"""Task sources as the configuration names them; what a round draws."""

import json
from pathlib import Path

import pytest
from pipeline_cases import CONFIG

from pipelines.game.curriculum import Curriculum, build_source
from pipelines.settings.load import load_settings


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "problems.jsonl"
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("source", ["reasoning_gym", "jsonl", "dataset"])
def test_every_source_can_be_configured(source: str, problems: Path) -> None:
    given = [] if source == "reasoning_gym" else [f"tasks.path={problems}", "tasks.dialect=tagged"]
    settings = load_settings(CONFIG, [f"tasks.source={source}", *given])
    curriculum = Curriculum(build_source(settings), seed=0)
    tasks = curriculum.draw(0, 8)
    assert len({task.id for task in tasks}) == 8 and all(task.reference for task in tasks)
    assert tasks == curriculum.draw(0, 8) != curriculum.draw(1, 8)
    held_out = {task.id for task in curriculum.held_out("test", 4)}
    assert held_out.isdisjoint(task.id for task in curriculum.draw(2, 40))
