"""The critic's reward: its cases, and that truth pays best as it is optimised: on advantages.

With `scale_rewards = "none"` an advantage is the reward less the group's mean; with TRL's default
it is divided by the group's standard deviation too, which is why the default is not ours.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.critique import Critique, Flaw, ParseFailure, SoundOrFlawed
from critic.meta import ClaimResult, ClaimStatus
from critic.reward import (
    CriticClassWeights,
    JudgedCritique,
    critic_reward,
    dsm2_reward,
    locates,
    rlcr_reward,
    tango_reward,
)

BUCKETS = [(bucket + 0.5) / 10 for bucket in range(10)]
STATUSES = st.lists(st.sampled_from(["confirmed", "refuted", "uncheckable"]), max_size=5)
MALFORMED = JudgedCritique(critique=ParseFailure("bad_judgement"), claims=(), sound=True)
Reward = Callable[[JudgedCritique], float]


def judged(
    p_sound: float,
    sound: bool,
    *claims: tuple[str, ClaimStatus],
    first_bad_step: str | None = None,
    flipped: bool = False,
) -> JudgedCritique:
    results = [ClaimResult(Flaw(step, "", "", "recompute", ""), status) for step, status in claims]
    verdict: SoundOrFlawed = "flawed" if claims or p_sound < 0.5 else "sound"
    return JudgedCritique(
        critique=Critique((), tuple(result.flaw for result in results), verdict, p_sound),
        claims=results,
        sound=sound,
        first_bad_step=first_bad_step,
        flipped=flipped,
    )


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        # A flawed solution whose first flaw is known.
        (judged(0.0, False, ("c", "confirmed"), first_bad_step="c"), 1.0),
        (judged(0.5, False, ("c", "confirmed"), first_bad_step="c"), 0.375 + 0.5),
        (judged(0.0, False, ("b", "refuted"), first_bad_step="c"), 0.0),
        (judged(1.0, False, ("b", "refuted"), first_bad_step="c"), -0.5),
        (judged(0.0, False, first_bad_step="c"), 0.5),
        # One whose flaw is unknown: a claim that nobody can check earns nothing.
        (judged(0.0, False), 0.5),
        (judged(0.0, False, ("c", "uncheckable")), 0.5),
        (judged(0.0, False, ("c", "confirmed")), 1.0),
        # A sound solution: claiming nothing is best.
        (judged(1.0, True), 1.0),
        (judged(0.0, True), 0.5),
        (judged(1.0, True, ("a", "refuted")), 0.0),
        (judged(0.0, True, ("a", "refuted")), -0.5),
        # An answer that is right by wrong steps.
        (judged(1.0, True, ("b", "confirmed"), first_bad_step="b"), 1.0),
        (judged(1.0, True, first_bad_step="b"), 0.5),
        # A verdict flipped by an assertion; no critique at all.
        (judged(1.0, True, flipped=True), 0.8),
        (MALFORMED, 0.0),
    ],
)
def test_our_reward(case: JudgedCritique, expected: float) -> None:
    assert critic_reward(case) == pytest.approx(expected)


def test_a_flip_costs_what_is_asked() -> None:
    assert critic_reward(judged(1.0, True, flipped=True), flip_penalty=0.5) == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"flip_penalty must lie in \[0, 1\], got 2"):
        critic_reward(MALFORMED, flip_penalty=2)


# -- truthfulness, on advantages -------------------------------------------------------------------


def _advantages(rewards: Sequence[float], divided: bool) -> list[float]:
    mean, spread = statistics.fmean(rewards), statistics.stdev(rewards)
    return [(reward - mean) / (spread + 1e-4 if divided else 1.0) for reward in rewards]


def _push(reward: Reward, prob: float, bucket: float, divided: bool = False) -> float:
    """The mean advantage of one confidence in groups that hold each once.

    The solution passes with `prob`; the critic cannot tell, and claims nothing.
    """
    pushes = []
    for sound in (True, False):
        group = [reward(judged(p_sound, sound)) for p_sound in BUCKETS]
        pushes.append(_advantages(group, divided)[BUCKETS.index(bucket)])
    return prob * pushes[0] + (1 - prob) * pushes[1]


@pytest.mark.parametrize("prob", BUCKETS)
@pytest.mark.parametrize("reward", [critic_reward, rlcr_reward])
def test_the_truthful_confidence_is_pushed_up_most(reward: Reward, prob: float) -> None:
    assert max(BUCKETS, key=lambda bucket: _push(reward, prob, bucket)) == prob


@pytest.mark.parametrize("prob", [0.15, 0.35, 0.65, 0.85])
def test_every_preset_pushes_the_truthful_verdict_up_more(prob: float) -> None:
    """DeepSeekMath-V2's and Tango's tell the side, though not how sure to be."""
    weights = CriticClassWeights()

    def tango(case: JudgedCritique) -> float:
        return tango_reward(case, weights)

    for reward in (critic_reward, rlcr_reward, tango, _linear):
        low, high = (_push(reward, prob, bucket) for bucket in (0.05, 0.95))
        assert (high > low) == (prob > 0.5), reward


def _linear(case: JudgedCritique) -> float:
    """`dsm2_reward` where the flaw is found: what is left to choose is the confidence."""
    claims = () if case.sound else (("c", "confirmed"),)
    assert isinstance(case.critique, Critique)
    return dsm2_reward(judged(case.critique.p_sound, case.sound, *claims, first_bad_step=None))


def test_dividing_by_the_spread_would_push_confidence_to_the_extreme() -> None:
    """Why the critic trains with `scale_rewards = "none"` (arXiv:2508.11800).

    Groups in which critiques agree but for one: dividing makes a small difference as large as a
    great one, so that 0.95 beats the truthful 0.75.
    """

    def pull(divided: bool) -> float:
        """How much better 0.95 does than 0.75, among copies of 0.85 of a solution at 0.75."""
        total = 0.0
        for sound, prob in ((True, 0.75), (False, 0.25)):
            group = [critic_reward(judged(p, sound)) for p in (0.95, 0.75, *[0.85] * 6)]
            high, low, *_ = _advantages(group, divided)
            total += prob * (high - low)
        return total

    assert pull(divided=False) < 0 < pull(divided=True)


@pytest.mark.parametrize("first_bad", [None, "c"])
@pytest.mark.parametrize("prob", BUCKETS)
@given(data=st.data())
def test_claims_do_not_move_the_best_confidence(
    prob: float, first_bad: str | None, data: st.DataObject
) -> None:
    """Whatever is claimed, and whatever becomes of it, the best p_sound is the truthful one."""
    if_sound, if_flawed = data.draw(STATUSES), data.draw(STATUSES)

    def expected(p_sound: float) -> float:
        passed = judged(p_sound, True, *[("a", status) for status in if_sound])
        failed = judged(
            p_sound, False, *[("a", status) for status in if_flawed], first_bad_step=first_bad
        )
        return prob * critic_reward(passed) + (1 - prob) * critic_reward(failed)

    assert max(BUCKETS, key=expected) == prob


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("p_sound", BUCKETS)
def test_an_accusation_never_beats_breaking_off_after_a_slip(sound: bool, p_sound: float) -> None:
    """Were it otherwise, RL would turn slips into accusations instead of into right sums."""
    refuted = judged(p_sound, sound, ("c", "refuted"), first_bad_step=None if sound else "d")
    silent = judged(p_sound, sound, first_bad_step=None if sound else "d")
    group = [critic_reward(refuted), critic_reward(MALFORMED), critic_reward(silent)]
    accused, broken, honest = _advantages(group, divided=False)
    assert accused <= broken < honest


def test_what_nobody_can_check_is_not_free() -> None:
    """Claims that may be false cost on sound solutions, and win nothing on flawed ones."""
    claims: list[tuple[str, ClaimStatus]] = [("a", "uncheckable")]
    gains = [
        critic_reward(judged(0.35, sound, *claims)) - critic_reward(judged(0.35, sound))
        for sound in (True, False)
    ]
    assert gains[0] < 0 and gains[1] == 0


@given(p_sound=st.floats(0, 1), sound=st.booleans(), statuses=STATUSES, flipped=st.booleans())
def test_rewards_stay_in_range(
    p_sound: float, sound: bool, statuses: list[ClaimStatus], flipped: bool
) -> None:
    claims = [(str(index), status) for index, status in enumerate(statuses)]
    case = judged(p_sound, sound, *claims, first_bad_step="1", flipped=flipped)
    assert -0.7 <= critic_reward(case) <= 1
    assert 0 <= dsm2_reward(case) <= 1
    assert -1 <= rlcr_reward(case) <= 1


# -- published presets -----------------------------------------------------------------------------


def test_dsm2_multiplies() -> None:
    assert dsm2_reward(judged(0.25, False, ("c", "confirmed"))) == pytest.approx(0.75)
    assert dsm2_reward(judged(0.25, False)) == 0.0
    assert dsm2_reward(judged(0.75, True)) == pytest.approx(0.75)
    assert dsm2_reward(MALFORMED) == 0.0


def test_rlcr_scores_the_verdict_and_its_confidence() -> None:
    assert rlcr_reward(judged(0.9, True)) == pytest.approx(1 - 0.01)
    assert rlcr_reward(judged(0.9, False)) == pytest.approx(-0.81)
    assert rlcr_reward(judged(0.1, False)) == pytest.approx(1 - 0.01)
    assert rlcr_reward(MALFORMED) == -1.0


def test_tango_weighs_the_rarer_class_more() -> None:
    balanced = CriticClassWeights()
    assert balanced.weight(True) == balanced.weight(False) == 1.0
    skewed = balanced.update([True, False, False, False, False])
    assert skewed.sound_share == pytest.approx(0.8 * 0.5 + 0.2 * 0.2)
    assert skewed.weight(True) / skewed.weight(False) == pytest.approx((0.56 / 0.44) ** 0.5)
    assert skewed.update([]) == skewed
    assert tango_reward(judged(0.9, True), skewed) == pytest.approx(skewed.weight(True) + 0.8)
    assert tango_reward(judged(0.1, True), skewed) == 0.8
    assert tango_reward(MALFORMED, skewed) == 0.0


def test_class_weights_stay_finite_when_a_class_vanishes() -> None:
    weights = CriticClassWeights()
    for _ in range(200):
        weights = weights.update([False] * 8)
    assert weights.weight(True) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="ema must lie in"):
        CriticClassWeights(ema=1.0)


@pytest.mark.parametrize(
    ("sound", "first_bad", "statuses", "right"),
    [
        (True, None, [], True),
        (True, None, ["uncheckable"], False),
        (False, "c", ["confirmed", "uncheckable"], True),
        (False, "c", ["refuted"], False),
        (False, "c", ["refuted", "confirmed"], False),  # its first word counts, not its best
        (False, "c", [], False),
        (False, None, [], False),
    ],
)
def test_what_locates(
    sound: bool, first_bad: str | None, statuses: list[ClaimStatus], right: bool
) -> None:
    claims = list(zip(itertools.cycle("c"), statuses, strict=False))
    assert locates(judged(0.5, sound, *claims, first_bad_step=first_bad)) == right
