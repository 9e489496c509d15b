"""The reference of configuration keys: complete, current, and printed without heavy imports."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.rl import main
from pipelines.settings.load import load_settings
from pipelines.settings.reference import EACH, NAMED, as_page, as_text, keys

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == as_page(keys()), "run `make configuration`"


def test_every_key_of_our_configurations_is_in_it() -> None:
    paths = {key.path for key in keys()}
    for config in sorted((ROOT / "configs").glob("*.toml")):
        for table, content in load_settings(config).model_dump(exclude_unset=True).items():
            for key in content:
                known = {f"{table}.{key}", f"{table}.{key}{EACH}"}
                inside = [path for path in paths if path.startswith(f"{table}.{key}.")]
                assert known & paths or inside, f"{config.name}: {table}.{key}"
    assert f"monitor.rules.{NAMED}.matters" in paths and f"tasks.mixture{EACH}.weight" in paths


def test_a_key_says_its_type_its_limits_and_its_default() -> None:
    (key,) = keys("run.rounds")
    assert (key.kind, key.default) == ("whole number, at least 1", "4")
    (key,) = keys("rollout.transfer")
    assert (key.kind, key.default) == ('"file" or "broadcast"', "not set")
    (key,) = keys("run.directory")
    assert (key.kind, key.default) == ("path", "required")
    assert as_text(keys("run.seed")).startswith(
        "run.seed  (whole number, at least 0; 0)\n    Fixes"
    )


def test_a_prefix_takes_a_table_and_a_wrong_one_names_the_nearest() -> None:
    assert {key.table for key in keys("rollout")} == {"rollout"}
    assert {key.path for key in keys("rewards.judge.")} > {"rewards.judge.model"}
    assert [key.path for key in keys("tasks.examples")] == [
        "tasks.examples", "tasks.examples[].question", "tasks.examples[].reply",
    ]  # fmt: skip
    assert [key.path for key in keys("run.max")] == ["run.max_seconds"]
    with pytest.raises(UserError, match='did you mean "rollout"'):
        keys("rolout")


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGPIPE)
    assert main(["--keys"]) == 0
    assert signal.getsignal(signal.SIGPIPE) == before, "else a closed socket ends the process"
    assert capsys.readouterr().out == as_text(keys()) + "\n"
    assert main(["--keys", "evaluate"]) == 0
    assert capsys.readouterr().out == as_text(keys("evaluate")) + "\n"


def test_the_command_imports_no_torch_and_bears_a_closed_pipe() -> None:
    program = (
        "import sys; from pipelines.rl import main; main(['--keys']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert done.returncode == 0 and done.stdout
    shell = f"{sys.executable} pipelines/rl.py --keys | head -n 1"
    piped = subprocess.run(shell, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert piped.stdout.startswith("run.directory") and not piped.stderr
