"""Records: ids, splits, digests and the round trip through plain rows."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.records import (
    DEFAULT_SHARES,
    SPLITS,
    CritiqueNote,
    Generator,
    Record,
    SampledWith,
    Task,
    make_task,
    signature,
    split_of,
)
from data.sealed import (
    RECORD_COLUMNS,
    make_record,
    record_digest,
    record_from_row,
    record_row,
    seal,
)
from rewards.verdict import Verdict

GENERATOR = Generator(name="hand", version="1", seed=0, difficulty="")
CORRECT = Verdict("correct", "exact", "1", 1.0)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)

FIELDS = tuple(column.name for column in RECORD_COLUMNS)


def task(question: str = "What is 2 + 2?") -> Task:
    return make_task(
        family="hand", question=question, reference="4", verifier="exact", generator=GENERATOR
    )


def record(solution: str = "4", answer: str | None = "4", pass_rate: float | None = 0.5) -> Record:
    return make_record(
        task(),
        solution=solution,
        answer=answer,
        verdict=CORRECT,
        sampling=SampledWith(temperature=1, top_p=1, seed=3),
        learner_hash="aa",
        round=2,
        pass_rate=pass_rate,
        critiques=[CritiqueNote(critic_hash="cc", content="fine", meta_check="confirmed")],
        parents=["p"],
    )


@given(st.lists(TEXTS, unique_by=str.strip, max_size=20))
def test_a_task_belongs_to_exactly_one_split(questions: list[str]) -> None:
    tasks = [task(question) for question in questions]
    ids = {split: {item.id for item in tasks if item.split == split} for split in SPLITS}
    assert sum(map(len, ids.values())) == len({item.id for item in tasks})
    assert all(item.split == split_of(item.id) for item in tasks)


def test_splits_take_their_shares() -> None:
    drawn = [split_of(str(number)) for number in range(20_000)]
    for split, share in DEFAULT_SHARES.items():
        assert drawn.count(split) / len(drawn) == pytest.approx(share, abs=0.01)
    whole = {"train": 0.0, "audit": 0.0, "probe": 0.0, "test": 1.0}
    assert {split_of(str(number), whole) for number in range(100)} == {"test"}


@pytest.mark.parametrize(
    "shares", [{"train": 1.0}, dict.fromkeys(SPLITS, 0.3), {**DEFAULT_SHARES, "test": -0.05}]
)
def test_wrong_shares_are_refused(shares: dict) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        split_of("x", shares)


@given(TEXTS, TEXTS)
def test_signature_ignores_whitespace_only(left: str, right: str) -> None:
    assert signature(left, right) == signature(f" {left}\n", f"\t{right}  ")
    assert signature(left, right) != signature(left, right + "x")


def test_signature_keeps_parts_and_words_apart() -> None:
    assert len({signature("a b"), signature("ab"), signature("a", "b"), signature("b", "a")}) == 4
    assert signature("caf\u00e9") == signature("cafe\u0301")
    assert len(signature("")) == 16


@given(TEXTS, st.none() | TEXTS, st.none() | st.floats(0, 1))
def test_a_record_survives_json(solution: str, answer: str | None, rate: float | None) -> None:
    made = record(solution, answer, rate)
    row = json.loads(json.dumps(record_row(made)))
    assert tuple(row) == FIELDS
    assert record_from_row(row) == made
    assert record_digest(record_from_row(row)) == made.sha256


def test_any_change_breaks_the_seal() -> None:
    made = record()
    for name in FIELDS:
        if name != "sha256":
            value = getattr(made, name)
            changed = replace(made, **{name: (1 - value) if isinstance(value, float) else ("x",)})
            if name == "critiques":
                changed = replace(made, critiques=())
            elif isinstance(value, float) and changed == made:  # 0.5 mirrors itself
                changed = replace(made, **{name: 0.25})
            assert record_digest(changed) != made.sha256, name
    assert seal(replace(made, round=3)).sha256 != made.sha256
    assert seal(made) == made


def test_a_reason_rejects() -> None:
    assert record().accepted
    refused = make_record(
        task(),
        solution="5",
        answer="5",
        verdict=Verdict("incorrect", "exact", "1", 0.0),
        sampling=SampledWith(temperature=1, top_p=1, seed=3),
        learner_hash="aa",
        round=0,
        pass_rate=None,
        reject_reason="incorrect",
    )
    assert not refused.accepted and refused.verdict_outcome == "incorrect"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pass_rate": 1.5}, "pass_rate must lie"),
        ({"round": -1}, "round must be 0 or more"),
        ({"sampling": SampledWith(temperature=1, top_p=1, seed=2**63)}, "64 signed bits"),
    ],
)
def test_impossible_values_are_refused(changes: dict, message: str) -> None:
    arguments = {
        "solution": "4",
        "answer": "4",
        "verdict": CORRECT,
        "sampling": SampledWith(temperature=1, top_p=1, seed=0),
        "learner_hash": "aa",
        "round": 0,
        "pass_rate": None,
    }
    with pytest.raises(ValueError, match=message):
        make_record(task(), **{**arguments, **changes})


def test_importing_data_leaves_torch_alone(checkout: Path) -> None:
    code = (
        "import sys, data.records, data.sources, data.corpus, data.dedup, data.card;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)
