"""`sparring-data verify` on small data sets: what was edited, lost, judged by another version."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from set_cases import NUMERIC, sum_record, write_set

from data.batches import read_batches
from data.corpus import Corpus
from data.dataset_folder import SURPLUS, DatasetFolder
from data.held_out import HeldOut
from data.records import Record
from data.sealed import seal
from pipelines.dataset import main

BATCHES = [
    [sum_record(1), sum_record(2, reason="verifier: incorrect")],
    [sum_record(3, round_=1), sum_record(3, seed=1, round_=1)],
]
BATCHES[1][1] = seal(replace(BATCHES[1][1], accepted=False, reject_reason="duplicate"))


def verify(capsys: pytest.CaptureFixture[str], path: Path) -> tuple[int, dict[str, list]]:
    capsys.readouterr()
    status = main(["verify", str(path), "--json"])
    return status, json.loads(capsys.readouterr().out)


def put(path: Path, number: int, records: Sequence[Record], folder: str = "train") -> None:
    Corpus(path / folder).store(number, records)


def test_a_sound_set_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = verify(capsys, write_set(tmp_path / "set", BATCHES))
    assert status == 0
    nothing: dict[str, object] = {"differing": [], "missing": [], "versions": [], "unchecked": []}
    assert found == {"records": 4} | nothing


def test_a_record_edited_and_sealed_anew_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_set(tmp_path / "set", BATCHES)
    praised = seal(replace(BATCHES[0][0], pass_rate=1.0))
    put(path, 0, [praised])
    status, found = verify(capsys, path)
    assert (status, found["differing"]) == (1, [])  # it is sound in itself
    assert found["missing"] == ["batch 0 was changed after it was written"]


def test_a_lost_shard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_set(tmp_path / "set", BATCHES)
    (path / "rejected" / "round_00000.parquet").unlink()
    put(path, 1, [BATCHES[1][0], sum_record(9, round_=1)])
    status, found = verify(capsys, path)
    assert status == 1 and found["missing"] == [
        "rejected/round_00000.parquet is lost: 1 were written",
        "train/round_00001.parquet holds 2 records: 1 were written",
    ]
    assert main(["verify", str(path)]) == 1
    assert "round_00000.parquet is lost" in capsys.readouterr().out


def test_a_broken_shard_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_set(tmp_path / "set", BATCHES)
    shard = path / "train" / "round_00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    for command in (
        ["verify"],
        ["stats"],
        ["inspect"],
        ["export", "--format", "sft", "--out", "x"],
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([command[0], str(path), *command[1:]])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and error.count("\n") == 1
        assert f"shard {shard} cannot be read" in error


def test_a_changed_verifier_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_set(tmp_path / "set", [[sum_record(1, version="0"), sum_record(2, version="0")]])
    status, found = verify(capsys, path)
    row = {"verifier": "numeric", "then": "0", "now": NUMERIC, "records": 2}
    assert status == 0 and found["versions"] == [row]
    wrong = replace(sum_record(3, version="0"), reference="7")
    path = write_set(tmp_path / "wrong", [[seal(wrong)]])
    status, found = verify(capsys, path)
    why = f"the verifier now says incorrect, not correct (version 0 then, {NUMERIC} now)"
    assert status == 1 and [one["why"] for one in found["differing"]] == [why]


def test_gates_are_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leak = [HeldOut("test", sum_record(1).prompt)]
    alone = seal(replace(sum_record(4), accepted=False, reject_reason="duplicate"))
    passed = seal(replace(sum_record(5), accepted=False, reject_reason="verifier: incorrect"))
    forged = [sum_record(1), sum_record(2), sum_record(2, seed=5), alone, passed]
    status, found = verify(capsys, write_set(tmp_path / "set", [forged], held_out=leak))
    whys = {one["id"]: one["why"] for one in found["differing"]}
    assert status == 1 and whys == {
        forged[0].id: f"it is accepted, and shares with an evaluation text: "
        f"{sum_record(1).prompt.lower()}",
        forged[2].id: "it is accepted, and a duplicate of another accepted record",
        alone.id: "it was rejected as a duplicate, and no other record is like it",
        passed.id: "it was rejected by its verifier: incorrect, with verdict correct",
    }
    (tmp_path / "set" / "held_out.jsonl").unlink()
    _, found = verify(capsys, tmp_path / "set")
    assert len(found["differing"]) == 3 and "contamination" in found["unchecked"][0]


def test_the_ledger_forgets_an_open_batch(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set", BATCHES)
    folder = DatasetFolder(path)
    progress = folder.progress()
    assert progress is not None and [one.batch for one in read_batches(path)] == [0, 1]
    with (path / "batches.jsonl").open("a") as file:
        file.write('{"batch": 2, "acc')
    folder.clean_up(progress)
    assert [one.batch for one in read_batches(path)] == [0, 1]
    first = replace(progress, batches=1, accepted=1, rejected=1)
    folder.clean_up(first)
    assert [one.batch for one in read_batches(path)] == [0] and folder.missing(first) == []


def test_a_growing_set_takes_back_the_batch_that_was_cut(tmp_path: Path) -> None:
    surplus = seal(replace(sum_record(5, round_=1), accepted=False, reject_reason=SURPLUS))
    path = write_set(tmp_path / "set", [BATCHES[0], [sum_record(4, round_=1), surplus]])
    folder = DatasetFolder(path)
    progress = folder.progress()
    assert progress is not None
    before = folder.reopen(progress)
    assert (before.batches, before.accepted, before.rejected) == (1, 1, 1)
    assert folder.progress() == before and {one.round for one in folder.records()} == {0}
    whole = DatasetFolder(write_set(tmp_path / "whole", BATCHES))
    progress = whole.progress()
    assert progress is not None and whole.reopen(progress) == progress
