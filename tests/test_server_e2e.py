"""A whole run on rollout servers: to its end, and through twenty random kills.

Marked slow: every server takes some ten CPU seconds to start, and every kill starts one more.
"""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_cases import ROOT, arguments, environment, rows, run, status

from pipelines.ledger import balance

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
SERVERS = ("rollout.placement=server", "run.rounds=2", "rollout.probe_every=1")
NUM_KILLS = 20


def test_a_run_on_servers_ends_like_any_other(judgeable: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    done = run(
        [sys.executable, "pipelines/rl.py", *arguments(judgeable, directory, *SERVERS)],
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _assert_sound(directory)
    assert not _servers_of(judgeable), "servers outlive the run"


def test_twenty_random_kills_lose_nothing_and_use_nothing_twice(
    judgeable: Path, tmp_path: Path
) -> None:
    directory, log = tmp_path / "run", tmp_path / "log"
    more = ("run.rounds=12", "rollout.servers=2", "rollout.max_restarts=20")
    command = [sys.executable, "pipelines/rl.py"]
    command += arguments(judgeable, directory, *SERVERS, *more)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=stream, stderr=subprocess.STDOUT
        )
    kills: list[str] = []
    killer = threading.Thread(target=_kill_at_random, args=(process, directory, kills))
    killer.start()
    assert process.wait(timeout=3400) == 0, log.read_text()[-3000:]
    killer.join()
    assert len(kills) == NUM_KILLS, f"the run ended after {kills}"
    _assert_sound(directory)
    assert balance(directory / "ledger" / "rank_0.jsonl")["reissued"] > 0
    assert not _servers_of(judgeable)


def _assert_sound(directory: Path) -> None:
    assert status(directory)["state"] == "finished"
    counts = balance(directory / "ledger" / "rank_0.jsonl")
    assert counts["open"] == counts["rolled_back"] == 0
    assert counts["issued"] == counts["used"] + counts["discarded"]
    for row in rows(directory, "step"):
        assert float(str(row["policy/logprob_difference_max"])) <= 1e-4
        assert float(str(row["time/sync/proof_ns_per_parameter"])) > 0
    for row in rows(directory, "round"):
        assert float(str(row["rollout/probe_difference"])) <= 1e-4


def _kill_at_random(process: subprocess.Popen[bytes], directory: Path, kills: list[str]) -> None:
    """Kill any process of any server, API or engine, at random moments of the rounds."""
    rng = random.Random(0)
    while len(kills) < NUM_KILLS and process.poll() is None:
        time.sleep(rng.uniform(0.5, 8))
        victims = list(_children(process.pid)) if rows(directory, "step") else []
        if victims:
            pid, name = rng.choice(victims)
            os.kill(pid, signal.SIGKILL)
            kills.append(name)


def _children(trainer: int) -> Iterator[tuple[int, str]]:
    """The processes of the servers that a trainer started, wardens left out."""
    parents = {pid: parent for pid, parent, _ in _processes()}
    for pid, parent, command in _processes():
        above = parent
        while above not in (trainer, 0, 1):
            above = parents.get(above, 0)
        served = "api_server" in command or "VLLM::" in command
        if above == trainer and served and "pipelines.warden" not in command:
            yield pid, command[:30]


def _servers_of(checkpoint: Path) -> list[str]:
    """Servers that were started from a checkpoint and still run."""
    return [command for _, _, command in _processes() if str(checkpoint.resolve()) in command]


def _processes() -> Iterator[tuple[int, int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it ended in the meantime
            continue
        yield int(folder.name), parent, command
