"""The meta-check: true claims are confirmed, false ones refuted, the rest left open."""

import random

import pytest
from critic_cases import RIGHT, TASK, WRONG, chain_solution, chain_task
from hypothesis import given
from hypothesis import strategies as st

from critic.critique import Critique, EvidenceKind, Flaw, ParseFailure
from critic.format import critique_dialect
from critic.meta import ClaimStatus, check_claims, critic_view, is_checkable, known_first_bad
from rewards.dialect import dialect
from rewards.solution import Solution

CHAIN, TAGGED = dialect("chain"), dialect("tagged")
TERMS = st.lists(st.integers(0, 99), min_size=1, max_size=9)


def tagged_solution(*lines: str) -> Solution:
    steps = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))
    return TAGGED.parse_solution(f"<think>\n{steps}\n</think>\n<answer>1</answer>", truncated=False)


def chain_status(text: str, solution: Solution) -> list[ClaimStatus]:
    critique = critique_dialect("chain").parse(text, solution, truncated=False)
    assert isinstance(critique, Critique), critique
    return [claim.status for claim in check_claims(TASK, solution, critique, CHAIN)]


def tagged_status(line: str, quote: str, kind: EvidenceKind, payload: str) -> ClaimStatus:
    critique = Critique((), (Flaw("1", quote, "", kind, payload),), "flawed", 0.5)
    (claim,) = check_claims(TASK, tagged_solution(line), critique, TAGGED)
    return claim.status


def test_chain_claims() -> None:
    assert chain_status("a40.b50.c21x~0", WRONG) == ["confirmed"]
    assert chain_status("a40.b50.c31x~0", WRONG) == ["refuted"]  # right place, wrong recomputation
    assert chain_status("a40.b60x~0", WRONG) == ["refuted"]
    assert chain_status("a40.b50.c20.d21x~0", WRONG) == ["refuted"]  # wrong, but only because c was
    assert chain_status("a40.b50.c20.d21.>21.~0", WRONG) == []


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("a4=40\nb2=60\nc7=31\nd10=32>32", "a40.b50x~0"),  # a misread operand
        ("a4=40\nb1=50>50", "a40.b50.>21x~0"),  # a premature answer
        ("a4=40\nb1=50\nc7=21\nd10=22\ne1=32>32", "a40.b50.c21.d22.e22x~0"),  # an invented term
        ("a4=40\nb1=50\nc7=21\nd10=22>32", "a40.b50.c21.d22.>22x~0"),  # a miscopied total
    ],
)
def test_every_kind_of_wrong_chain_step_has_one_right_sum(text: str, claim: str) -> None:
    solution = chain_solution(text)
    assert chain_status(claim, solution) == ["confirmed"]
    demonstration = critique_dialect("chain").write_critique(TASK, solution, random.Random(0))
    assert demonstration.partition("~")[0] == claim.partition("~")[0]


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
    claims = check_claims(TASK, solution, Critique((), flaws, "flawed", 0.5), TAGGED)
    assert [claim.flaw.step for claim in claims] == ["1", "2", "9"]


def test_where_code_can_look() -> None:
    assert known_first_bad(TASK, WRONG, CHAIN) == "c"
    assert known_first_bad(TASK, RIGHT, CHAIN) is None
    vague = tagged_solution("x is even")
    assert not is_checkable(TASK, vague, TAGGED) and is_checkable(TASK, RIGHT, CHAIN)
    assert known_first_bad(TASK, vague, TAGGED) is None


def view(text: str, solution: Solution) -> tuple[float, float, bool] | None:
    critique = critique_dialect("chain").parse(text, solution, truncated=False)
    claims = (
        () if isinstance(critique, ParseFailure) else check_claims(TASK, solution, critique, CHAIN)
    )
    seen = critic_view(critique, claims, solution)
    return None if seen is None else (seen.p_sound, seen.sound_share, seen.confirmed_flaw)


def test_the_learner_is_only_judged_by_confirmed_flaws() -> None:
    assert view("a40.b50.c21x~1", WRONG) == (0.15, 2 / 5, True)
    assert view("a40.b50.c31x~1", WRONG) == (0.15, 0.0, False)
    assert view("a40.b50.c20.d21.>21.~9", WRONG) == (0.95, 0.0, False)
    assert view("nonsense", WRONG) is None


@given(terms=TERMS, seed=st.integers(0, 1000), slip_rate=st.sampled_from([0.0, 0.5, 1.0]))
def test_demonstrations_claim_the_first_bad_step_and_are_confirmed(
    terms: list[int], seed: int, slip_rate: float
) -> None:
    task, rng = chain_task(terms), random.Random(seed)
    solution = chain_solution(CHAIN.write_solution(task, rng, slip_rate))
    text = critique_dialect("chain").write_critique(task, solution, rng)
    critique = critique_dialect("chain").parse(text, solution, truncated=False)
    assert isinstance(critique, Critique)
    claims = check_claims(task, solution, critique, CHAIN)
    assert all(claim.status == "confirmed" for claim in claims)
    first = claims[0].flaw.step if claims else None
    assert first == known_first_bad(task, solution, CHAIN)


@given(terms=TERMS, index=st.integers(0, 9), value=st.integers(0, 999))
def test_any_claim_about_a_right_step_is_refuted(terms: list[int], index: int, value: int) -> None:
    task = chain_task(terms)
    solution = chain_solution(CHAIN.write_solution(task, random.Random(0), 0.0))
    step = solution.steps[index % len(solution.steps)]
    flaw = Flaw(step.id, step.text, "sum", "recompute", str(value))
    (claim,) = check_claims(task, solution, Critique((), (flaw,), "flawed", 0.5), CHAIN)
    assert claim.status == "refuted"
