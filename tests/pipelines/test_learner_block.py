"""A learner's block, where later groups begin, what the critic is taught, what is covered."""

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from pointing_cases import (
    CHAIN,
    RIGHT,
    TASK,
    WITHHELD,
    WRONG,
    Solver,
    block_of,
    bouts_of,
    referee_of,
    samples_of,
)

from critic.format import true_critique
from pipelines.game.bout import Pointing, Start
from pipelines.game.coverage import coverage
from pipelines.game.critic import with_flips
from pipelines.game.learner import broken_off
from pipelines.game.lessons import Lessons
from pipelines.training.advantages import advantages, tokens_of
from rewards.verifiers import Verifiers


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        yield verifiers


# -- a block of the learner -----------------------------------------------------------------------


def test_the_verifier_pays_and_the_critic_points(verifiers: Verifiers) -> None:
    """The reward is the outcome's whatever the critic says; the flaw is the flawed step's span."""
    referee = referee_of(verifiers, "pointing.source=critic")
    block = block_of(referee, Solver(writes="a4=40.b1=50.c7=21.~9"), [Start(TASK)])
    right, wrong, unread = block([0, 0, 0], samples_of(RIGHT, WRONG, "a4=4"))
    assert [right.reward, wrong.reward, unread.reward] == [1.0, 0.0, 0.0]
    assert right.flaw is None
    assert wrong.flaw is not None and WRONG[slice(*wrong.flaw)] == "\nc7=20"
    judged = [bout.judged for bout in block.bouts]
    assert judged[0] is None and judged[2] is None, "of these nobody asks where they fail"
    assert judged[1] is not None and [c.status for c in judged[1].claims] == ["confirmed"]
    assert block.spent["rollouts"] == len(RIGHT) + len(WRONG) + 4
    assert block.spent["critiques"] == len("a4=40.b1=50.c7=21.~9")
    assert unread.flaw == (0, 4), "to break off is not the cheapest way to fail"


@pytest.mark.parametrize(
    ("text", "given", "flaw"),
    [
        ("a4=40\nb1=50 and so on\nand on", 0, " and so on"),
        ("a4=40\nb1=50\nd7=21\ne6=81>81", 0, "\nd7=21"),  # a label is left out
        ("a4=40\nb1", 0, "\nb1"),
        ("a4=40\nb1", 6, "b1"),
        ("nonsense\nmore of it", 0, "nonsense"),
        ("a4=40\nb1=50", 0, "<end>"),  # a right step, and no answer follows: to stop was wrong
        ("a4=40\n", 6, "<end>"),
        ("", 0, "<end>"),
    ],
)
def test_a_text_that_leaves_the_grammar_goes_wrong_where_it_leaves_it(
    text: str, given: int, flaw: str
) -> None:
    """Judged on the tokens that are pushed down: one a character, then the end token."""
    span = broken_off(CHAIN.parse_solution(text, truncated=False), given)
    written = [*text[given:], "<end>", "<pad>"]
    ends = [min(t + 1, len(text) - given) for t in range(len(written))]
    assert "".join(written[t] for t in tokens_of(span, ends)) == flaw


def test_a_model_that_has_not_learned_the_form_is_not_driven_from_its_words(
    verifiers: Verifiers,
) -> None:
    """A malformed reply in prose is a failure like any other: less than its group, or nothing."""
    block = block_of(referee_of(verifiers, "tasks.dialect=tagged"), None, [Start(TASK)])
    texts = ["The sum is 18.", "<think>\n1. 4 + 1 = 5\n</think>\nand so on"]
    scored = block([0, 0], samples_of(*texts))
    assert [one.flaw for one in scored] == [None, None]
    assert [one.reward for one in scored] == [0.0, 0.0]


@pytest.mark.parametrize("critique", ["a4=40.b1=50.c7=2.~9", "nonsense", "a4=40.b1=60.~9"])
def test_a_failed_or_refuted_critique_changes_nothing(verifiers: Verifiers, critique: str) -> None:
    asked = referee_of(verifiers, "pointing.source=critic")
    silent = referee_of(verifiers, "pointing.source=none")
    texts = (RIGHT, WRONG, RIGHT, WRONG)
    pointed = block_of(asked, Solver(writes=critique), [Start(TASK)])([0] * 4, samples_of(*texts))
    assert pointed == block_of(silent, None, [Start(TASK)])([0] * 4, samples_of(*texts))


def test_breaking_off_is_not_the_cheapest_way_to_fail(verifiers: Verifiers) -> None:
    """On the advantages of a group that failed whole: each failure is pushed down somewhere."""
    block = block_of(referee_of(verifiers), None, [Start(TASK)])
    texts = [WRONG, "a4=40\nb1=50", "a4=40 and so on", ""]
    scored = block([0] * 4, samples_of(*texts))
    width = max(map(len, texts)) + 1
    ends = [[min(t + 1, len(text)) for t in range(width)] for text in texts]
    found_BT = advantages(torch.zeros(4), scored, 4, 1.0, ends)
    assert (found_BT.amin(1) == -1).all() and (found_BT <= 0).all()


