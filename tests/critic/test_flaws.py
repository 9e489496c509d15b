"""Planted flaws: confirmed by the verifier, at a known place, and found there by the critic."""

import random
from contextlib import closing

from critic_cases import RIGHT, TASK, WRONG, chain_solution, chain_task
from hypothesis import given
from hypothesis import strategies as st

from critic.critique import Critique
from critic.flaws import plant
from critic.format import critique_dialect
from critic.meta import check_claims, known_first_bad
from critic.reward import JudgedCritique, critic_reward
from data.records import Task
from rewards.dialect import dialect
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers

CHAIN = dialect("chain")
TERMS = st.lists(st.integers(0, 99), min_size=1, max_size=9)


def verdict_on(task: Task, text: str) -> Verdict:
    with closing(Verifiers(timeout_seconds=5)) as verifiers:
        return verifiers.verify(task, chain_solution(text))


@given(terms=TERMS, seed=st.integers(0, 1000))
def test_a_planted_flaw_is_found_where_it_was_planted(terms: list[int], seed: int) -> None:
    task, rng = chain_task(terms), random.Random(seed)
    right = CHAIN.write_solution(task, rng, 0.0)
    flaw = plant(task, right, rng, lambda text: verdict_on(task, text))
    assert flaw is not None
    assert verdict_on(task, right).passed
    assert verdict_on(task, flaw.text).outcome == "incorrect"
    solution = chain_solution(flaw.text)
    assert known_first_bad(task, solution, CHAIN) == flaw.step_id
    assert sum(not ok for ok in CHAIN.check_steps(task, solution) or ()) == 1
    text = critique_dialect("chain").write_critique(task, solution, rng)
    critique = critique_dialect("chain").parse(text, solution, truncated=False)
    assert isinstance(critique, Critique)
    claims = check_claims(task, solution, critique, CHAIN)
    assert [(claim.flaw.step, claim.status) for claim in claims] == [(flaw.step_id, "confirmed")]
    reward = critic_reward(
        JudgedCritique(critique=critique, claims=claims, sound=False, first_bad_step=flaw.step_id)
    )
    assert reward > 0.95


def test_flaws_are_planted_everywhere_and_carries_are_forgotten() -> None:
    planted = [
        plant(TASK, RIGHT.text, random.Random(seed), lambda text: verdict_on(TASK, text))
        for seed in range(200)
    ]
    assert {flaw.step_id for flaw in planted if flaw} == {"a", "b", "c", "d", ">"}
    assert WRONG.text in {flaw.text for flaw in planted if flaw}


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


@given(terms=TERMS, seed=st.integers(0, 1000))
def test_a_truncated_solution_is_criticised_as_flawed(terms: list[int], seed: int) -> None:
    task, rng = chain_task(terms), random.Random(seed)
    right = CHAIN.write_solution(task, rng, 0.0)
    cut = right[: rng.randrange(1, len(right))]
    solution = CHAIN.parse_solution(cut, truncated=True)
    assert solution.defect == "truncated"
    critique = critique_dialect("chain").write_critique(task, solution, rng)
    parsed = critique_dialect("chain").parse(critique, solution, truncated=False)
    assert isinstance(parsed, Critique) and parsed.p_sound < 0.3
