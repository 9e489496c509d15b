"""Shards of one generation, and their merging into one data set."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from set_cases import sum_record, write_set

from data.dataset_folder import DatasetFolder
from data.held_out import HeldOut
from data.sealed import record_digest, seal
from data.shard import Shard, read_shard
from data.sources import jsonl_source, make_source
from pipelines.dataset import main
from pipelines.errors import UserError
from pipelines.synthesis.merge import merge

PROSE = " ".join(f"word{n}" for n in range(80))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that the command fails with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


# -- shards ---------------------------------------------------------------------------------------


def test_every_task_is_in_exactly_one_shard(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    rows = [json.dumps({"question": f"What is {n} + 1?", "answer": n + 1}) for n in range(200)]
    path.write_text("\n".join(rows))
    source = jsonl_source(path)
    everything = {task.id for task in source.draw("train", len(source.ids("train")), 0)}
    parts = [
        {task.id for task in Shard(n, 3).draw_up_to(source, "train", 1000, seed, frozenset())}
        for n, seed in ((1, 0), (2, 7), (3, 0))  # whatever their seeds
    ]
    assert set.union(*parts) == everything and sum(map(len, parts)) == len(everything)
    assert min(map(len, parts)) > len(everything) / 6


def test_a_shard_of_tasks_made_on_demand_is_filled_and_repeats() -> None:
    source = make_source("reasoning_gym", family="basic_arithmetic")
    played = frozenset[str]()
    for batch in range(3):
        tasks = Shard(2, 4).draw_up_to(source, "train", 8, batch, played)
        assert len({task.id for task in tasks}) == 8 and not played & {task.id for task in tasks}
        assert all(Shard(2, 4).holds(task.id) for task in tasks)
        assert tasks == Shard(2, 4).draw_up_to(source, "train", 8, batch, played)
        played |= {task.id for task in tasks}


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--shard must be i/n"):
        read_shard(text)
    assert read_shard("2/3") == Shard(2, 3)


# -- merge ----------------------------------------------------------------------------------------


def two_shards(tmp_path: Path, **changed: object) -> list[Path]:
    """Two shards with a duplicate, a near duplicate and a leak between them."""
    prose = "Say the words of the list."
    first = [
        [sum_record(1), sum_record(2, reason="verifier: incorrect")],
        [sum_record(3, round_=1), sum_record(0, question=prose, solution=PROSE, round_=1)],
    ]
    second = [
        [sum_record(1, seed=9), sum_record(4)],  # what another shard has, too
        [sum_record(0, question=prose, solution=f"{PROSE} end", round_=1)],
        [sum_record(99, round_=2), sum_record(5, reason="duplicate", round_=2)],
    ]
    leak = [HeldOut("test", sum_record(99).prompt)]
    return [
        write_set(tmp_path / "one", first, shard=Shard(1, 2), held_out=leak),
        write_set(tmp_path / "two", second, shard=Shard(2, 2), held_out=leak, **changed),
    ]


def test_merged_shards_pass_the_gates_again_and_lose_nothing(tmp_path: Path) -> None:
    shards, out = two_shards(tmp_path), tmp_path / "out"
    merged = merge(out, shards)
    assert merged.dropped == Counter(duplicate=1, near_duplicate=1, contaminated=1)
    assert [row["kept"] for row in merged.shards] == [3, 1]
    before = {one.id: one for path in shards for one in DatasetFolder(path).records()}
    after = list(DatasetFolder(out).records())
    assert Counter(one.id for one in after) == Counter(before.keys())
    for one in after:
        assert one.sha256 == record_digest(one) and one.accepted == (not one.reject_reason)
        facts = {"accepted", "reject_reason", "contamination", "sha256"}
        same = {key: value for key, value in asdict(one).items() if key not in facts}
        assert same == {key: asdict(before[one.id])[key] for key in same}
        if one.accepted or not before[one.id].accepted:
            assert one == before[one.id]
    progress = DatasetFolder(out).progress()
    assert progress is not None and progress.status == "complete"
    assert (progress.accepted, progress.rejected, progress.batches) == (4, 5, 5)
    DatasetFolder(out).require_whole(progress)
    assert f"# {out.name}" in (out / "README.md").read_text().splitlines()


def test_merge_prints_what_became_of_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, out = list(map(str, two_shards(tmp_path))), tmp_path / "out"
    assert main(["merge", str(out), *shards, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["accepted"], found["rejected"]) == (4, 5)
    assert found["dropped"] == {"duplicate": 1, "near_duplicate": 1, "contaminated": 1}
    assert "not empty" in refused(capsys, "merge", out, *shards)
    assert main(["merge", str(tmp_path / "again"), *shards]) == 0
    assert "two: 1 of 4 accepted records kept" in capsys.readouterr().out
    assert main(["stats", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accepted"] == 4


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"tasks.answer_in": "tag"}, "other settings (tasks.answer_in boxed and tag)"),
        ({"group": 2}, "other settings (group 1 and 2)"),
        ({"weights": {"learner": "bb"}}, "other weights (learner aa and bb)"),
        ({"seed": 1}, "2/2 of seed 0 are missing"),
        ({"status": "interrupted"}, "two is interrupted"),
        ({"merged": []}, "is itself merged"),
    ],
)
def test_shards_of_another_generation_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object], line: str
) -> None:
    out = tmp_path / "out"
    assert line in refused(capsys, "merge", out, *two_shards(tmp_path, **changed))
    assert not out.exists()


def test_damaged_missing_and_doubled_shards_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (one, two), out = two_shards(tmp_path), tmp_path / "out"
    assert "shards 2/2 of seed 0 are missing" in refused(capsys, "merge", out, one)
    assert "hold the same samples" in refused(capsys, "merge", out, one, two, one)
    assert "is not a directory" in refused(capsys, "merge", out, one, tmp_path / "nowhere")
    other = write_set(tmp_path / "third", [[sum_record(7)]], shard=Shard(3, 3))
    assert "parts overlap" in refused(capsys, "merge", out, one, other)
    version = sum_record(8, version="0 with answers 0")
    late = write_set(tmp_path / "late", [[version]], shard=Shard(2, 2))
    assert "verifier numeric judged" in refused(capsys, "merge", out, one, late)
    (two / "train" / "round_00001.parquet").unlink()
    assert "restore its shards" in refused(capsys, "merge", out, one, two)
    edited = write_set(tmp_path / "edited", [], shard=Shard(2, 2))
    folder = DatasetFolder(edited)
    forged = seal(replace(sum_record(8), answer="10"))
    progress = folder.progress()
    assert progress is not None
    folder.commit([forged], progress)
    import pyarrow.parquet as pq

    path = folder.accepted.path_of(0)
    table = pq.read_table(path)
    index = table.column_names.index("answer")
    pq.write_table(table.set_column(index, table.schema.field(index), [["9"]]), path)
    assert f"record {forged.id} was edited" in refused(capsys, "merge", out, one, edited)
    (one / "held_out.jsonl").unlink()
    assert "no held_out.jsonl" in refused(capsys, "merge", out, one, "--partial")
    assert not out.exists() and not list(tmp_path.glob("*.partial"))


def test_a_partial_merge_takes_what_there_is(tmp_path: Path) -> None:
    one, two = two_shards(tmp_path, status="interrupted")
    assert merge(tmp_path / "both", [one, two], partial=True).accepted == 4
    assert merge(tmp_path / "alone", [one], partial=True).accepted == 3


def test_sets_of_several_seeds_merge_too(tmp_path: Path) -> None:
    sets = [
        write_set(tmp_path / str(seed), [[sum_record(n, seed=seed) for n in (1, seed + 5)]],
                  seed=seed)
        for seed in range(3)
    ]  # fmt: skip
    merged = merge(tmp_path / "out", sets)
    assert (merged.accepted, merged.dropped) == (4, Counter(duplicate=2))


def test_a_merge_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, out = two_shards(tmp_path), tmp_path / "out"
    write = DatasetFolder.commit

    def full(self: DatasetFolder, records: list, progress: object) -> object:
        if progress.batches == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return write(self, records, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(DatasetFolder, "commit", full)
    with pytest.raises(KeyboardInterrupt):
        merge(out, shards)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
