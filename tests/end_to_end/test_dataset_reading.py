"""`sparring-data inspect`, `stats`, `verify` and `export` on a generated data set."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from dataset_cases import (
    NUM,
    ROOT,
    records,
    refused,
)
from datasets import load_dataset

from data.corpus import Corpus
from data.dataset_folder import DatasetFolder
from data.sealed import seal
from pipelines.dataset import main

# -- inspect, stats, verify, export ---------------------------------------------------------------


def test_stats_count_what_is_there(generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["stats", str(generated), "--json"]) == 0
    found, drawn = json.loads(capsys.readouterr().out), records(generated)
    assert (found["accepted"], found["samples"]) == (NUM, len(drawn))
    assert sum(found["reasons"].values()) == found["rejected"]
    assert found["accept_rate"] == NUM / len(drawn), "as the terminal and the card say"
    correct = sum(record.verdict_outcome == "correct" for record in drawn)
    assert found["families"]["basic_arithmetic"] == {
        "samples": len(drawn), "correct": correct, "accepted": NUM,
    }  # fmt: skip
    assert found["mean_pass_rate"] == pytest.approx(correct / len(drawn))
    assert 0 <= found["critic"]["unparsed"] < found["critic"]["critiques"]
    assert 0 <= found["critic"]["agreement"] <= 1
    assert main(["stats", str(generated)]) == 0
    assert "accept_rate" in capsys.readouterr().out


def test_inspect_shows_records(generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["inspect", str(generated), "--num", "2"]) == 0
    assert capsys.readouterr().out.count("accepted  basic_arithmetic") == 2
    assert main(["inspect", str(generated), "--num", "3", "--rejected", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3 and not any(row["accepted"] for row in rows)
    assert "--num" in refused(capsys, ["inspect", str(generated), "--num", "0"])
    assert "not a directory" in refused(capsys, ["inspect", str(generated / "nowhere")])
    assert "no records" in refused(capsys, ["stats", str(ROOT / "configs")])


def test_verify_finds_exactly_the_forged_records(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(generated)]) == 0
    out = tmp_path / "set"
    shutil.copytree(generated, out)
    accepted = [*DatasetFolder(out).accepted.records()]
    shard = [record for record in accepted if record.round == accepted[0].round]
    praised = seal(replace(shard[0], reference="7", entry=shard[0].entry.replace(
        f'"answer":"{shard[0].reference}"', '"answer":"7"')))  # fmt: skip
    Corpus(out / "train").admit([praised, *shard[1:]])
    capsys.readouterr()
    assert main(["verify", str(out), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    why = "the verifier now says incorrect, not correct"
    assert found["differing"] == [{"id": praised.id, "why": why}]
    assert main(["verify", str(out)]) == 1
    assert praised.id in capsys.readouterr().out


def test_verify_notices_a_changed_record(generated: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "set"
    shutil.copytree(generated, out)
    path = out / "rejected" / "round_00000.parquet"
    table = pq.read_table(path)
    column = [*table["temperature"].to_pylist()[1:], 0.3]
    index = table.column_names.index("temperature")
    pq.write_table(table.set_column(index, table.schema.field(index), [column]), path)
    assert main(["verify", str(out)]) == 1


@pytest.mark.parametrize("name", ["sft", "dpo", "critic", "critic_prompts", "prompts"])
def test_export_writes_rows_that_datasets_reads(generated: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / f"{name}.jsonl"
    assert main(["export", str(generated), "--format", name, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(load_dataset("json", data_files=str(out), split="train")) == len(rows)
    drawn = {record.id: record for record in records(generated)}
    if name == "sft":
        assert {row["id"] for row in rows} == {r.id for r in drawn.values() if r.accepted}
        assert all(row["completion"] == drawn[row["id"]].solution for row in rows)
        assert rows[0]["prompt"].endswith("\n")
    if name == "dpo":
        for row in rows:
            good, bad = drawn[row["chosen_id"]], drawn[row["rejected_id"]]
            assert good.task_id == bad.task_id and good.accepted
            assert bad.verdict_outcome == "incorrect"
    if name == "critic":
        assert all(row["completion"] for row in rows)
    if name.startswith("critic"):
        for row in rows:
            assert row["sound"] == (drawn[row["id"]].verdict_outcome == "correct")
            assert row["sound"] or row["first_flaw"] is not None
        assert {row["sound"] for row in rows} == {True, False}
    if name == "prompts":
        assert {row["task_id"] for row in rows} == {r.task_id for r in drawn.values()}
        assert len(rows) == len({row["task_id"] for row in rows})


def test_export_refuses_what_it_cannot_write(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["export", str(generated), "--format", "sfd", "--out", str(tmp_path / "rows.jsonl")]
    assert 'did you mean "sft"' in refused(capsys, asked)
    asked = ["export", str(generated), "--format", "sft", "--out", str(tmp_path)]
    assert "is a directory" in refused(capsys, asked)
    shards = tmp_path / "shards"
    shutil.copytree(generated / "train", shards)
    asked = ["export", str(shards), "--format", "sft", "--out", str(tmp_path / "rows.jsonl")]
    assert "--dialect" in refused(capsys, asked)
    assert main([*asked, "--dialect", "chain"]) == 0
    asked = ["export", str(shards), "--format", "dpo", "--out", str(tmp_path / "pairs.jsonl")]
    assert "nothing for format dpo" in refused(capsys, [*asked, "--dialect", "chain"])
    assert not (tmp_path / "pairs.jsonl").exists()
