"""A whole run on rollout servers: to its end, through twenty random kills, and to a clean halt.

Marked slow: every server takes some ten CPU seconds to start, and every kill starts one more.
"""

import contextlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_cases import ROOT, arguments, environment, rows, run, status

from pipelines.rollouts.ledger import balance, read

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
SERVERS = ("rollout.placement=server", "run.rounds=2", "rollout.probe_every=1")
PROGRAM = [sys.executable, "pipelines/rl.py"]
NUM_KILLS = 20
STEPS_OF_A_ROUND = 3  # of both roles


def test_a_run_on_servers_ends_like_any_other(judgeable: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    more = ("rollout.routing_replay=true",)
    done = run([*PROGRAM, *arguments(judgeable, directory, *SERVERS, *more)], timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    _assert_sound(directory)
    assert not _servers_of(judgeable), "servers outlive the run"


def test_twenty_random_kills_lose_nothing_and_use_nothing_twice(
    judgeable: Path, tmp_path: Path
) -> None:
    """Kills follow the run's progress, so that it cannot end before the last of them."""
    directory, rng = tmp_path / "run", random.Random(0)
    more = ("run.rounds=6", "rollout.servers=2", "rollout.max_restarts=20")
    process, log = _start(tmp_path, arguments(judgeable, directory, *SERVERS, *more))
    kills: list[str] = []
    try:
        for step in sorted(rng.choices(range(1, 5 * STEPS_OF_A_ROUND), k=NUM_KILLS)):
            while len(rows(directory, "step")) < step and process.poll() is None:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 1))  # a step takes about that long on a quiet machine
            kills += _kill_one(process, rng)
        assert process.wait(timeout=3000) == 0, log.read_text()[-3000:]
    finally:
        process.kill()
    assert len(kills) == NUM_KILLS and len(set(kills)) == 2, f"API servers and engines: {kills}"
    _assert_sound(directory)
    counts = balance(directory / "ledger" / "rank_0.jsonl")
    assert counts["reissued"] > 0 and counts["discarded"] == 0
    drawn = Counter(
        str(row["purpose"]).partition(", batch")[0]
        for row in read(directory / "ledger" / "rank_0.jsonl")
        if row["fate"] == "issued" and row["role"] == "learner"
        for _ in row["groups"]
    )
    assert [drawn[f"round {round_}"] for round_ in range(6)] == [8] * 6, "2 steps of 4 groups"
    assert not _servers_of(judgeable)


def test_servers_that_keep_dying_end_the_run_at_a_checkpoint_that_can_be_resumed(
    judgeable: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    process, log = _start(
        tmp_path, arguments(judgeable, directory, *SERVERS, "rollout.max_restarts=1")
    )
    try:
        while not rows(directory, "round") and process.poll() is None:
            time.sleep(0.02)
        deadline = time.monotonic() + 900
        while process.poll() is None and time.monotonic() < deadline:
            _kill_one(process, random.Random(0))
            time.sleep(0.2)
        assert process.wait(timeout=60) == 5, log.read_text()[-3000:]
    finally:
        process.kill()
    assert log.read_text().splitlines()[-1].startswith("rollout engine lost, run stopped: server ")
    ended = status(directory)
    assert ended["state"] == "failed" and Path(str(ended["last_checkpoint"])).is_dir()
    assert balance(directory / "ledger" / "rank_0.jsonl")["open"] == 0
    assert not _servers_of(judgeable)

    done = run([*PROGRAM, *str(ended["continue_with"]).split()], timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert status(directory)["state"] == "finished"
    assert [row["round"] for row in rows(directory, "round")] == [0, 1]
    counts = balance(directory / "ledger" / "rank_0.jsonl")
    assert counts["open"] == 0 and counts["issued"] == counts["used"] + counts["discarded"]


def _start(folder: Path, given: list[str]) -> tuple["subprocess.Popen[bytes]", Path]:
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*PROGRAM, *given], cwd=ROOT, env=environment(), stdout=stream, stderr=stream
        )
    return process, log


def _assert_sound(directory: Path) -> None:
    assert status(directory)["state"] == "finished"
    counts = balance(directory / "ledger" / "rank_0.jsonl")
    assert counts["open"] == counts["rolled_back"] == 0
    assert counts["issued"] == counts["used"] + counts["discarded"]
    for row in rows(directory, "step"):
        assert float(str(row.get("rollout/mismatch_max", 0))) <= 1e-4
        assert float(str(row["time/sync/proof_ns_per_parameter"])) > 0
    for row in rows(directory, "round"):
        assert float(str(row["rollout/probe_difference"])) <= 1e-4


def _kill_one(process: "subprocess.Popen[bytes]", rng: random.Random) -> list[str]:
    """Kill -9 any process of any server, API or engine, as soon as there is one; tells which."""
    while process.poll() is None:
        if victims := sorted(_children(process.pid)):
            pid, name = rng.choice(victims)
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
                return [name]
        time.sleep(0.05)
    return []


def _children(trainer: int) -> Iterator[tuple[int, str]]:
    """The processes of the servers that a trainer started, wardens left out."""
    parents = {pid: parent for pid, parent, _ in _processes()}
    for pid, parent, command in _processes():
        above = parent
        while above not in (trainer, 0, 1):
            above = parents.get(above, 0)
        served = "api_server" in command or "VLLM::" in command
        if above == trainer and served and "pipelines.rollouts.servers.warden" not in command:
            yield pid, "engine" if "VLLM::" in command else "API server"


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
