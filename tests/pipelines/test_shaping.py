"""Rewards for form and length: off unless asked, and then in the learner's own block."""

from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointing_cases import block_of, referee_of, samples_of, sum_task

from pipelines.game.bout import Start
from pipelines.rollouts.sample import Sample
from rewards.dialect import dialect
from rewards.shaping import overlength, readable
from rewards.verifiers import Verifiers

TASK = sum_task(4, 1, 7)
WELL = "<think>\n1. 4 + 1 = 5\n2. 5 + 7 = 12\n</think>\n<answer>{}</answer>"
LOOSE = "4 + 1 = 5, and 5 + 7 = {0}. So \\boxed{{{0}}}."
TAGGED = ("tasks.dialect=tagged", "critic.planted_share=0", "learner.max_completion_length=100")


def rewards_of(verifiers: Verifiers, *texts: str, settings: tuple[str, ...]) -> list[float | None]:
    block = block_of(referee_of(verifiers, *TAGGED, *settings), None, [Start(TASK)])
    return [one.reward for one in block([0] * len(texts), samples_of(*texts))]


def test_form_is_paid_apart_from_the_answer_where_asked() -> None:
    texts = (WELL.format(12), WELL.format(13), LOOSE.format(12), LOOSE.format(13), "I do not know.")
    with closing(Verifiers(20)) as verifiers:
        found = rewards_of(verifiers, *texts, settings=())
        assert found == [1, 0, 0, 0, 0]
        found = rewards_of(verifiers, *texts, settings=("rewards.format_weight=0.25",))
        assert found == [1.25, 0.25, 1, 0, 0]
        settings = ("rewards.format_weight=0.25", "rewards.outcome_weight=0")
        assert rewards_of(verifiers, *texts, settings=settings) == [0.25, 0.25, 0, 0, 0]


def test_a_long_completion_loses_what_is_asked() -> None:
    def sample(num_tokens: int) -> Sample:
        return Sample(WELL.format(12), [1] * num_tokens, [0.0] * num_tokens, False)

    with closing(Verifiers(20)) as verifiers:
        for settings, expected in (
            ((), [1, 1, 1, 1]),
            (("rewards.length_penalty=0.5",), [1, 1, 0.75, 0.5]),
            (("rewards.length_penalty=0.5", "rewards.length_allowance=0"), [0.9, 0.6, 0.55, 0.5]),
        ):
            block = block_of(referee_of(verifiers, *TAGGED, *settings), None, [Start(TASK)])
            scored = block([0] * 4, [sample(num) for num in (20, 80, 90, 100)])
            assert [one.reward for one in scored] == pytest.approx(expected)


@given(st.integers(0, 300), st.integers(1, 200), st.floats(0, 0.99))
def test_length_costs_from_nothing_to_all(num: int, limit: int, allowance: float) -> None:
    cost = overlength(num, limit, allowance)
    assert 0 <= cost <= 1 and cost <= overlength(num + 1, limit, allowance)
    assert overlength(0, limit, allowance) == 0 and overlength(limit, limit, allowance) == 1


def test_what_was_cut_off_or_gives_no_answer_stays_malformed() -> None:
    tagged = dialect("tagged")
    cut = tagged.parse_solution(LOOSE.format(12), truncated=True)
    silent = tagged.parse_solution("I do not know.", truncated=False)
    well = tagged.parse_solution(WELL.format(12), truncated=False)
    for solution in (cut, silent, well):
        assert readable(solution) is solution
    loose = tagged.parse_solution(LOOSE.format(12), truncated=False)
    assert not loose.well_formed and readable(loose).answer == "12"


@pytest.mark.parametrize("text", ["The answer is 12", "<think>\\boxed{12}</think>Hm."])
def test_form_that_is_paid_apart_needs_an_answer_where_the_settings_say(text: str) -> None:
    loose = dialect("free", "boxed").parse_solution(text, truncated=False)
    assert loose.defect == "no_answer" and readable(loose, "boxed") is loose
    settings = ("tasks.dialect=free", "rewards.format_weight=0.25", "tasks.answer_in=boxed")
    with closing(Verifiers(20)) as verifiers:
        assert rewards_of(verifiers, text, settings=settings) == [0]
