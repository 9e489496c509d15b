"""A user's rewards in the learner's block, and in its advantages."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from judge_server import Answer, judge_server, says
from pointing_cases import PLAN, RIGHT, TASK, WRONG, Solver, block_of, referee_of, samples_of

from pipelines.game.bout import Start
from pipelines.game.learner import LearnerGame
from pipelines.rollouts.sample import StepSignal
from pipelines.training.advantages import advantages
from rewards.fence import fenced
from rewards.judge_settings import JudgeSettings
from rewards.verifiers import Verifiers

FILE = Path(__file__).resolve().parents[1] / "support" / "own_reward.py"


@pytest.fixture
def own() -> Iterator[Verifiers]:
    functions = {f"{FILE}:patient": 0.5, f"{FILE}:by_step": 0.1}
    with closing(Verifiers(20, 1, functions)) as verifiers:
        yield verifiers


def test_the_outcome_and_the_users_rewards_add_up(own: Verifiers) -> None:
    for weight, expected in ((1.0, [1.0, 0.0]), (0.0, [0.0, 0.0])):
        referee = referee_of(own, f"rewards.outcome_weight={weight}")
        block = block_of(referee, None, [Start(TASK)])
        right, wrong = block([0, 0], samples_of(RIGHT, WRONG))
        assert [right.reward, wrong.reward] == expected, "18 stands nowhere in either, reversed"
        assert [bout.reward for bout in block.bouts] == expected
        assert right.steps == tuple(
            StepSignal(*span, pytest.approx(value))
            for span, value in zip(
                ((0, 5), (6, 11), (12, 17), (18, 23), (23, 26)), (0.1, 0.1, 0, 0, 0), strict=True
            )
        )
        assert (wrong.flaw is None) == (weight == 0), "without the outcome nothing fails"
        assert right.passed and not wrong.passed, "measured as ever"


def test_the_steps_that_were_given_are_not_rewarded(own: Verifiers) -> None:
    given = "a4=40\nb1=50\n"
    block = block_of(referee_of(own), None, [Start(TASK, given)])
    (scored,) = block([0], samples_of(RIGHT.removeprefix(given)))
    assert [(s.start, s.end) for s in scored.steps] == [(0, 5), (6, 11), (11, 14)]


def test_a_step_is_rewarded_against_the_mean_of_its_group(own: Verifiers) -> None:
    block = block_of(referee_of(own, "pointing.source=none"), None, [Start(TASK)])
    ends = [list(range(1, len(RIGHT) + 1))] * 2
    scored = block([0, 0], samples_of(RIGHT, RIGHT))
    found = advantages(torch.zeros(2), scored, 2, token_ends_BT=ends)
    assert torch.equal(found[0], found[1])
    assert found[0][:5].min() > 0 > found[0][12:17].max() and found[0][5] == 0, "between steps: 0"
    scored = block([0, 0], samples_of(WRONG, WRONG))  # whose steps all end in an even digit
    assert not advantages(torch.zeros(2), scored, 2, token_ends_BT=ends).any(), "no signal"


def test_a_completion_that_a_function_fails_on_is_left_out_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    functions = {f"{FILE}:hangs_on_wrong": 1.0}
    told: list[str] = []
    with closing(Verifiers(2, 2, functions)) as verifiers:
        referee = referee_of(verifiers)
        task = TASK.__class__(**{**vars(TASK), "reference": "81"})  # as the chain writes it
        block = block_of(referee, None, [Start(task)])
        right, wrong = block([0, 0], samples_of(RIGHT, WRONG))
        assert wrong.reward is None and right.reward == 1.0, "81 is no chain's 18"
        assert len(block.failures) == 1 and "no verdict within 2 s" in block.failures[0]
        game = LearnerGame(referee, Solver(), None, remark=told.append)
        monkeypatch.setattr(
            Solver,
            "play",
            lambda self, prompts, block, purpose: block([0, 0], samples_of(RIGHT, WRONG)),
            raising=False,
        )
        game.play([Start(task)], PLAN)
        assert game.spent["rollouts"] == len(RIGHT) + len(WRONG), "paid for, masked or not"
    assert told == [
        "1 completions are left out: a reward function failed, first with "
        f"{FILE}:hangs_on_wrong: no verdict within 2 s"
    ]


def test_a_completion_that_the_judge_fails_on_is_left_out_and_counted() -> None:
    def answer(prompt: str, time_asked: int) -> Answer:
        return says("Score: 5") if prompt == fenced(RIGHT) else Answer(b"overloaded", 503)

    with judge_server(answer) as server:
        given = {"base_url": server.url, "model": "m", "prompt": "{completion}", "retries": 0}
        judge = JudgeSettings.model_validate(given)
        with closing(Verifiers(20, 1, None, judge)) as verifiers:
            task = TASK.__class__(**{**vars(TASK), "reference": "81"})
            block = block_of(referee_of(verifiers), None, [Start(task)])
            right, wrong, again = block([0, 0, 0], samples_of(RIGHT, WRONG, WRONG))
    assert right.reward is not None and right.reward % 1 == 0.5, "the verdict's, and a half"
    assert wrong.reward is None and again.reward is None, "never a silent 0"
    assert block.failures == ["judge: status 503: overloaded"] * 2
    assert server.prompts.count(fenced(WRONG)) == 1, "equal completions share one request"
