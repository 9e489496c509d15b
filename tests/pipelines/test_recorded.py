"""The critic imitates its own critiques only where they were confirmed, and as often as asked."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pytest
from pointing_cases import PLAN, Judge, bouts_judged_by, referee_of

from critic.meta import ClaimStatus
from pipelines.game.bout import Bout
from pipelines.game.critic import CriticGame
from pipelines.game.recorded import RecordedCritiques, figures
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Prompt
from rewards.verifiers import Verifiers

SHARE = "feedback.critiques_share=0.5"
STILL = ("pointing.source=critic", "critic.steps_per_round=0", "critic.champion=false")
OWN = " (in my own words)"


class Listener(Judge):
    """A critic that keeps what it is to imitate."""

    def __init__(self, right: bool) -> None:
        super().__init__(right, right)
        self.lessons: list[list[tuple[Prompt, str]]] = []

    def imitate(self, *given: object) -> None:
        prompts, replies, _ = given
        self.lessons.append([*zip(prompts, replies, strict=True)])  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def referee() -> Iterator[Referee]:
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        yield referee_of(verifiers, *STILL, "critic.imitation_steps=2", SHARE)


def test_half_of_the_critiques_are_the_critics_own(referee: Referee) -> None:
    """They replace those of flawed solutions; sound ones are the teacher's as before."""
    critic = Listener(True)
    game, bouts = CriticGame(referee, critic), bouts_judged_by(referee, critic)
    assert {bout.verdict.passed for bout in bouts if bout.judged} == {False}, "as the module says"
    bouts = [_in_words(bout) for bout in bouts]
    game.imitate(bouts, PLAN)
    (lesson,) = critic.lessons
    assert len(lesson) == 16 == critic.replies_per_block(2)
    assert sum(reply.endswith(OWN) for _, reply in lesson) == 8
    assert len(game.recorded.kept) == 12, "one of each failed solution"
    row = {name.removeprefix("feedback/critiques"): n for name, n in game.recorded_row.items()}
    assert row == {"": 8, "_distinct": 8, "_share": 0.5, "_mean_age": 0}


def test_what_was_not_confirmed_is_never_imitated(referee: Referee) -> None:
    """A critic that accuses every first step has no critique that holds."""
    recorded = RecordedCritiques(referee)
    wrong = bouts_judged_by(referee, Listener(False))
    assert any(bout.judged and bout.judged.claims for bout in wrong)
    recorded.collect(wrong, 0)
    right = [bout for bout in bouts_judged_by(referee, Listener(True)) if bout.judged]
    late = replace(right[0].verdict, outcome="timeout", score=None)
    recorded.collect([replace(bout, verdict=late) for bout in right], 0)
    passed = replace(right[0].verdict, outcome="correct", score=1.0)
    recorded.collect([replace(bout, verdict=passed) for bout in right], 0)
    recorded.collect([_with_claims(bout, ()) for bout in right], 0)
    for statuses in (("uncheckable",), ("confirmed", "refuted"), ("uncheckable", "confirmed")):
        recorded.collect([_with_claims(bout, statuses) for bout in right], 0)
    assert not recorded.kept and recorded.take(16, 8, PLAN, random.Random(0)) == []
    recorded.collect([_with_claims(bout, ("confirmed", "uncheckable")) for bout in right], 0)
    assert len(recorded.kept) == 12


def test_old_ones_are_forgotten_and_a_restriction_holds_for_them_too(referee: Referee) -> None:
    recorded, again = RecordedCritiques(referee), RecordedCritiques(referee)
    recorded.collect(bouts_judged_by(referee, Listener(True)), 3)
    later = replace(PLAN, round=5)
    taken = recorded.take(16, 8, later, random.Random(0))
    assert len(taken) == 8 and figures(taken, 16, 5)["feedback/critiques_mean_age"] == 2
    assert recorded.take(16, 8, replace(later, fed_rounds=(2,)), random.Random(0)) == []
    assert figures([], 16, 5) == {}
    again.load_state_dict(json.loads(json.dumps(recorded.state_dict())))
    assert again.take(16, 8, later, random.Random(0)) == taken
    recorded.collect([], 3 + referee.settings.feedback.max_age_rounds)
    assert len(recorded.kept) == 12
    recorded.collect([], 4 + referee.settings.feedback.max_age_rounds)
    assert not recorded.kept


def test_without_the_share_and_in_retraining_the_teacher_alone_is_imitated(
    referee: Referee,
) -> None:
    alone = referee_of(referee.verifiers, *STILL, "critic.imitation_steps=2")
    critic = Listener(True)
    bouts = [_in_words(bout) for bout in bouts_judged_by(alone, critic)]
    for one, plan in ((alone, PLAN), (referee, replace(PLAN, critic_retrains=True))):
        game = CriticGame(one, critic)
        game.imitate(bouts, plan)
        assert game.recorded_row == {}
    assert critic.lessons[0] == critic.lessons[1]
    assert not any(reply.endswith(OWN) for _, reply in critic.lessons[0])


def _in_words(bout: Bout) -> Bout:
    """The bout with words in its critique that no teacher writes."""
    if bout.judged is None:
        return bout
    return replace(bout, judged=replace(bout.judged, text=bout.judged.text + OWN))


def _with_claims(bout: Bout, statuses: Sequence[ClaimStatus]) -> Bout:
    assert bout.judged is not None
    (claim,) = bout.judged.claims
    claims = tuple(replace(claim, status=status) for status in statuses)
    return replace(bout, judged=replace(bout.judged, claims=claims))
