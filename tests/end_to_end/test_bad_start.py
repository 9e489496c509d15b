"""A mistake as a user sees it who starts `rl.py`: alone, under the launcher, without vLLM."""

import json
import os
import sys
from pathlib import Path

import pytest
from pipeline_cases import (
    CONFIG,
    ENGINE,
    ROOT,
    accelerate,
    arguments,
    environment,
    random_moe,
    rows,
    run,
    save,
    status,
)

from pipelines.policy.tokenizer import character_tokenizer

pytestmark = pytest.mark.timeout(300)
PYTHON = [sys.executable, "pipelines/rl.py"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("bad") / "moe")


def test_the_command_prints_one_line_and_exits_2(tmp_path: Path) -> None:
    command = [*PYTHON, "--config", str(CONFIG), f"run.directory={tmp_path / 'run'}"]
    result = run([*command, "learner.step_per_round=1"])
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("error: unknown key ")
    assert result.stdout == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_processes", [1, 2])
def test_under_the_launcher_our_line_is_the_last_one_and_no_traceback_is_ours(
    checkpoint: Path, tmp_path: Path, num_processes: int
) -> None:
    """Both processes refuse; the other's line names it. The launcher writes a traceback."""
    mistake = "learner.step_per_round=1"
    command = [*accelerate(num_processes), *arguments(checkpoint, tmp_path / "run", mistake)]
    result = run(command)
    assert result.returncode != 0
    lines = result.stderr.splitlines()
    told = [line for line in lines if line.startswith("error: unknown key")]
    assert len(told) == 2 and told[0] == told[1] == lines[-1], lines
    assert not [line for line in lines if line.strip().startswith(f'File "{ROOT}{os.sep}pipelines')]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(ENGINE != "vllm", reason="vLLM is not installed: every other run shows it")
def test_without_vllm_the_run_says_so_and_transformers_serves(
    checkpoint: Path, judgeable: Path, tmp_path: Path
) -> None:
    """An environment of links to all of this one's packages but vLLM's."""
    import vllm

    packages = tmp_path / "site-packages"
    packages.mkdir()
    for path in Path(vllm.__file__).parents[1].iterdir():
        if not path.name.startswith(("vllm", "_vllm")) and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    env = environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(packages)]))
    python = [sys.executable, "-S", "pipelines/rl.py"]

    command = [*python, *arguments(checkpoint, tmp_path / "run", "rollout.engine=vllm")]
    result = run(command, env)
    assert result.returncode == 2, result.stderr[-3000:]
    line = result.stderr.splitlines()[-1]
    assert line.startswith('error: rollout.engine = "vllm" but vLLM is not installed: ')
    assert result.stderr.count("error: ") == 1 and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()

    overrides = ("rollout.engine=transformers", "run.rounds=1")
    result = run([*python, *arguments(judgeable, tmp_path / "run", *overrides)], env)
    assert result.returncode == 0, result.stderr[-3000:]
    assert status(tmp_path / "run")["state"] == "finished"
    for row in rows(tmp_path / "run", "step"):
        assert float(str(row.get("rollout/mismatch_max", 0))) <= 1e-4
    assert "vllm" not in json.loads((tmp_path / "run" / "versions.json").read_text())