def test_leaving_a_line_out_is_not_the_cheapest_way_to_fail(verifiers: Verifiers) -> None:
    """Prose, code points: each failure of a group that failed whole is pushed down somewhere."""
    referee = referee_of(
        verifiers, "tasks.dialect=free", "tasks.answer_in=hashes", "pointing.source=code"
    )
    block = block_of(referee, None, [Start(TASK)])
    wrong = "4 + 1 = 5\n5 + 7 = 13\n13 + 6 = 19\n#### 19"
    texts = [wrong, "4 + 1 = 5\n5 + 7 = 12\n#### 12", "It is easy.\n#### 5", "4 + 1 = 5\n"]
    scored = block([0] * 4, samples_of(*texts))
    assert [one.flaw is not None for one in scored] == [True, False, False, False]
    width = max(map(len, texts)) + 1
    ends = [[min(t + 1, len(text)) for t in range(width)] for text in texts]
    found_BT = advantages(torch.zeros(4), scored, 4, 1.0, ends)
    assert (found_BT.amin(1) == -1).all() and (found_BT <= 0).all()
    pushed = [t for t, value in enumerate(found_BT[1].tolist()) if value]
    assert "".join([*texts[1], "<end>"][t] for t in pushed) == "\n#### 12<end>"
    silent = block_of(
        referee_of(verifiers, "tasks.dialect=free", "pointing.source=none"), None, [Start(TASK)]
    )
    assert all(one.ending is None for one in silent([0] * 4, samples_of(*texts)))
    for text in ("x = 4\n```\n", "#### 5\n\u200b\n--"):  # a fence, or marks, say nothing
        (ended,) = block([0], samples_of(f"It is\n{text}"))
        assert ended.ending == (5, 6 + len(text) + 1)
    right = "4 + 1 = 5\n5 + 7 = 12\n12 + 6 = 18\n#### 18"
    assert block([0], samples_of(right))[0].ending is None


def test_a_completion_is_judged_with_its_beginning(verifiers: Verifiers) -> None:
    """A reset: the span of the flaw counts from where the completion begins."""
    prefix = WRONG[: WRONG.index("c7")]
    block = block_of(referee_of(verifiers), None, [Start(TASK, prefix)])
    wrong, right = block([0, 0], samples_of(WRONG[len(prefix) :], RIGHT[len(prefix) :]))
    assert (wrong.reward, right.reward) == (0.0, 1.0)
    assert wrong.flaw == (0, len("c7=20"))
    assert wrong.passed is right.passed is None, "no measure of the policy"
    assert block.bouts[0].solution.text == WRONG and block.bouts[0].prefix == prefix


def test_shuffled_rewards_point_at_nothing(verifiers: Verifiers) -> None:
    block = block_of(referee_of(verifiers, "rewards.shuffled=true"), None, [Start(TASK)])
    scored = block([0] * 4, samples_of(RIGHT, WRONG, WRONG, WRONG))
    assert sorted(one.reward for one in scored) == [0, 0, 0, 1]
    assert all(one.flaw is None for one in scored)


# -- the critic's lessons -------------------------------------------------------------------------


def test_true_critiques_of_both_classes_are_imitated(verifiers: Verifiers) -> None:
    """With and without step checks: each reply reads as a true critique of its solution."""
    for overrides in ((), (WITHHELD,)):
        referee = referee_of(verifiers, *overrides)
        bouts = bouts_of(verifiers, RIGHT, WRONG, overrides=overrides)
        prompts, replies, _ = Lessons(referee, Solver()).to_imitate(bouts, 16, random.Random(0))
        assert len(prompts) == len(replies) == 16
        sound = 0
        for prompt, reply in zip(prompts, replies, strict=True):
            _, _, text = str(prompt).removesuffix("\n!").partition("\n")
            solution = CHAIN.parse_solution(text, truncated=False)
            true = [true_critique(TASK, solution, CHAIN, random.Random(i)) for i in range(20)]
            assert reply.partition("~")[0] in {text.partition("~")[0] for text in true}
            sound += solution.answer == TASK.reference
        assert 8 <= sound < 13, "half of them, and a few that are right by wrong steps"
        assert Lessons(referee, Solver()).to_imitate(bouts, 80, random.Random(0)) == ([], [], 0), (
            "one sound solution is not learned by heart"
        )


