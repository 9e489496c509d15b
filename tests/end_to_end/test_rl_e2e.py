"""Runs of the README's own command: to the end, on two processes, killed and resumed, halted.

Every run is a subprocess with one thread, except the halted one. The uninterrupted run goes on in
the background of the one that is killed.
"""

import html
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from pipeline_cases import (
    ENGINE,
    ROOT,
    accelerate,
    arguments,
    environment,
    rows,
    run,
    status,
)

from critic.monitor.replay import replay
from data.dedup import DuplicateIndex
from pipelines.policy.checkpoint import check_checkpoint
from pipelines.rl import HALTED, main
from pipelines.run.resumed import load_run
from pipelines.run.session import Run

pytestmark = pytest.mark.timeout(300)
# What a resumed run could get wrong: a schedule, a reference, a router bias, an optimizer's memory.
ROUNDS = 3
DELICATE = (
    f"run.rounds={ROUNDS}",
    "learner.grpo.lr_scheduler_type=linear",
    "learner.grpo.learning_rate=1e-3",
    "learner.grpo.beta=0.02",
    "learner.router_bias_rate=0.01",
    "critic.grpo.learning_rate=1e-3",
    "critic.router_bias_rate=0.01",
    "rollout.probe_every=1",
    "pointing.step_checks=false",
    "pointing.trust=0",  # whatever its audits say, so that its pool is asked
    "pointing.meta_checks=2",
    "critic.pool_every=1",
    'rewards.functions={"tests/support/own_reward.py:shorter"=0.1}',
    "proposer.steps=1",
    "proposer.validity=agreement",
)
OF_THE_MACHINE = ("time/", "run/seconds", "rollout/concurrency")  # how busy it was meanwhile
PYTHON = [sys.executable, "pipelines/rl.py"]


def _delicate(base: Path) -> tuple[str, ...]:
    return (*DELICATE, f"critic.auditor={base}")


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=stream, stderr=subprocess.STDOUT
        )


def _signal_when(
    process: subprocess.Popen[bytes], number: signal.Signals, seen: Callable[[], bool]
) -> int:
    """Send a signal as soon as `seen`; returns the exit status."""
    while process.poll() is None and not seen():
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before the signal"
    process.send_signal(number)
    return process.wait(timeout=60)


