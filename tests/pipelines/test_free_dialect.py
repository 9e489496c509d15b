"""The game with models that answer in their own way."""

import random
from contextlib import closing

from pointing_cases import Solver, block_of, referee_of, samples_of, sum_task

from pipelines.game.bout import Start
from pipelines.game.lessons import Lessons
from rewards.verifiers import Verifiers

FREE = ("tasks.dialect=free", "critic.planted_share=0")
RIGHT = "<think>\n4 + 1 = 5\n\n5 + 7 = 12\n</think>\n\nSo the sum is \\boxed{12}."
WRONG = "We add.\n\n4 + 1 = 5\n\n5 + 7 = 13\n\nThe answer is 13."


def test_natural_replies_are_paid_and_pointed_at() -> None:
    task = sum_task(4, 1, 7)
    with closing(Verifiers(20)) as verifiers:
        referee = referee_of(verifiers, *FREE, "pointing.source=critic", "pointing.confirm=false")
        (turn,) = referee.problem(task)
        assert isinstance(turn, dict) and turn["content"].endswith("within \\boxed{}.")
        critic = Solver(writes="Step 3 is wrong.\n\\boxed{3}\nshould be: 12")
        block = block_of(referee, critic, [Start(task)])
        right, wrong, silent = block([0] * 3, samples_of(RIGHT, WRONG, "I do not know."))
        assert [right.reward, wrong.reward, silent.reward] == [1.0, 0.0, 0.0]
        assert right.flaw is None
        assert wrong.flaw is not None and WRONG[slice(*wrong.flaw)] == "\n\n5 + 7 = 13"
        by_code = referee_of(verifiers, *FREE)
        (scored,) = block_of(by_code, None, [Start(task)])([0], samples_of(WRONG))
        assert scored.flaw == wrong.flaw, "code checks what the paragraph states"


def test_the_critic_is_tried_with_pleas_in_free_text_too() -> None:
    task = sum_task(4, 1, 7)
    with closing(Verifiers(20)) as verifiers:
        referee = referee_of(verifiers, *FREE)
        texts = [f"We add {n}.\n\n5 + {n} = {n + 5}\n\nThe answer is {n + 5}." for n in range(20)]
        block = block_of(referee, None, [Start(task)])
        block([0] * 20, samples_of(*texts))
        items = Lessons(referee, Solver()).items(block.bouts, 20, random.Random(0))
        pleading = [item for item in items if item.twin is not None]
        assert len(pleading) == 2
        for item in pleading:
            plain = items[item.twin or 0]
            assert item.solution.answer == plain.solution.answer
            assert len(item.solution.text) > len(plain.solution.text)


def taught(verifiers: Verifiers, *overrides: str) -> dict[str, str]:
    """What the critic is to imitate of a right and a wrong solution, by its box."""
    referee = referee_of(verifiers, *FREE, *overrides)
    block = block_of(referee, None, [Start(sum_task(4, 1, 7))])
    block([0] * 2, samples_of(RIGHT, WRONG))
    _, replies, _ = Lessons(referee, Solver()).to_imitate(block.bouts, 2, random.Random(0))
    return {reply.partition("boxed{")[2].partition("}")[0]: reply for reply in replies}


def test_the_teacher_works_out_what_code_may_know() -> None:
    with closing(Verifiers(20)) as verifiers:
        told = taught(verifiers)
        assert told["-1"].startswith("Step 1: 4 + 1 = 5.\nStep 2: 5 + 7 = 12.\n\\boxed")
        assert told["3"].startswith("Step 2: 4 + 1 = 5.\nStep 3: 5 + 7 = 12, not 13.\n\\boxed")
        withheld = taught(verifiers, "pointing.step_checks=false")
        assert all(reply.startswith("\\boxed") for reply in withheld.values())


def test_a_working_that_the_critic_has_no_room_for_is_left_out() -> None:
    """The solver's tokens are characters: 64 hold a verdict and no working."""
    with closing(Verifiers(20)) as verifiers:
        told = taught(verifiers, "critic.max_completion_length=64")
        assert all(reply.startswith("\\boxed") for reply in told.values())
