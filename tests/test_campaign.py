"""A campaign keeps what is done and names what failed, in whichever order runs end."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from campaign import CallError, call, play_all


@dataclass(frozen=True)
class Job:
    name: str


def test_a_result_is_kept_as_soon_as_it_is_there() -> None:
    second_kept, kept = Event(), dict[str, object]()

    def play(job: Job) -> Mapping[str, object]:
        if job.name == "slow":  # ends once the quick one is kept, which it is not if it waits
            assert second_kept.wait(30)
        return {"of": job.name}

    def keep(job: Job, result: Mapping[str, object]) -> None:
        kept[job.name] = result["of"]
        if job.name == "quick":
            second_kept.set()

    play_all([Job("slow"), Job("quick")], play, keep)
    assert kept == {"slow": "slow", "quick": "quick"}


def test_a_failed_run_is_named_and_the_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, kept = tmp_path / "program.py", list[str]()
    program.write_text("import sys\nprint('said')\nsys.exit(int(sys.argv[1]))\n")

    def play(job: Job) -> Mapping[str, object]:
        call(program, [job.name], tmp_path / f"{job.name}.log")
        return {}

    with pytest.raises(SystemExit, match=r"^1 of 4 runs failed: 1$"):
        play_all([Job(name) for name in "0103"], play, lambda job, _: kept.append(job.name))
    assert sorted(kept) == ["0", "0", "3"]  # 3: halted by the monitor
    assert str(tmp_path / "1.log") in capsys.readouterr().err
    assert (tmp_path / "1.log").read_text() == "said\n"


def test_a_programs_failure_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="status 2: see"):
        call(tmp_path / "missing.py", [], tmp_path / "log")
