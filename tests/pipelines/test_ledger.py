"""The ledger of groups balances, survives kills, and tells a group that was lost or used twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pipeline_cases import ROOT

from pipelines.rollouts.ledger import Ledger, balance, read


def test_every_group_ends_once_and_the_counts_add_up(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger" / "rank_0.jsonl")
    first, second = ledger.issue(3, role="learner"), ledger.issue(2, role="critic")
    assert first == [0, 1, 2] and second == [3, 4]
    ledger.record("reissued", [1])
    ledger.record("completed", [*first, *second])
    ledger.record("used", [0, 1, 3])
    ledger.record("discarded", [2], reason="every reward masked")
    counts = balance(ledger.path)
    assert counts == {
        "issued": 5, "reissued": 1, "completed": 5, "used": 3, "discarded": 1, "rolled_back": 0,
        "open": 1,
    }  # fmt: skip
    ledger.discard_open("the run ended")
    assert balance(ledger.path)["open"] == 0
    assert next(read(ledger.path)) == {
        "fate": "issued", "groups": [0, 1, 2], "round": 0, "role": "learner",
    }  # fmt: skip


def test_a_kill_takes_back_the_open_round_and_numbers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "rank_0.jsonl"
    killed = Ledger(path)
    for killed.round in (0, 1):
        groups = killed.issue(2)
        killed.record("completed", groups)
        killed.record("used", groups)
    killed.issue(1)  # round 1, not even complete
    with path.open("a") as stream:
        stream.write('{"fate": "comple')  # cut short

    resumed = Ledger(path)
    resumed.take_back(1)
    assert balance(path) == {
        "issued": 5, "reissued": 0, "completed": 4, "used": 4, "discarded": 1, "rolled_back": 2,
        "open": 0,
    }  # fmt: skip
    assert resumed.issue(1) == [5]
    resumed.take_back(1)
    assert balance(path)["rolled_back"] == 2, "what was taken back once is not taken back again"


@pytest.mark.parametrize(
    ("fates", "told"),
    [
        ([("issued", [0]), ("completed", [0]), ("used", [0]), ("used", [0])], "1 groups twice"),
        ([("issued", [0]), ("completed", [0]), ("used", [0]), ("discarded", [0])], "1 groups twi"),
        ([("issued", [0]), ("completed", [0, 1]), ("used", [0, 1])], "1 never issued"),
        ([("issued", [0]), ("used", [0])], "1 used without being complete"),
    ],
)
def test_a_ledger_that_does_not_balance_is_refused(
    tmp_path: Path, fates: list[tuple[str, list[int]]], told: str
) -> None:
    ledger = Ledger(tmp_path / "rank_0.jsonl")
    for fate, groups in fates:
        ledger.record(fate, groups)
    with pytest.raises(ValueError, match=told):
        balance(ledger.path)


def test_no_server_outlives_a_killed_trainer(tmp_path: Path) -> None:
    """The warden ends the whole group, grandchildren too, and frees the folder in memory."""
    folder, pids = tmp_path / "handed", tmp_path / "pids"
    folder.mkdir()
    server = f"sleep 300 & echo $! $$ > {pids}; wait"
    program = (
        "import os, subprocess, sys, time\n"
        "warden = [sys.executable, '-m', 'pipelines.rollouts.servers.warden']\n"
        "command = [*warden, str(os.getpid()), *sys.argv[1:]]\n"
        "subprocess.Popen(command, start_new_session=True)\n"
        "time.sleep(300)\n"
    )
    trainer = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), "bash", "-c", server], cwd=ROOT
    )
    deadline = time.monotonic() + 60
    while not (pids.exists() and pids.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    running = [int(pid) for pid in pids.read_text().split()]
    assert len(running) == 2 and all(map(_runs, running)) and folder.exists()
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    while any(map(_runs, running)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, running))
    assert not folder.exists()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
