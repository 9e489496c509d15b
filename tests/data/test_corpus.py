"""The corpus on disk: whole or absent, idempotent, readable by `datasets`, taken back on demand."""

from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from set_cases import as_version_1, make_shards_old

from data.atomic import TEMPORARY_SUFFIX, write_bytes_atomic, write_text_atomic
from data.card import card
from data.corpus import SCHEMA, Corpus
from data.errors import UserError
from data.records import CritiqueNote, Generator, Record, SampledWith, make_task
from data.sealed import RECORD_COLUMNS, SCHEMA_VERSION, make_record, record_digest, record_row, seal
from rewards.verdict import Verdict

DIGEST_OF_VERSION_1 = "a8dae7c5eb5d8967caa6f4c9f54dca433e575fbd2edc8c9980173f1a33f6ce19"
FIELDS = tuple(column.name for column in RECORD_COLUMNS)


def make(number: int, round: int, *, solution: str = "", reject_reason: str = "") -> Record:
    task = make_task(
        family="sums",
        question=f"What is {number} + 1?",
        reference=str(number + 1),
        verifier="exact",
        generator=Generator(name="reasoning_gym/sums", version="1", seed=0, difficulty=""),
    )
    note = CritiqueNote(critic_hash="cc", content="fine|\nso far", meta_check="confirmed")
    return make_record(
        task,
        solution=solution or f"{number} + 1 = {number + 1}",
        answer=None if reject_reason else str(number + 1),
        verdict=Verdict("invalid" if reject_reason else "correct", "exact", "1", 0.0),
        sampling=SampledWith(temperature=0.7, top_p=1, seed=number),
        learner_hash="aa",
        round=round,
        pass_rate=0.25 if number % 2 else None,
        critiques=[note] * (number % 3),
        reject_reason=reject_reason,
    )


def test_admitted_records_come_back_unchanged(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "corpus")
    assert corpus.rounds() == [] and list(corpus.records()) == []
    records = [make(n, n // 4, reject_reason="invalid" if n % 4 == 0 else "") for n in range(12)]
    paths = corpus.admit(reversed(records))
    assert [path.name for path in paths] == [f"round_0000{n}.parquet" for n in range(3)]
    assert sorted(corpus.records(), key=lambda item: item.sampling_seed) == records
    assert list(corpus.records(before=1)) == records[3::-1]
    assert corpus.signatures() == {item.signature for item in records if item.accepted}
    assert corpus.signatures(before=0) == frozenset()
    assert Corpus(tmp_path / "corpus").rounds() == [0, 1, 2]


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=12))
def test_admitting_again_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[int, int]]
) -> None:
    corpus = Corpus(tmp_path_factory.mktemp("corpus"))
    records = [make(number, round) for round, number in sorted(cells)]
    corpus.admit(records)
    corpus.admit(records)
    assert list(corpus.records()) == records


