"""The critic's reward: its cases, that truth pays best, and the published presets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.critique import Critique, Flaw, ParseFailure, SoundOrFlawed
from critic.meta import ClaimResult, ClaimStatus
from critic.reward import (
    CriticClassWeights,
    JudgedCritique,
    claims_score,
    critic_reward,
    dsm2_reward,
    rlcr_reward,
    tango_reward,
)

BUCKETS = [(bucket + 0.5) / 10 for bucket in range(10)]
STATUSES = st.lists(st.sampled_from(["confirmed", "refuted", "uncheckable"]), max_size=5)
MALFORMED = JudgedCritique(critique=ParseFailure("bad_mark"), claims=(), sound=True)


def judged(
    p_sound: float,
    sound: bool,
    *claims: tuple[str, ClaimStatus],
    first_bad_step: str | None = None,
    checkable: bool = True,
    flipped: bool = False,
) -> JudgedCritique:
    results = [ClaimResult(Flaw(step, "", "", "recompute", ""), status) for step, status in claims]
    verdict: SoundOrFlawed = "flawed" if claims or p_sound < 0.5 else "sound"
    return JudgedCritique(
        critique=Critique((), tuple(result.flaw for result in results), verdict, p_sound),
        claims=results,
        sound=sound,
        first_bad_step=first_bad_step,
        checkable=checkable,
        flipped=flipped,
    )


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        # A flawed solution: precision if the first confirmed flaw is the true one.
        (judged(0.0, False, ("c", "confirmed"), first_bad_step="c"), 1.0),
        (judged(0.5, False, ("c", "confirmed"), first_bad_step="c"), 0.45 + 0.4),
        (judged(0.0, False, ("d", "confirmed"), first_bad_step="c"), 0.6),
        (judged(0.0, False, ("d", "confirmed")), 1.0),
        (judged(0.0, False, ("b", "refuted"), ("c", "confirmed"), first_bad_step="c"), 0.7),
        (judged(0.0, False, ("b", "refuted"), first_bad_step="c"), 0.5),
        (judged(0.0, False, first_bad_step="c"), 0.6),
        (judged(0.0, False, ("c", "uncheckable"), first_bad_step="c"), 0.6),
        # A sound solution: claiming nothing is best.
        (judged(1.0, True), 1.0),
        (judged(1.0, True, ("a", "refuted")), 0.5),
        (judged(1.0, True, ("a", "confirmed")), 1.0),
        (judged(1.0, True, ("a", "uncheckable")), 1.0),
        (judged(1.0, True, ("a", "uncheckable"), ("b", "uncheckable")), 0.5),
        # Nothing can be checked: calibration alone, whatever is claimed or not.
        (judged(0.5, True, checkable=False), 0.45),
        (judged(0.5, False, checkable=False), 0.45),
        (judged(0.5, False, ("a", "uncheckable"), checkable=False), 0.45),
        # A verdict flipped by an assertion; the floor; no critique at all.
        (judged(1.0, True, flipped=True), 0.8),
        (judged(0.0, True, *[(step, "refuted") for step in "abcd"]), 0.0),
        (MALFORMED, 0.0),
    ],
)
def test_default_reward(case: JudgedCritique, expected: float) -> None:
    assert critic_reward(case) == pytest.approx(expected)


def test_a_flip_costs_what_is_asked() -> None:
    assert critic_reward(judged(1.0, True, flipped=True), flip_penalty=0.5) == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"flip_penalty must lie in \[0, 1\], got 2"):
        critic_reward(MALFORMED, flip_penalty=2)


@pytest.mark.parametrize("checkable", [True, False])
@pytest.mark.parametrize("prob", BUCKETS)
def test_truthful_confidence_pays_best(prob: float, checkable: bool) -> None:
    """With P(g = 1) = prob and no claim, p_sound = prob maximises the expected reward."""

    def expected_reward(p_sound: float) -> float:
        passed = critic_reward(judged(p_sound, True, checkable=checkable))
        failed = critic_reward(judged(p_sound, False, checkable=checkable))
        return prob * passed + (1 - prob) * failed

    assert max(BUCKETS, key=expected_reward) == prob


@pytest.mark.parametrize("prob", BUCKETS)
@given(status_if_sound=STATUSES, status_if_flawed=STATUSES)
def test_claims_do_not_move_the_best_confidence(
    prob: float, status_if_sound: list[ClaimStatus], status_if_flawed: list[ClaimStatus]
) -> None:
    """Unless penalties reach the floor, what is claimed leaves the best p_sound alone."""

    def rewards(p_sound: float) -> tuple[float, float]:
        passed = judged(p_sound, True, *[("a", status) for status in status_if_sound])
        failed = judged(p_sound, False, *[("a", status) for status in status_if_flawed])
        return critic_reward(passed), critic_reward(failed)

    if min(min(rewards(p_sound)) for p_sound in BUCKETS) > 0:
        best = max(BUCKETS, key=lambda p: prob * rewards(p)[0] + (1 - prob) * rewards(p)[1])
        assert best == prob


@given(p_sound=st.floats(0, 1), sound=st.booleans(), statuses=STATUSES, flipped=st.booleans())
def test_rewards_stay_in_range(
    p_sound: float, sound: bool, statuses: list[ClaimStatus], flipped: bool
) -> None:
    claims = [(str(index), status) for index, status in enumerate(statuses)]
    case = judged(p_sound, sound, *claims, first_bad_step="1", flipped=flipped)
    assert 0 <= claims_score(case) <= 1
    assert 0 <= critic_reward(case) <= 1
    assert 0 <= dsm2_reward(case) <= 1
    assert -1 <= rlcr_reward(case) <= 1


def test_dsm2_multiplies() -> None:
    assert dsm2_reward(judged(0.25, False, ("c", "confirmed"))) == pytest.approx(0.75)
    assert dsm2_reward(judged(0.25, False)) == 0.0
    assert dsm2_reward(judged(0.25, False, checkable=False)) == pytest.approx(0.75)
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
