"""The numbers and the table a run ends with: one schema, paired changes, and bad news in words."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from critique_cases import UNREAD, critique

from critic.calibration import FIGURES, measure
from critic.measured import MeasuredCritique
from pipelines.game.audit import CriticAudit
from pipelines.game.evaluation import Evaluation, RolloutFigures
from pipelines.game.examiner import Probe
from pipelines.run.final_table import table
from pipelines.run.round_log import Stages
from pipelines.run.summary import fresh_figures, summary

NUM_TASKS = 40


def critiques(accused_every: int) -> list[MeasuredCritique]:
    """Every task has a sound and a flawed solution; every n-th sound one is accused."""
    found = []
    for n in range(NUM_TASKS):
        accused = n % accused_every == 0
        found.append(critique(0.2 if accused else 0.9, named="a" if accused else None, task=f"{n}"))
        kind = {"first_bad": "b", "kind": "carry" if n % 4 else "sign", "sound": False}
        found.append(critique(0.1, named="b", task=f"{n}", solution="flawed", **kind))
        found.append(critique(**UNREAD, task=f"{n}", solution="flawed", **kind))
    return found


def examined(correct_of_8: int, audit: CriticAudit | None, masked: int = 0) -> dict[str, object]:
    """What `Examiner.evaluate` returns, read back from its file."""
    share = correct_of_8 / 8
    evaluation = Evaluation(
        NUM_TASKS, 8, share, (share - 0.05, share + 0.05), 0.9, share, (0.0, 1.0), 1.0, masked,
        (correct_of_8,) * NUM_TASKS,
    )  # fmt: skip
    found = {
        "figures": evaluation.row() | ({} if audit is None else audit.row()),
        "correct_by_task": evaluation.correct_by_task,
        "critiques": {} if audit is None else audit.columns(),
    }
    return json.loads(json.dumps(found))


def audited(accused_every: int) -> CriticAudit:
    found = critiques(accused_every)
    return CriticAudit(measure(found), tuple(found), 0.6, 0.7)


def round_row(number: int, fresh: CriticAudit | None) -> dict[str, object]:
    evaluation = Evaluation(1, 8, 0.5, None, 1.0, 0.5, None, 1.0, 0, (4,))
    probe = Probe((), ((-0.1,),), evaluation, None, fresh, RolloutFigures(0.5, 3))
    return {"kind": "round", "round": number} | json.loads(json.dumps(probe.row()))


def summed(
    folder: Path, before: dict[str, object], after: dict[str, object], rows: list[dict]
) -> dict[str, object]:
    (folder / "before.json").write_text(json.dumps(before))
    (folder / "after.json").write_text(json.dumps(after))
    counts = Counter(admitted=5, incorrect=3, near_duplicate=9)
    found = summary(folder, rows, Stages(), counts, "ok", 12.0)
    return json.loads(json.dumps(found))


def test_one_name_for_a_figure_in_every_file(tmp_path: Path) -> None:
    before, after = examined(4, audited(40)), examined(6, audited(2))
    rows = [round_row(0, audited(40)), round_row(1, audited(4))]
    found = summed(tmp_path, before, after, rows)
    assert found["before"] == before["figures"] and found["after"] == after["figures"]
    names = {*FIGURES, *(f"{name}_interval" for name in FIGURES), "ece_perfect", "ece_perfect_p95"}
    assert names <= set(found["before"])
    assert names <= set(found["fresh"]["first"])
    assert {f"critic/fresh/{name}" for name in names} <= set(rows[0])
    assert (
        set(found["change"]) == {"mean_at_k", *FIGURES} == {"mean_at_k", *found["fresh"]["change"]}
    )
    assert found["masked_rollouts"] == 6


def test_what_got_worse_is_said_in_words(tmp_path: Path) -> None:
    """4% of accusations became 40%, and no line of the table said so."""
    before, after = examined(4, audited(40)), examined(6, audited(2), masked=7)
    found = summed(tmp_path, before, after, [round_row(0, audited(2)), round_row(1, audited(40))])
    change = found["change"]
    assert change["false_accusations"]["value"] == pytest.approx(0.5 - 1 / 40)
    assert change["false_accusations"]["verdict"] == change["brier"]["verdict"] == "worse"
    assert change["location_accuracy"]["verdict"] == "unchanged"
    assert change["mean_at_k"] == {"value": 0.25, "interval": [0.25, 0.25], "verdict": "better"}
    text = table(found, tmp_path)
    accused = next(line for line in text.split("\n") if "falsely accused" in line)
    assert re.search(r"2\.5% \[.*50\.0% \[.*\+47\.5 \[.*worse$", accused), accused
    assert re.search(r"masked samples \(counted as wrong\) +0 +7\n", text)
    worse = [line for line in text.split("\n") if line.startswith("worse beyond its interval")]
    assert "sound solutions falsely accused" in worse[0] and "Brier score" in worse[0]
    assert "location accuracy" not in worse[0]
    assert worse[1].endswith("fresh rollouts: nothing"), "there it got better"
    assert "rejected: 12 (9 near_duplicate, 3 incorrect)" in text
    assert "masked rollouts over the run: 6" in text
    assert "\nseconds: 12 in all; other 12\n" in text


def test_the_table_shows_every_figure_that_could_embarrass(tmp_path: Path) -> None:
    both = examined(4, audited(4))
    text = table(summed(tmp_path, both, both, [round_row(0, audited(4))]), tmp_path)
    for name in (
        "falsely accused", "location accuracy", "ProcessBench F1", "AUROC", "Brier score", "ECE",
        "ECE if perfectly calibrated", "critiques parsed", "masked samples",
        "located, carry (75.0% of mistakes): 50.0%", "located, sign (25.0% of mistakes): 50.0%",
    ):  # fmt: skip
        assert name in text, name
    audit = text[text.index("critic, ") : text.index("critic, fresh")]
    assert "25.0% [" in audit and "66.7% [" in audit, "accusations and parsed, with intervals"
    assert "95% below" in audit
    head, *_ = text.strip().splitlines()
    assert head.split("  ")[0] == "before self-play", "a chat model has no cold start"


def test_the_best_checkpoint_is_told_apart_from_what_selected_it(tmp_path: Path) -> None:
    both = examined(4, None)
    found = summed(tmp_path, both, both, [round_row(0, None)])
    best = {"round": 3, "selected_at": 0.75, "mean_at_k": 0.5, "mean_at_k_interval": [0.4, 0.6]}
    text = table(found | {"best": best}, tmp_path)
    assert (
        "best checkpoint: of round 3, 75.0% on the selection tasks, which flatters it as the best "
        "of several; on the test tasks 50.0% [40.0, 60.0]\n" in text
    )


def test_a_run_without_critiques_says_so(tmp_path: Path) -> None:
    nothing = examined(4, None)
    found = summed(tmp_path, nothing, nothing, [round_row(0, None)])
    assert found["fresh"] == {}
    text = table(found, tmp_path)
    assert "critic on fresh rollouts: it was not asked" in text
    assert "inside the blocks" not in text, "no block was played"
    assert "rejected: 0\n" in table(found | {"rejected": {}}, tmp_path)
    assert "worse beyond its interval, fixed tasks and audit: nothing" in text


def test_one_round_has_no_change_over_rounds() -> None:
    found = fresh_figures([round_row(0, audited(4)), round_row(1, None)])
    assert found["first"] == found["last"] and found["change"] == {}
