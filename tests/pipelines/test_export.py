"""What `sparring-data export` leaves out."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from critic_cases import chain_task
from set_cases import sum_record, write_set

from critic.format import true_critique
from data.records import CritiqueNote, Record, SampledWith
from data.sealed import make_record, seal
from pipelines.dataset import main
from rewards.dialect import dialect
from rewards.verdict import Verdict


def rows(path: Path, name: str, *more: str) -> list[dict[str, object]]:
    out = path.parent / f"{name}.jsonl"
    assert main(["export", str(path), "--format", name, "--out", str(out), *more]) == 0
    kept = out.read_text()
    with pytest.raises(SystemExit):
        main(["export", str(path), "--format", name, "--out", str(out)])
    assert out.read_text() == kept, "nothing is overwritten"
    assert main(["export", str(path), "--format", name, "--out", str(out), "--force"]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_no_solution_is_chosen_and_rejected(tmp_path: Path) -> None:
    """A verifier that changed its mind about a solution must not teach both."""
    good = [sum_record(1, seed=n, solution=f"{'So ' * n}\\boxed{{2}}") for n in range(3)]
    again = replace(good[0], accepted=False, verdict_outcome="incorrect", reject_reason="x", id="1")
    bad = [sum_record(1, seed=9, reason="verifier: incorrect"), seal(again)]
    found = rows(write_set(tmp_path / "set", [[*good, *bad]]), "dpo")
    assert [row["rejected_id"] for row in found] == [bad[0].id]
    assert all(row["chosen"] != row["rejected"] for row in found)


def judged(number: int, *checks: str) -> Record:
    """A wrong chain solution with true critiques of it, and what checking them is said to find."""
    task, parser = chain_task([4, 1, 7, number]), dialect("chain")
    text = parser.write_solution(task, random.Random(0), 1.0)
    solution = parser.parse_solution(text, truncated=False)
    critique = true_critique(task, solution, parser, random.Random(0))
    notes = [CritiqueNote(critic_hash="cc", content=critique, meta_check=said) for said in checks]
    return make_record(
        task, solution=text, answer=solution.answer, critiques=notes,
        verdict=Verdict("incorrect", "puzzle", "1", 0.0),
        sampling=SampledWith(temperature=1.0, top_p=1.0, seed=0), learner_hash="aa", round=0,
        pass_rate=0.0, reject_reason="verifier: incorrect",
    )  # fmt: skip


def test_a_refuted_critique_is_no_example(tmp_path: Path) -> None:
    said = (("a: refuted",), ("a: confirmed",), ("b: refuted, c: confirmed", "a: confirmed"))
    records = [judged(number, *checks) for number, checks in enumerate(said, start=3)]
    path = write_set(tmp_path / "set", [records], **{"tasks.dialect": "chain"})
    found = {row["id"]: row["completion"] for row in rows(path, "critic")}
    assert found.keys() == {records[1].id, records[2].id} and all(found.values())
    every = rows(path, "critic_prompts")
    assert {row["id"] for row in every} == {record.id for record in records}
    assert all("completion" not in row and row["first_flaw"] for row in every)
