"""No silence is long: what goes on is said, unless somebody else has just spoken."""

import re
import time
from io import StringIO

import pytest

from pipelines.run.progress import Progress
from pipelines.run.round_log import Stages


def test_a_stage_is_said_when_it_begins_and_again_and_again_while_it_lasts() -> None:
    said = StringIO()
    with Progress(said, silence=0.1) as progress:
        progress.begin("loading models")
        time.sleep(0.5)
    lines = said.getvalue().splitlines()
    assert lines[0] == "loading models" and len(lines) >= 3
    assert all(re.fullmatch(r"\.\.\. loading models, \d+ s", line) for line in lines[1:])
    time.sleep(0.3)
    assert said.getvalue().splitlines() == lines, "nothing after the end"


def test_it_is_quiet_while_others_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own, so that a busy machine makes no silence."""
    seconds, said = [0.0], StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    with Progress(said, silence=0.4) as progress:
        progress.now("learner block")
        for _ in range(20):
            seconds[0] += 0.3
            time.sleep(0.04)
            progress.heard()
    assert said.getvalue() == ""


def test_a_rounds_stage_is_the_one_that_is_timed() -> None:
    said = StringIO()
    with Progress(said, silence=0.05) as progress:
        stages = Stages(progress.now)
        with stages.timed("critic block"):
            time.sleep(0.3)
        assert stages["critic block"] >= 0.3
    assert "... critic block, " in said.getvalue()


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    said = StringIO()
    with Progress(said, silence=0.05) as progress:
        progress.begin("loading models")
        time.sleep(0.2)
    assert said.getvalue() == ""


def test_an_error_ends_it_too() -> None:
    said = StringIO()
    with pytest.raises(KeyError), Progress(said, silence=0.05) as progress:
        progress.begin("reading the tasks")
        raise KeyError
    before = said.getvalue()
    time.sleep(0.2)
    assert said.getvalue() == before == "reading the tasks\n"
