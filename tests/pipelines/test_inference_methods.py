"""Votes, choices, restarts and their bookkeeping, on solutions and critiques written by hand."""

import json
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from critic_cases import RIGHT, TASK, WRONG, chain_solution

from critic.critique import ParseFailure
from critic.format import critique_dialect
from data.records import Generator, make_task
from pipelines.inference.answers import same_answers
from pipelines.inference.attempts import Attempt, _buckets
from pipelines.inference.methods import SHUFFLED, Pool, method_rows, quality
from pipelines.inference.redo import Standing, flagged_step, restarts, text_before
from pipelines.inference.table import InferenceReport
from rewards.dialect import Solution, dialect
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers

FLAGS_C = "a4=40.b1=50.c7=21.~9"
SOUND, DOUBTS = "a4=40.b1=50.c7=21.d10=22.>22.~9", "a4=40.b1=50.c7=21.d10=22.>22.~2"
MISSES_IT = "a4=40.b1=50.c7=20.d10=21.>21.~3"
BROKEN = "a4=40.b1=50~"
MALFORMED = chain_solution("a4=40\nb1=5")
TIMEOUT = Verdict("timeout", "exact", "1", None)


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(20.0)) as found:
        yield found


def attempt(
    verifiers: Verifiers, solution: Solution, critique: str | None = None, tokens: int = 10
) -> Attempt:
    verdict = verifiers.verify(TASK, solution)
    if critique is None:
        return Attempt(TASK, solution, verdict, tokens)
    read = critique_dialect("chain").parse(critique, solution, truncated=False)
    return Attempt(TASK, solution, verdict, tokens, read, 5)


# -- answers --------------------------------------------------------------------------------------


def _classes(verifiers: Verifiers, kind: str, answers: list[str | None]) -> list[int | None]:
    task = make_task(
        family="f", question="q", reference="0", verifier=kind,  # type: ignore[arg-type]
        generator=Generator(name="test", version="0", seed=0, difficulty=""),
    )  # fmt: skip
    incorrect = Verdict("incorrect", kind, "1", 0.0)
    solutions = [Solution(a or "", (), a, None if a else "no_answer") for a in answers]
    return same_answers(verifiers, task, [(solution, incorrect) for solution in solutions])


def test_answers_are_compared_as_the_verifier_compares_them(verifiers: Verifiers) -> None:
    assert _classes(verifiers, "math", ["1/2", "0.5", None, "2", r"\frac{1}{2}", "0.5"]) == [
        0, 0, None, 2, 0, 0
    ]  # fmt: skip
    assert _classes(verifiers, "exact", ["Paris", "paris ", "Rome"]) == [0, 0, 2]
    assert _classes(verifiers, "exact", ["1/2", "0.5"]) == [0, 1]
    assert _classes(verifiers, "puzzle", ["A", "a", " A"]) == [0, 1, 0]


# -- where a redo begins --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "text"),
    [(0, ""), (2, "a4=40\nb1=50\n"), (4, "a4=40\nb1=50\nc7=20\nd10=21"), (9, None)],
)
def test_the_text_before_a_step(step: int, text: str | None) -> None:
    assert text_before(WRONG, step) == (text_before(WRONG, 4) if text is None else text)


def test_the_text_before_a_numbered_step_has_not_its_number() -> None:
    text = "\n<think>\n1. 4 + 1 = 5\n2) 5 + 7 = 11\n</think>\n<answer>11</answer>"
    solution = dialect("tagged").parse_solution(text, truncated=False)
    assert [text_before(solution, i) for i in (0, 1)] == [
        "\n<think>\n", "\n<think>\n1. 4 + 1 = 5\n"
    ]  # fmt: skip


def test_a_solution_is_redone_from_the_flagged_step(verifiers: Verifiers) -> None:
    said = [FLAGS_C, SOUND, "a4=40.b1=50.c7=20.d10=21.>21.~2", BROKEN]
    solutions = [WRONG, RIGHT, WRONG, WRONG]
    judged = [attempt(verifiers, s, c) for s, c in zip(solutions, said, strict=True)]
    assert [flagged_step(a) for a in judged] == [2, None, 0, None]
    assert isinstance(judged[3].critique, ParseFailure)
    judged.append(attempt(verifiers, MALFORMED))
    before = text_before(WRONG, 2)
    assert restarts(judged) == [before, None, "", None, ""]
    tagged = dialect("tagged").parse_solution(
        "<think>\n1. a\n2. b\n3. c\n</think>\n<answer>1</answer>", truncated=False
    )
    read = critique_dialect("tagged").parse("\\boxed{2}", tagged, truncated=False)
    assert flagged_step(replace(judged[0], solution=tagged, critique=read)) == 1


def test_shuffled_critiques_flag_as_many_solutions_as_far_back(verifiers: Verifiers) -> None:
    judged = [attempt(verifiers, WRONG, FLAGS_C), attempt(verifiers, MALFORMED)]
    judged += [attempt(verifiers, RIGHT, SOUND)] * 20
    dealt = restarts(judged, random.Random(0))
    assert dealt[1] == "" and dealt[0] is None
    assert [text for text in dealt if text] == [text_before(RIGHT, 2)]


# -- methods --------------------------------------------------------------------------------------


def _pool(verifiers: Verifiers) -> Pool:
    """A task solved once in four, with a critic that knows; one that is never solved."""
    right = attempt(verifiers, RIGHT, SOUND, tokens=20)
    wrong, doubted = attempt(verifiers, WRONG, FLAGS_C), attempt(verifiers, WRONG, BROKEN)
    malformed = attempt(verifiers, MALFORMED)
    masked = replace(right, verdict=TIMEOUT)
    groups = [[right, wrong, doubted, malformed], [wrong, wrong, masked, malformed]]
    classes = [[0, 1, 1, None], [0, 0, 1, None]]
    fixed = [Standing(replace(a, verdict=right.verdict), 30, 5) for g in groups for a in g]
    before = [Standing(a, a.learner_tokens, 0) for g in groups for a in g]
    return Pool(groups, classes, [right, wrong], [before, fixed], [[0] * 4] * 2, [before, before])


