"""Planted flaws: of every kind, at a known place, confirmed, and found there by the critic."""

import random
from collections import Counter

import pytest
from critic_cases import (
    CHAIN_TASKS,
    RIGHT,
    TASK,
    WRONG,
    chain_solution,
    chain_task,
    product_task,
)  # fmt: skip
from hypothesis import given
from hypothesis import strategies as st

from critic.critique import Critique
from critic.flaws import FLAW_KINDS, FlawKind, PlantedFlaw, plant
from critic.format import critique_dialect, true_critique
from critic.meta import check_claims, known_first_bad
from critic.reward import JudgedCritique, critic_reward
from data.records import Task
from rewards.dialect import dialect
from rewards.solution import first_bad_step
from rewards.verdict import Verdict
from rewards.verifiers import verify_exact

CHAIN, CRITIQUES = dialect("chain"), critique_dialect("chain")
LONG = {"sum": chain_task([7, 9, 48, 6, 15, 8, 9, 3]), "product": product_task([7, 9, 8, 6, 13, 8])}


def verdict_on(task: Task, text: str) -> Verdict:
    return verify_exact(task, chain_solution(text))


def planted(task: Task, rng: random.Random, *kinds: FlawKind) -> PlantedFlaw | None:
    right = CHAIN.write_solution(task, rng, 0.0)
    return plant(task, right, rng, lambda text: verdict_on(task, text), kinds or FLAW_KINDS)


@given(task=CHAIN_TASKS, kind=st.sampled_from(FLAW_KINDS), seed=st.integers(0, 1000))
def test_a_planted_flaw_is_found_where_it_was_planted(
    task: Task, kind: FlawKind, seed: int
) -> None:
    rng = random.Random(seed)
    flaw = planted(task, rng, kind)
    if flaw is None:
        return  # no room: the next test shows that this is rare
    solution, right = chain_solution(flaw.text), CHAIN.write_solution(task, rng, 0.0)
    assert solution.well_formed
    assert verdict_on(task, flaw.text).passed == flaw.sound == (kind == "cancelling")
    flags = CHAIN.check_steps(task, solution)
    index = first_bad_step(flags)
    assert index is not None and solution.steps[index].id == flaw.step_id
    assert flaw.right_step == chain_solution(right).steps[index].text
    assert flaw.right_step == CHAIN.right_step(task, solution, index)
    if kind != "cancelling":
        assert CHAIN.kind_of_mistake(task, solution, index) == kind == flaw.kind
        assert (flags or ()).count(False) == 1


@pytest.mark.parametrize("kind", FLAW_KINDS)
@pytest.mark.parametrize("family", LONG)
def test_every_kind_finds_room_in_a_long_chain(family: str, kind: FlawKind) -> None:
    flaws = [planted(LONG[family], random.Random(seed), kind) for seed in range(20)]
    assert all(flaw is not None and flaw.kind == kind for flaw in flaws)
    if kind not in ("miscopied_answer", "early_answer"):  # the step of either is `>`
        assert len({flaw.step_id for flaw in flaws if flaw}) > 2


@given(task=CHAIN_TASKS, seed=st.integers(0, 1000))
def test_the_critique_of_a_plant_needs_no_step_checks_and_is_true(task: Task, seed: int) -> None:
    rng = random.Random(seed)
    flaw = planted(task, rng)
    assert flaw is not None
    solution = chain_solution(flaw.text)
    said = (flaw.step_id, flaw.right_step, flaw.sound)
    text = CRITIQUES.write_critique(solution, *said, random.Random(seed), flaw.later)
    assert text == true_critique(task, solution, CHAIN, random.Random(seed), sound=flaw.sound)
    critique = CRITIQUES.parse(text, solution, truncated=False)
    assert isinstance(critique, Critique) and (critique.p_sound > 0.5) == flaw.sound
    claims = check_claims(task, solution, critique, flaw.step_id, flaw.sound)
    assert known_first_bad(task, solution, CHAIN) == flaw.step_id
    assert [(claim.flaw.step, claim.status) for claim in claims] == [(flaw.step_id, "confirmed")]


def test_a_true_critique_of_a_plant_is_paid() -> None:
    flaw = planted(TASK, random.Random(0), "forgotten_carry")
    assert flaw is not None
    solution = chain_solution(flaw.text)
    text = CRITIQUES.write_critique(
        solution, flaw.step_id, flaw.right_step, False, random.Random(1)
    )
    critique = CRITIQUES.parse(text, solution, truncated=False)
    assert isinstance(critique, Critique)
    claims = check_claims(TASK, solution, critique, flaw.step_id, sound=False)
    judged = JudgedCritique(
        critique=critique, claims=claims, sound=False, first_bad_step=flaw.step_id
    )
    assert critic_reward(judged) > 0.9


@pytest.mark.parametrize("family", LONG)
def test_kinds_are_planted_equally_often(family: str) -> None:
    rng = random.Random(0)
    found = Counter(flaw.kind for _ in range(400) if (flaw := planted(LONG[family], rng)))
    assert set(found) == set(FLAW_KINDS)
    assert min(found.values()) > 20  # of 40 expected: three standard deviations below


def test_flaws_are_planted_everywhere_and_carries_are_forgotten() -> None:
    flaws = [planted(TASK, random.Random(seed)) for seed in range(200)]
    assert {flaw.step_id for flaw in flaws if flaw} == {"a", "b", "c", "d", ">"}
    assert WRONG.text in {flaw.text for flaw in flaws if flaw}


def test_nothing_is_planted_in_a_wrong_or_malformed_solution() -> None:
    for text in (WRONG.text, RIGHT.text[:-1], "a4=40", ""):
        assert plant(TASK, text, random.Random(0), lambda text: verdict_on(TASK, text)) is None


def test_a_flaw_that_the_verifier_does_not_confirm_is_dropped() -> None:
    """A verifier that breaks says nothing: the outcome has not been shown to change."""
    silent = Verdict("error", "exact", "1", None, "the verifier broke")
    right = verdict_on(TASK, RIGHT.text)

    def breaks_on_corruptions(text: str) -> Verdict:
        return right if text == RIGHT.text else silent

    assert plant(TASK, RIGHT.text, random.Random(0), breaks_on_corruptions) is None


@given(task=CHAIN_TASKS, seed=st.integers(0, 1000))
def test_a_truncated_solution_is_criticised_as_flawed(task: Task, seed: int) -> None:
    rng = random.Random(seed)
    right = CHAIN.write_solution(task, rng, 0.0)
    cut = right[: rng.randrange(1, len(right))]
    solution = CHAIN.parse_solution(cut, truncated=True)
    assert solution.defect == "truncated"
    critique = true_critique(task, solution, CHAIN, rng)
    parsed = CRITIQUES.parse(critique, solution, truncated=False)
    assert isinstance(parsed, Critique) and parsed.p_sound < 0.3
