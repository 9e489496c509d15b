"""The meta-check: true claims are confirmed, false ones refuted, the rest left open."""

import random

import pytest
from critic_cases import CHAIN_TASKS, RIGHT, TASK, WRONG, chain_solution
from hypothesis import given
from hypothesis import strategies as st

from critic.critique import Critique, EvidenceKind, Flaw
from critic.format import critique_dialect, true_critique
from critic.meta import ClaimStatus, check_claims, known_first_bad
from data.records import Task
from rewards.dialect import dialect
from rewards.solution import Solution

CHAIN, TAGGED = dialect("chain"), dialect("tagged")


def tagged_solution(*lines: str) -> Solution:
    steps = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))
    return TAGGED.parse_solution(f"<think>\n{steps}\n</think>\n<answer>1</answer>", truncated=False)


def chain_status(text: str, solution: Solution) -> list[ClaimStatus]:
    critique = critique_dialect("chain").parse(text, solution, truncated=False)
    assert isinstance(critique, Critique), critique
    first_bad = known_first_bad(TASK, solution, CHAIN)
    claims = check_claims(TASK, solution, critique, first_bad, sound=first_bad is None)
    return [claim.status for claim in claims]


def tagged_status(line: str, quote: str, kind: EvidenceKind, payload: str) -> ClaimStatus:
    critique = Critique((), (Flaw("1", quote, "", kind, payload),), "flawed", 0.5)
    (claim,) = check_claims(TASK, tagged_solution(line), critique, None, sound=False)
    return claim.status


def test_chain_claims() -> None:
    assert chain_status("a4=40.b1=50.c7=21.~9", WRONG) == ["confirmed"]
    assert chain_status("a4=40.b1=50.c7=31.~9", WRONG) == ["confirmed"]  # the place is what counts
    assert chain_status("a4=40.b1=60.~9", WRONG) == ["refuted"]
    assert chain_status("a4=40.b1=50.c7=20.d10=22.~9", WRONG) == ["refuted"]  # because c was
    assert chain_status("a4=40.b1=50.c7=20.d10=21.>21.~9", WRONG) == []


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("a4=40\nb2=60\nc7=31\nd10=32>32", "a4=40.b1=50.~9"),  # a misread operand
        ("a4=40\nb1=50>50", "a4=40.b1=50.c7=21.~9"),  # a premature answer
        ("a4=40\nb1=50\nc7=21\nd10=22\ne1=32>32", "a4=40.b1=50.c7=21.d10=22.>22.~9"),  # invented
        ("a4=40\nb1=50\nc7=21\nd10=22>32", "a4=40.b1=50.c7=21.d10=22.>22.~9"),  # a miscopied total
    ],
)
def test_a_wrong_chain_step_has_one_right_value(text: str, claim: str) -> None:
    solution = chain_solution(text)
    assert chain_status(claim, solution) == ["confirmed"]
    demonstration = true_critique(TASK, solution, CHAIN, random.Random(0))
    assert demonstration.startswith(claim.partition("~")[0])  # what follows is judged too


@pytest.mark.parametrize(
    ("line", "quote", "kind", "payload", "status"),
    [
        ("5 + 7 = 13", "5 + 7 = 13", "recompute", "12", "confirmed"),
        ("So 5 + 7 = 13.", "5 + 7", "recompute", "5 + 7 = 12", "confirmed"),
        ("1 / 3 = 0.43", "0.43", "recompute", "0.33", "confirmed"),
        ("5 + 7 = 13", "13", "recompute", "14", "refuted"),
        ("5 + 7 = 13", "13", "recompute", "a dozen", "uncheckable"),
        ("5 + 7 = 12", "12", "recompute", "12", "refuted"),
        ("5 + 7 = 13", "5 + 8", "recompute", "12", "refuted"),
        ("5 + 7 = 13", "", "recompute", "12", "refuted"),
        ("x is even", "x is even", "recompute", "12", "uncheckable"),
        ("5 + 7 = 13", "13", "rule", "", "confirmed"),  # it is wrong, whatever the reason given
        ("5 + 7 = 12", "12", "rule", "", "uncheckable"),
        *(
            ("5 + 7 = 13", "13", "recompute", value, "confirmed")
            for value in ("$12$", "12.", " 12 ", "5+7=12", "\\boxed{12}", "12 apples", "**12**")
        ),
        ("so \\(5 \\times 7 = 36\\)", "36", "recompute", "35", "confirmed"),
        ("17 / 5 = 3 remainder 2", "3", "recompute", "3.4", "uncheckable"),
    ],
)
def test_tagged_claims(
    line: str, quote: str, kind: EvidenceKind, payload: str, status: ClaimStatus
) -> None:
    assert tagged_status(line, quote, kind, payload) == status