@pytest.fixture(scope="module")
def whole(
    judgeable: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The uninterrupted run, started as the README says, not waited for."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    command = [*accelerate(), *arguments(judgeable, directory, *_delicate(judgeable))]
    process = _start(command, directory.parent / "log")
    yield process, directory
    process.kill()


def _outcome(directory: Path) -> dict[str, object]:
    """What must not depend on interruptions."""
    untimed = [
        {key: value for key, value in row.items() if not key.startswith(OF_THE_MACHINE)}
        for row in rows(directory)
    ]
    shards = sorted((directory / "corpus").glob("*.parquet"))
    evaluations = [json.loads((directory / f"{w}.json").read_text()) for w in ("before", "after")]
    return {
        "rows": untimed,
        "records": [row["sha256"] for shard in shards for row in pq.read_table(shard).to_pylist()],
        "evaluations": evaluations,
    }


def test_a_killed_and_an_interrupted_run_end_as_if_nothing_happened(
    whole: tuple[subprocess.Popen[bytes], Path], judgeable: Path, tmp_path: Path
) -> None:
    directory, log = tmp_path / "run", tmp_path / "log"

    def in_round(number: int) -> Callable[[], bool]:
        return lambda: any(row["round"] == number for row in rows(directory, "step"))

    start = [*PYTHON, *arguments(judgeable, directory, *_delicate(judgeable))]
    resume = [*PYTHON, "--resume", str(directory)]
    code = _signal_when(_start(start, log), signal.SIGKILL, in_round(1))
    assert code == -signal.SIGKILL, log.read_text()
    assert status(directory)["state"] == "running"
    complete = [path.name for path in (directory / "checkpoints").glob("round_?????")]
    assert complete == ["round_00000"]

    def again_in_round_1() -> bool:
        return "round 1  learner" in log.read_text()

    code = _signal_when(_start(resume, log), signal.SIGINT, again_in_round_1)
    assert code == 130, log.read_text()
    last = log.read_text().rstrip().splitlines()[-1]
    go_on = f"go on: python pipelines/rl.py --resume {directory}"
    assert last == f"interrupted; 1 of {ROUNDS} rounds are complete; {go_on}"
    assert "Traceback" not in log.read_text()
    interrupted = status(directory)
    assert interrupted["state"] == "interrupted" and interrupted["round"] == 1
    assert interrupted["continue_with"] == f"--resume {directory}"
    report = (directory / "report.html").read_text()
    assert "stopped by hand in round 1 (Ctrl-C or SIGTERM); 1 of 3 rounds are complete" in report
    assert interrupted["next"] == f"1 of {ROUNDS} rounds are complete; {go_on}"
    assert f"<dt>Next</dt><dd>{interrupted['next']}</dd>" in report

    finished = run(resume)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert status(directory)["state"] == "finished"

    process, reference = whole
    assert process.wait(timeout=200) == 0, (reference.parent / "log").read_text()[-3000:]
    found = [row for row in rows(reference) if row["kind"] != "note"]
    assert (
        len(found) == 1 + ROUNDS * 6
    )  # the cold start; a proposal, two steps, an imitation, a critic's step, the round
    ours, theirs = _outcome(directory), _outcome(reference)
    assert _differences(ours["rows"], theirs["rows"]) == []
    assert ours == theirs


def _differences(ours: object, theirs: object) -> list[tuple[object, ...]]:
    """Figures of the rows that differ: pytest cuts a comparison of whole rows short."""
    assert isinstance(ours, list) and isinstance(theirs, list)
    pairs = enumerate(zip(ours, theirs, strict=True))
    return [
        (place, key, a.get(key), b.get(key))
        for place, (a, b) in pairs
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def test_the_command_of_the_docs_runs_to_its_table(
    whole: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, directory = whole
    log = directory.parent / "log"
    assert process.wait(timeout=200) == 0, log.read_text()[-3000:]
    assert (
        "accelerate launch pipelines/rl.py --config configs/tiny.toml"
        in (ROOT / "docs" / "use.md").read_text()
    )
    printed = log.read_text()
    for said in ("learner mean@2", "AUROC", "samples admitted", "monitor: ", "seconds: "):
        assert said in printed
    if ENGINE == "vllm":
        costs = json.loads((directory / "summary.json").read_text())["sync"]
        assert 0 < costs["proof_share_of_rounds"] < 1 and 0 < costs["share_of_steps"] < 1
        assert costs["transfer_ns_per_parameter"] > 0 and costs["proof_ns_per_parameter"] > 0
        assert "weight sync: " in printed
    finished = status(directory)
    assert finished["state"] == "finished"
    report = html.unescape((directory / "report.html").read_text())
    for name, said in finished["account"].items():  # one truth: terminal, status.json, report
        assert f"\n{name}: {said}\n" in printed and f"<dd>{said}</dd>" in report
    assert printed.rstrip().splitlines()[-1] == finished["next"]
    assert f"<dd>{finished['next']}</dd>" in report
    (proof,) = json.loads((directory / "verifiers.json").read_text())
    assert (proof["family"], proof["tpr"], proof["tnr"]) == ("basic_arithmetic", 1.0, 1.0)
    assert "puzzle    basic_arithmetic      8  1.000     48  1.000" in printed
    for name in ("config.json", "versions.json", "metrics.jsonl", "summary.json", "report.html"):
        assert (directory / name).stat().st_size > 0
    assert len(list((directory / "transcripts").iterdir())) == ROUNDS
    checkpoints = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert checkpoints == [f"round_{n:05d}" for n in range(ROUNDS)]
    for role in ("learner", "critic"):
        check_checkpoint(role, str(directory / "checkpoints" / checkpoints[-1] / role))
    pool = sorted(path.name for path in (directory / "pool").iterdir())
    latest = [f"round_{round_:05d}.safetensors" for round_ in (ROUNDS - 2, ROUNDS - 1)]
    assert pool == [*latest, "start.safetensors"], "two, and one more if the critic is one of them"
    rounds = rows(directory, "round")
    assert all(0 <= float(str(row["auditor/agreement"])) <= 1 for row in rounds)
    asked = [bool(row.get("tokens/meta_checks")) for row in rounds]
    assert asked == _two_others(directory), "asked as soon as two others differ from the critic"
    hashes = [str(row["policy/weights_hash"]) for row in rows(directory, "round")]
    assert len(set(hashes)) == ROUNDS, "the policy did not move in every round"
    for row in rows(directory, "step"):
        if ENGINE == "vllm":
            assert float(str(row.get("rollout/mismatch_max", 0))) <= 1e-4
    learner = [row for row in rows(directory, "step") if row["role"] == "learner"]
    rates = [row["policy/learning_rate"] for row in learner]
    assert rates == pytest.approx([1e-3 * (1 - step / 9) for step in range(9)])


def _two_others(directory: Path) -> list[bool]:
    """In which rounds the pool holds two critics other than the one that points.

    A round's training that was taken back leaves the critic that there was.
    """
    back = {
        row["round"]
        for row in rows(directory, "note")
        if "the critic's training was taken back" in str(row["note"])
    }
    critics = ["start"]
    for round_ in range(ROUNDS):
        critics.append(critics[-1] if round_ in back else f"of round {round_}")
    return [len({*critics[: n + 1]} - {critics[n]}) >= 2 for n in range(ROUNDS)]


def test_two_processes_train_one_policy(judgeable: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    overrides = (*_delicate(judgeable), "run.rounds=2", "run.num_processes=2")
    result = run([*accelerate(2), *arguments(judgeable, directory, *overrides)])
    assert result.returncode == 0, result.stderr[-3000:]
    assert status(directory)["state"] == "finished"
    found = rows(directory, "round")
    assert [row["round"] for row in found] == [0, 1]
    for row in found:
        assert row["run/world_size"] == 2
        for key in ("policy/weights_hash", "critic/weights_hash"):
            first, second = row[key]  # one a process
            assert first == second
    assert found[0]["policy/weights_hash"] != found[1]["policy/weights_hash"]
    # Both processes' halves of the batch are in the round: 2 steps x 2 x 16 completions.
    for row in found:
        assert int(str(row["gate/admitted"])) + sum(row["gate/rejected"].values()) == 64
    for row in rows(directory, "step"):
        assert ENGINE != "vllm" or float(str(row.get("rollout/mismatch_max", 0))) <= 1e-4


class BreaksInRound2(Run):
    """A run whose learner's weights are lost once round 2 has trained it."""

    def archive(self) -> DuplicateIndex:
        if self.round == 2:
            with torch.no_grad():
                for weight in self.roles.learner.policy.parameters():
                    weight.add_(torch.randn_like(weight))
        return super().archive()


def test_a_halt_leaves_the_last_clean_checkpoint_and_an_incident(
    judgeable: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A learner that breaks in round 2: a warning, an intervention, a halt; round 1 was clean."""
    monkeypatch.setattr("pipelines.run.session.Run", BreaksInRound2)
    directory = tmp_path / "run"
    overrides = (
        "run.rounds=8", "monitor.persist_checks=1", "evaluate.num_probe_tasks=16",
        "evaluate.num_samples=4", "learner.grpo.per_device_train_batch_size=32",
        "learner.grpo.learning_rate=1e-4",  # at the demo's this base loses its form on its own
        "evaluate.every_rounds=1", "evaluate.num_selection_tasks=4",
    )  # fmt: skip
    assert main(arguments(judgeable, directory, *overrides)) == HALTED == 3

    halted = status(directory)
    assert halted["state"] == "halted" and halted["round"] in (3, 4)
    clean = directory / "checkpoints" / "round_00001"
    assert halted["selected_checkpoint"] == str(clean)
    check_checkpoint("selected", str(clean / "learner"))
    assert (directory / "best").resolve().name in ("round_00000", "round_00001"), "both clean"
    printed = capfd.readouterr().out
    assert printed.rstrip().splitlines()[-1].startswith(f"model: {clean / 'learner'}, the last")
    assert f"halted by the monitor at round {halted['round']}" in printed
    report = html.unescape((directory / "report.html").read_text())
    for said in (*halted["account"].values(), halted["next"]):
        assert f"<dd>{said}</dd>" in report and said in printed
    assert "gold probe: 16 tasks x 4 samples show a fall of" in printed

    found = rows(directory, "round")
    levels = [row["monitor/state"] for row in found]
    assert levels in (["ok"] * 2 + ["warn", "intervene", "halt"], ["ok"] * 2 + ["warn", "halt"])
    verdicts = replay(rows(directory), load_run(directory).monitor)
    assert [health.state for health in verdicts] == levels
    assert [list(h.reasons) for h in verdicts] == [row["monitor/reasons"] for row in found]
    assert verdicts[-1].halted and "E" in verdicts[-1].channels

    incident = json.loads((directory / "incident.json").read_text())
    assert incident["last_clean_check"] == 1 and incident["quarantined_checks"] == [
        *range(2, len(found))
    ]
    assert incident["samples"] and incident["history"] == [row["monitor/signals"] for row in found]
    assert "Last clean check: 1" in (directory / "incident.md").read_text()
    assert (directory / "report.html").exists()

    admitted = [int(str(row["gate/admitted"])) for row in found]
    assert admitted[2] > 0, "nothing to quarantine: the test needs a longer round"
    kept = {p.name: pq.read_metadata(p).num_rows for p in (directory / "corpus").glob("*.parquet")}
    assert set(kept) <= {"round_00000.parquet", "round_00001.parquet"}
    assert sum(kept.values()) == admitted[0] + admitted[1]
    quarantined = sorted((directory / "corpus_quarantine").iterdir())
    assert pq.read_metadata(quarantined[0]).num_rows == admitted[2]

    with pytest.raises(SystemExit) as refused:
        main(["--resume", str(directory)])
    assert refused.value.code == 2
    assert f"start a new run from {clean}" in capfd.readouterr().err