def test_every_method_is_scored_on_the_same_pool(verifiers: Verifiers) -> None:
    rows = {(row.method, row.samples): row for row in method_rows(_pool(verifiers))}
    assert rows["mean@4", 1].accuracy.value == 1 / 8, "what timed out counts as wrong"
    assert rows["greedy", 1].accuracy.value == 1 / 2 and rows["greedy", 1].tokens == 15
    assert rows["pass@k", 2].accuracy.value == 1 / 4
    assert rows["majority", 4].accuracy.value == 0
    assert rows["majority", 2].accuracy.value == pytest.approx((1 / 6 + 2 * 0.5 / 6) / 2)
    assert rows["best of k", 4].accuracy.value == 1 / 2
    assert rows["best of k", 2].accuracy.value == pytest.approx(3 / 6 / 2)
    redo, voted = rows["redo", 1], rows["redo, then majority", 4]
    assert redo.accuracy.value == voted.accuracy.value == 1
    assert (redo.learner_tokens, redo.critic_tokens) == (30, 5) and voted.tokens == 140
    assert rows["majority", 4].tokens == 4 * rows["mean@4", 1].tokens == 50
    assert rows["best of k", 4].critic_tokens == 4 * 5 * 6 / 8


def test_the_pairs_of_a_method(verifiers: Verifiers) -> None:
    """Majority at 35 tokens: between 2 solutions (25 tokens, 1/6) and 4 (50 tokens, 0)."""
    rows = {(row.method, row.samples): row for row in method_rows(_pool(verifiers))}
    redo = rows["redo", 1]
    assert redo.minus_majority is not None and redo.minus_shuffled is not None
    assert redo.minus_majority.value == pytest.approx(1 - 0.6 / 6)
    assert redo.minus_shuffled.value == 1 - 1 / 8
    assert rows["redo, then majority", 4].minus_majority is None, "140 tokens buy no vote here"
    assert rows["pass@k", 2].minus_majority is None
    assert rows["redo" + SHUFFLED, 1].minus_shuffled is None


def test_shuffled_critiques_choose_no_better_than_chance(verifiers: Verifiers) -> None:
    groups = [
        [attempt(verifiers, RIGHT, SOUND), attempt(verifiers, WRONG, MISSES_IT)] for _ in range(200)
    ]
    standing = [Standing(a, a.learner_tokens, 0) for g in groups for a in g]
    pool = Pool(groups, [[0, 1]] * 200, (), [standing], [[0, 1]] * 200, [standing])
    rows = {(row.method, row.samples): row for row in method_rows(pool)}
    assert rows["best of k", 2].accuracy.value == 1
    shuffled = rows["best of k" + SHUFFLED, 2].accuracy
    assert shuffled.low < 0.5 < shuffled.high
    gain = rows["best of k", 2].minus_shuffled
    assert gain is not None and gain.low > 0.3


def test_without_a_critic_there_are_no_rows_that_need_one(verifiers: Verifiers) -> None:
    group = [attempt(verifiers, RIGHT), attempt(verifiers, WRONG)]
    rows = method_rows(Pool([group], [[0, 1]]))
    assert [row.method for row in rows] == ["mean@2", *["pass@k"] * 2, *["majority"] * 2]
    assert all(row.critic_tokens == 0 for row in rows)


def test_what_cannot_be_judged_is_counted(verifiers: Verifiers) -> None:
    found = quality("pool", [a for group in _pool(verifiers).attempts_NK for a in group])
    assert (found.num, found.masked, found.malformed) == (8, 1, 2)
    assert (found.critiques, found.unparsed) == (6, 1)


def test_table_and_json_hold_every_row(verifiers: Verifiers) -> None:
    pool = _pool(verifiers)
    rows = tuple(method_rows(pool))
    report = InferenceReport(
        "base", "judge", {"learner": "0"}, "sums", "test", 2, 4, 1.0, 0, rows,
        (quality("pool", pool.attempts_NK[0]),), {},
    )  # fmt: skip
    lines = report.to_text().splitlines()
    assert "4 solutions, 1 malformed, 0 masked by the verifier" in lines[2]
    assert "1 of 3 critiques unparsed" in lines[2]
    assert len([line for line in lines if "%" in line and "[" in line]) == len(rows)
    table = json.loads(report.to_json())
    assert [row["method"] for row in table["rows"]] == [row.method for row in rows]
    assert [row["tokens"] for row in table["rows"]] == [row.tokens for row in rows]
    assert report.row("redo", redos=1).accuracy.value == 1
    with pytest.raises(KeyError, match="no row 'majority' with 3 samples"):
        report.row("majority", 3)


# -- one call of the sampler ----------------------------------------------------------------------


def test_prompts_share_a_call_where_the_context_holds_them_all() -> None:
    lengths, room = [10, 40, 20, 12], [50, 20, 40, 48]
    assert _buckets(lengths, room, 200) == [[1, 2, 3, 0]]
    found = _buckets(lengths, room, 60)
    assert sorted(i for bucket in found for i in bucket) == [0, 1, 2, 3] and len(found) > 1
    for bucket in found:
        assert max(lengths[i] for i in bucket) + max(room[i] for i in bucket) <= 60
        assert room[bucket[-1]] == max(room[i] for i in bucket)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 50).tolist()
    for bucket in _buckets(lengths, [60 - n for n in lengths], 60):
        assert len({lengths[i] for i in bucket}) == 1
