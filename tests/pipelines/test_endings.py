"""However a run ends, its report says so and how to go on; a report that fails changes no end."""

import html
import json
import logging
import os
import re
import signal
import time
from pathlib import Path

import pytest
from accelerate import PartialState
from pipeline_cases import SMALLEST_RUN, arguments, random_moe, save, status

from data.dedup import DuplicateIndex
from pipelines import rl
from pipelines.errors import UserError
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.report import write
from pipelines.run import told
from pipelines.run.directory import RunDirectory
from pipelines.run.session import Run
from pipelines.run.told import LiveReport, tell_failure

pytestmark = pytest.mark.timeout(900)
ROUNDS = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("endings") / "moe")


def shown(run: Path) -> dict[str, str]:
    """The first card of a run's report: question and answer."""
    page = (run / "report.html").read_text()
    card = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    return {name: html.unescape(said) for name, said in card}


class Ends(Run):
    """A run to which something happens in its second round."""

    def happens(self) -> None:
        raise NotImplementedError

    def archive(self) -> DuplicateIndex:
        if self.round == 1:
            self.happens()
        return super().archive()


class Interrupted(Ends):
    def happens(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


class Terminated(Ends):
    def happens(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class Fails(Ends):
    def happens(self) -> None:
        raise ZeroDivisionError("of <nothing>")


class Mistaken(Ends):
    def happens(self) -> None:
        raise UserError("no space left")


@pytest.mark.parametrize(
    ("kind", "error", "health"),
    [
        (Interrupted, SystemExit, "stopped by hand in round 1 (Ctrl-C or SIGTERM); 1 of 3 rounds"),
        (Terminated, SystemExit, "stopped by hand in round 1 (Ctrl-C or SIGTERM); 1 of 3 rounds"),
        (Fails, ZeroDivisionError, "no: failed in round 1: ZeroDivisionError: of <nothing>"),
        (Mistaken, SystemExit, "no: failed in round 1: UserError: no space left"),
    ],
)
def test_an_end_that_nobody_chose_leaves_a_report_that_says_so_and_how_to_go_on(
    kind: type[Run], error: type[BaseException], health: str, checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("pipelines.run.session.Run", kind)
    run = tmp_path / "run"
    with pytest.raises(error):
        rl.main(arguments(checkpoint, run, *SMALLEST_RUN, f"run.rounds={ROUNDS}"))
    card, end = shown(run), status(run)
    assert card["Healthy?"].startswith(health)
    go_on = f"1 of {ROUNDS} rounds are complete; go on: python pipelines/rl.py --resume {run}"
    first = "mend what the error names; then: " if kind is Mistaken else ""
    assert card["Next"] == end["next"] == first + go_on
    assert {name.lower(): said for name, said in card.items() if name in ("Learner", "Critic")} == {
        name: end["account"][name] for name in ("learner", "critic")
    }
    assert end["account"]["health"] == card["Healthy?"]


def test_the_ends_that_a_run_chooses_leave_one_truth(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = arguments(checkpoint, run, *SMALLEST_RUN, "run.rounds=2", "run.max_seconds=0.001")
    assert rl.main(command) == 0
    printed = capfd.readouterr().out
    card, end = shown(run), status(run)
    assert "stopped by run.max_seconds = 0.001 after 0 of 2 rounds" in card["Healthy?"]
    assert card["Next"] == end["next"] == printed.rstrip().splitlines()[-1]
    for name, said in end["account"].items():
        assert f"\n{name}: {said}\n" in printed
        assert card["Healthy?" if name == "health" else name.capitalize()] == said


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path, PartialState(cpu=True))


def broken(*_: object) -> None:
    raise MemoryError("no page today")


@pytest.mark.parametrize("part", ["account_of", "write_report"])
def test_a_report_that_fails_masks_no_error(
    part: str, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(told, part, broken)
    error = ZeroDivisionError("the cause")
    with caplog.at_level(logging.WARNING):
        tell_failure(directory, error, 4, "none", "go on: ...")
    found = json.loads((directory.path / "status.json").read_text())
    assert (found["state"], found["error"]) == ("failed", "ZeroDivisionError: the cause")
    assert found["next"] == "go on: ..." and error.__notes__ == ["go on: ..."]
    assert "no report of this end: MemoryError: no page today" in caplog.text


def test_the_interrupt_of_the_launcher_does_not_hide_the_failure_of_another_process(
    directory: RunDirectory,
) -> None:
    """When one process fails the launcher interrupts the others, whose end comes last."""
    failed = {"state": "failed", "rank": 1, "error": "ValueError: the cause"}
    (directory.path / "status.json").write_text(json.dumps(failed))
    tell_failure(directory, KeyboardInterrupt(), 4, "none", "go on: ...")
    assert json.loads((directory.path / "status.json").read_text()) == failed


def test_reports_of_rounds_take_no_more_than_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of the test's own: 200 rounds of 3 s, a page that costs 0.1 s, later 0.5 s."""
    now, spent = [0.0], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def costly(_: Path) -> None:
        cost = 0.1 if now[0] < 300 else 0.5
        now[0] += cost
        spent[0] += cost

    monkeypatch.setattr(told, "write_report", costly)
    live, num = LiveReport(tmp_path), 0
    for _ in range(200):
        now[0] += 3
        num += live.after_round()
    assert 10 <= num < 200
    assert spent[0] <= 0.01 * now[0] + 0.5


def test_a_report_that_fails_after_a_round_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "write_report", broken)
    monkeypatch.setattr(told, "FIRST_COST", 0.0)
    assert LiveReport(tmp_path).after_round()


def test_a_page_of_a_long_run_costs_less_than_a_percent_of_a_round(tmp_path: Path) -> None:
    """100 rounds of 20 steps with their bouts: the demo's rounds take 80 s and more."""
    step = {"kind": "step", "reward/mean": 0.3, "reward/std": 0.2, "rollout/token_entropy": 0.4}
    with (tmp_path / "metrics.jsonl").open("w") as stream:
        for n in range(100):
            for k in range(20):
                row = {**step, "role": "learner", "round": n, "step": 20 * n + k}
                stream.write(json.dumps(row) + "\n")
            row = {"kind": "round", "round": n, "probe/mean_at_k": n / 100, "run/seconds": 80 * n}
            stream.write(json.dumps({**row, "time/gate": 1, "time/commit": 2}) + "\n")
    (tmp_path / "transcripts").mkdir()
    bout = json.dumps({"solution": "a1=10 b2=30>30", "outcome": "correct", "steps": [[0, 5]]})
    for n in range(100):
        path = tmp_path / "transcripts" / f"round_{n:05d}.jsonl"
        path.write_text(f"{bout}\n" * 24)
    start = time.process_time()
    page = write.write_report(tmp_path)
    assert time.process_time() - start < 0.8
    assert page.stat().st_size < 2_000_000