def test_a_rerun_round_replaces_its_shard_only(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    corpus.admit([make(n, n % 2) for n in range(6)])
    corpus.admit([make(7, 1)])
    assert [item.sampling_seed for item in corpus.records()] == [0, 2, 4, 7]
    assert corpus.admit([]) == [] and corpus.rounds() == [0, 1]


def test_what_a_kill_left_behind_is_ignored_and_removed(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    corpus.admit([make(1, 0)])
    stale = tmp_path / f".round_00001.parquet.00ff00ff{TEMPORARY_SUFFIX}"
    stale.write_bytes(b"PAR1 half a shard")
    assert corpus.rounds() == [0] and len(list(corpus.records())) == 1
    assert len(load(tmp_path, tmp_path / "cache")) == 1
    assert stale.exists()  # a reader removes nothing: the writer may be at work
    corpus.admit([make(2, 1)])
    assert not stale.exists() and corpus.rounds() == [0, 1]


def test_a_failed_write_keeps_the_shard_that_was(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    good = make(1, 0)
    corpus.admit([good])
    with pytest.raises(OverflowError):
        corpus.admit([seal(replace(good, generator_seed=2**70))])
    with pytest.raises(ValueError, match="does not match its sha256"):
        corpus.admit([replace(good, solution="tampered")])
    assert list(corpus.records()) == [good]
    assert [path.name for path in tmp_path.iterdir()] == ["round_00000.parquet"]


def test_an_interrupted_atomic_write_leaves_the_old_contents(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "status.json"
    write_text_atomic(path, "old\r\n")
    with pytest.raises(TypeError):
        write_bytes_atomic(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old\r\n"
    write_text_atomic(path, "néw")
    assert path.read_text(encoding="utf-8") == "néw"
    assert [item.name for item in path.parent.iterdir()] == ["status.json"]


def test_dropped_rounds_are_kept_as_evidence(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "corpus")
    corpus.admit([make(n, n) for n in range(4)])
    moved = corpus.drop_rounds(after=1)
    assert corpus.rounds() == [0, 1]
    assert [path.name for path in moved] == ["round_00002.parquet", "round_00003.parquet"]
    corpus.admit([make(5, 2)])
    (second,) = corpus.drop_rounds(after=1)
    assert second.name == "round_00002.1.parquet" and all(path.exists() for path in moved)
    assert corpus.drop_rounds(after=1) == []
    assert len(load(tmp_path / "corpus", tmp_path / "cache")) == 2  # the quarantine is not read


def test_a_damaged_or_foreign_shard_is_named(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    (tmp_path / "round_00000.parquet").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"round_00000\.parquet cannot be read"):
        list(corpus.records())
    datasets.Dataset.from_dict({"x": [1]}).to_parquet(tmp_path / "round_00000.parquet")
    with pytest.raises(UserError, match="lacks signature"):
        corpus.signatures()


def load(folder: Path, cache: Path, **options: str) -> datasets.Dataset:
    options = options or {"data_dir": str(folder)}
    return datasets.load_dataset("parquet", split="train", cache_dir=str(cache), **options)


def test_datasets_reads_the_corpus(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "corpus")
    records = [make(n, n // 2, reject_reason="x" if n == 1 else "") for n in range(5)]
    corpus.admit(records)
    write_text_atomic(corpus.directory / "README.md", card(corpus.records()))
    pattern = str(corpus.directory / "round_*.parquet")
    expected = [record_row(item) for item in records]
    for dataset in (
        load(corpus.directory, tmp_path / "cache", data_files=pattern),
        datasets.load_dataset(str(corpus.directory), split="train", cache_dir=tmp_path / "cache"),
    ):
        assert tuple(dataset.column_names) == FIELDS
        assert dataset.to_list() == expected


def test_the_card_counts_what_is_there() -> None:
    records = [make(n, n // 4, reject_reason="truncated" if n == 0 else "") for n in range(8)]
    text = card(records, title='The "corpus"', licence="cc0-1.0")
    _, front, body = text.split("---\n", 2)
    header = yaml.safe_load(front)
    assert header["size_categories"] == ["n<1K"]
    assert header["pretty_name"] == 'The "corpus"' and header["license"] == "cc0-1.0"
    assert header["configs"] == [{"config_name": "default", "data_files": "round_*.parquet"}]
    for line in (
        "| all | 8 | 7 |",
        "| family sums | 8 | 7 |",
        "| round 0 | 4 | 3 |",
        "| truncated | 1 |",
        "| correct | 7 |",
        "- accepted: 7 of 8 (87.5%)",
        "accepted records: 0.250",
        "- distinct problems: 7 of 7 (100.0%)",
        "- generators: `reasoning_gym/sums 1`",
        "- learner weights: `aa`",
        "- critic weights: `cc`",
        "- problems of `reasoning_gym`: apache-2.0",
        "## Limits",
    ):
        assert line in body, line


def test_the_size_is_that_of_what_a_reader_loads() -> None:
    """200 of 1,024 were accepted, and the card said between a thousand and ten."""
    reasons = ["" if n < 200 else "incorrect" for n in range(1024)]
    records = [make(n, n // 4, reject_reason=reason) for n, reason in enumerate(reasons)]
    for alone, size in ((True, "n<1K"), (False, "1K<n<10K")):
        text = card(records, loads_accepted=alone)
        assert yaml.safe_load(text.split("---\n", 2)[1])["size_categories"] == [size]


def test_the_card_of_nothing_is_still_a_card() -> None:
    text = card([])
    assert "| all | 0 | 0 |" in text and "not measured" in text


def test_shards_of_the_first_schema_are_read_and_told_apart(tmp_path: Path) -> None:
    corpus, old = Corpus(tmp_path / "corpus"), [as_version_1(make(n, n // 2)) for n in range(4)]
    corpus.admit(old)
    make_shards_old(corpus.directory)
    assert list(corpus.records()) == old
    assert [record.schema_version for record in corpus.records()] == [1] * 4
    assert all(record.sha256 == record_digest(record) for record in corpus.records())
    assert corpus.signatures() == {record.signature for record in old}
    new = [make(n, 2) for n in (4, 5)]
    corpus = Corpus(corpus.directory)
    corpus.admit(new)  # its writer brings the others to the same columns, and changes no record
    assert list(corpus.records()) == [*old, *new]
    assert [record.schema_version for record in corpus.records()] == [1, 1, 1, 1, 2, 2]
    table = load(corpus.directory, tmp_path / "cache")
    assert table["schema_version"] == [1, 1, 1, 1, 2, 2] and table.column_names == list(FIELDS)


def test_a_later_schema_is_refused_by_its_number(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    corpus.admit([seal(replace(make(1, 0), schema_version=SCHEMA_VERSION + 1))])
    later = (
        rf"is of schema {SCHEMA_VERSION + 1}, and this version .* up to {SCHEMA_VERSION}: update"
    )
    with pytest.raises(UserError, match=later):
        list(corpus.records())


def test_a_record_of_the_first_schema_keeps_its_seal_and_cannot_hide_a_field() -> None:
    """The digest was written down by the version before this one."""
    old = as_version_1(make(1, 0))
    assert old.sha256 == DIGEST_OF_VERSION_1
    assert record_digest(replace(old, rendered="forged")) != old.sha256
    assert record_digest(replace(old, schema_version=2)) != old.sha256


def test_the_schema_follows_from_the_record() -> None:
    assert tuple(SCHEMA.names) == FIELDS
    assert {field.name for field in SCHEMA if field.nullable} == {"answer", "pass_rate"}
    kinds = {name: str(SCHEMA.field(name).type) for name in FIELDS}
    assert {name for name, kind in kinds.items() if kind == "int64"} == {
        "generator_seed", "sampling_seed", "round", "max_new_tokens", "schema_version",
    }  # fmt: skip
    assert {name for name, kind in kinds.items() if kind == "double"} == {
        "temperature", "top_p", "pass_rate",
    }  # fmt: skip
    assert kinds["accepted"] == "bool" and kinds["parents"] == "list<item: string>"
    note = "struct<critic_hash: string, content: string, meta_check: string>"
    assert kinds["critiques"] == f"list<item: {note}>"