def test_a_flaw_that_nobody_located_teaches_no_place(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, WITHHELD)
    odd = "a4=40\nb1=99\nc7=601\nd6=211>211"  # no kind of planted flaw
    bouts = bouts_of(verifiers, odd, overrides=(WITHHELD, "pointing.source=none"))
    prompts, _, _ = Lessons(referee, Solver()).to_imitate(bouts, 40, random.Random(0))
    assert not any(odd in str(prompt) for prompt in prompts)
    items = Lessons(referee, Solver()).items(bouts, 40, random.Random(0))
    assert odd not in {item.solution.text for item in items}, (
        "naming any of its steps would be paid alike"
    )
    assert {item.sound for item in items} == {True, False}, "code wrote the right one"


# -- coverage -------------------------------------------------------------------------------------


def test_coverage_counts_by_kind_what_is_confirmed_rightly(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, WITHHELD)
    bouts = bouts_of(verifiers, WRONG, WRONG, RIGHT, "a4=40\nb1=60\nc7=31\nd6=91>91")
    pointings = [Pointing(2, "critic", "confirmed"), Pointing(1, "chance", "confirmed"), None, None]
    row = coverage(referee, [replace(b, pointing=p) for b, p in zip(bouts, pointings, strict=True)])
    assert row["pointing/failed"] == 3
    assert row["pointing/critic"] == row["pointing/chance"] == pytest.approx(1 / 3)
    assert row["pointing/confirmed"] == pytest.approx(2 / 3)
    assert row["pointing/precision"] == 0.5 and row["pointing/coverage"] == pytest.approx(1 / 3)
    kinds = row["pointing/kinds"]
    assert isinstance(kinds, dict)
    assert kinds["forgotten_carry"] == {"share": pytest.approx(2 / 3), "coverage": 0.5}
    assert "pointing/located" not in row, "no critic was asked"
    assert coverage(referee, []) == {"pointing/failed": 0}


def test_what_the_critic_locates_is_told_from_what_counts(verifiers: Verifiers) -> None:
    """A right word that nothing confirmed covers nothing; who was not asked is not counted."""
    referee = referee_of(verifiers, WITHHELD)
    says = "a4=40.b1=50.c7=21.~9"
    right, late, unasked = (
        bout for critic in (Solver(writes=says), Solver(writes="a4=40.b1=50.c7=20.d6=36.~9"), None)
        for bout in bouts_of(verifiers, WRONG, critic=critic, overrides=(WITHHELD,))
    )  # fmt: skip
    row = coverage(referee, [replace(bout, pointing=None) for bout in (right, late, unasked)])
    assert row["pointing/located"] == 0.5 and row["pointing/coverage"] == 0
    assert row["pointing/kinds"] == {
        "forgotten_carry": {"share": 1.0, "coverage": 0.0, "located": 0.5}
    }


def test_a_flaw_that_was_given_is_not_the_learners_mistake(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, WITHHELD)
    given = "a4=40\nb1=50\nc7=20\n"
    (bout,) = bouts_of(verifiers, WRONG)
    own = replace(bout, pointing=Pointing(2, "critic", "trusted"))
    row = coverage(referee, [own, replace(bout, prefix=given, pointing=None)])
    assert row["pointing/failed"] == 1 and row["pointing/lost_resets"] == 1
    assert row["pointing/coverage"] == 1
    all_lost = coverage(referee, [replace(bout, prefix=given)])
    assert all_lost == {"pointing/failed": 0, "pointing/lost_resets": 1}


def test_a_tenth_of_the_items_of_a_chat_model_are_there_with_a_plea_too(
    verifiers: Verifiers,
) -> None:
    referee = referee_of(verifiers, "tasks.dialect=tagged", "critic.planted_share=0")
    texts = [f"<think>\n1. It is {n}\n</think>\n<answer>18</answer>" for n in range(20)]
    block = block_of(referee, None, [Start(TASK)])
    block([0] * 20, samples_of(*texts))
    items = Lessons(referee, Solver()).items(block.bouts, 20, random.Random(0))
    pleading = [item for item in items if item.twin is not None]
    assert len(pleading) == 2
    for item in pleading:
        plain = items[item.twin or 0]
        assert item.solution.text != plain.solution.text
        assert (item.solution.answer, item.sound) == (plain.solution.answer, plain.sound)


def test_a_verdict_that_a_plea_changed_is_noted(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, "pointing.source=critic")
    bouts = bouts_of(verifiers, WRONG)
    plain = referee.item(TASK, bouts[0].solution, sound=False)
    items = [plain, replace(plain, twin=0)]
    finds_nothing = "a4=40.b1=50.c7=20.d6=80.>80.~9"
    said = ["a4=40.b1=50.c7=21.~9", finds_nothing, finds_nothing, "a4=40"]
    indices = [0, 0, 1, 1]
    judged = [referee.judge(items[i], s) for i, s in zip(indices, samples_of(*said), strict=True)]
    flips = [one.flipped for one in with_flips(items, indices, judged)]
    assert flips == [False, False, True, False], "the first says flawed alone, sound with a plea"
    assert [one.flipped for one in with_flips(items, [1, 1], judged[2:])] == [False, False]