def test_claims_come_back_in_the_order_of_the_steps() -> None:
    solution = tagged_solution("1 + 1 = 3", "2 + 2 = 5")
    flaws = tuple(Flaw(step, "=", "", "recompute", "0") for step in ("2", "9", "1"))
    claims = check_claims(TASK, solution, Critique((), flaws, "flawed", 0.5), "1", sound=False)
    assert [claim.flaw.step for claim in claims] == ["1", "2", "9"]
    assert [claim.status for claim in claims] == ["confirmed", "uncheckable", "refuted"]


@pytest.mark.parametrize(
    ("first_bad", "sound", "checks_steps", "status"),
    [
        ("1", False, True, "confirmed"),
        ("2", False, True, "refuted"),
        (None, True, True, "refuted"),  # it passed: nothing went wrong
        (None, False, True, "confirmed"),  # code sees a false equation, and its value
        (None, False, False, "uncheckable"),  # code may not look
    ],
)
def test_what_is_known_of_a_solution_decides_over_a_claim(
    first_bad: str | None, sound: bool, checks_steps: bool, status: ClaimStatus
) -> None:
    flaw = Flaw("1", "1 + 1 = 3", "", "recompute", "2")
    critique, solution = Critique((), (flaw,), "flawed", 0.5), tagged_solution("1 + 1 = 3", "so")
    (claim,) = check_claims(TASK, solution, critique, first_bad, sound, checks_steps)
    assert claim.status == status


def test_where_code_can_look() -> None:
    assert known_first_bad(TASK, WRONG, CHAIN) == "c"
    assert known_first_bad(TASK, RIGHT, CHAIN) is None
    assert known_first_bad(TASK, tagged_solution("x is even"), TAGGED) is None


@given(task=CHAIN_TASKS, seed=st.integers(0, 1000), slip_rate=st.sampled_from([0.0, 0.3, 1.0]))
def test_demonstrations_claim_the_first_bad_step_and_are_confirmed(
    task: Task, seed: int, slip_rate: float
) -> None:
    rng = random.Random(seed)
    solution = chain_solution(CHAIN.write_solution(task, rng, slip_rate))
    text = true_critique(task, solution, CHAIN, rng)
    critique = critique_dialect("chain").parse(text, solution, truncated=False)
    assert isinstance(critique, Critique)
    first_bad = known_first_bad(task, solution, CHAIN)
    claims = check_claims(task, solution, critique, first_bad, sound=first_bad is None)
    assert all(claim.status == "confirmed" for claim in claims)
    first = claims[0].flaw.step if claims else None
    assert first == first_bad


@given(task=CHAIN_TASKS, index=st.integers(0, 9), value=st.integers(0, 999))
def test_any_claim_about_a_right_step_is_refuted(task: Task, index: int, value: int) -> None:
    solution = chain_solution(CHAIN.write_solution(task, random.Random(0), 0.0))
    step = solution.steps[index % len(solution.steps)]
    flaw = Flaw(step.id, step.text, "value", "recompute", str(value))
    (claim,) = check_claims(task, solution, Critique((), (flaw,), "flawed", 0.5), None, sound=True)
    assert claim.status == "refuted"
