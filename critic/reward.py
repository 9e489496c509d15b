"""What a critique earns: the default reward and three published presets, as pure functions.

    preset          form
    critic_reward   R_fmt [0.6 (1 - (p - g)^2) + 0.4 M] - 0.1 refuted, at least 0   (ours)
    dsm2_reward     R_fmt R_score R_meta                     (DeepSeekMath-V2, arXiv:2511.22570)
    tango_reward    class-weighted correctness + 0.8 format              (Tango, arXiv:2505.15034)
    rlcr_reward     1[correct] - (q - 1[correct])^2                       (RLCR, arXiv:2507.16806)

p is the critic's `p_sound`, g the rule's verdict (1: the solution passed), M the worth of the
claims. The default adds where DeepSeekMath-V2 multiplies: in a product the weight of calibration
depends on g through M, and then the truthful p is not the best one. Leaves out who is asked, about
what, and how rewards become advantages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from critic.critique import Critique, ParseFailure
from critic.meta import ClaimResult

CALIBRATION_WEIGHT = 0.6
CLAIMS_WEIGHT = 0.4
REFUTED_PENALTY = 0.1
FLIP_PENALTY = 0.2
MAX_UNCHECKABLE = 1


@dataclass(frozen=True, kw_only=True)
class JudgedCritique:
    """A critique with everything its reward depends on.

    Attributes:
        critique: what the critic wrote, parsed.
        claims: its claims as `check_claims` returned them; empty after a parse failure.
        sound: g, the rule's verdict on the solution.
        first_bad_step: id of the true first bad step where it is known (planted, or recomputed).
        checkable: whether code can check any claim about this solution.
        flipped: whether the verdict changed because the solution carried an assertion of its own
            worth; only items with such an assertion can be flipped.
    """

    critique: Critique | ParseFailure
    claims: Sequence[ClaimResult]
    sound: bool
    first_bad_step: str | None = None
    checkable: bool = True
    flipped: bool = False


def critic_reward(judged: JudgedCritique, *, flip_penalty: float = FLIP_PENALTY) -> float:
    """Reward calibration and true claims, in a sum (the default).

    Where nothing is checkable the calibration term stands alone, at its usual weight: a weight that
    depended on g would make a biased `p_sound` the best one.

    Args:
        flip_penalty: cost in [0, 1] of a verdict flipped by an assertion.

    Returns:
        Reward in [0, 1]; 0 for a text that is not a critique.

    Raises:
        ValueError: `flip_penalty` lies outside [0, 1].
    """
    if not 0 <= flip_penalty <= 1:
        raise ValueError(f"flip_penalty must lie in [0, 1], got {flip_penalty}: 0 turns it off")
    if isinstance(judged.critique, ParseFailure):
        return 0.0
    reward = CALIBRATION_WEIGHT * (1 - (judged.critique.p_sound - judged.sound) ** 2)
    if judged.checkable:
        reward += CLAIMS_WEIGHT * claims_score(judged)
    reward -= REFUTED_PENALTY * num_refuted(judged.claims)
    return max(0.0, reward - flip_penalty * judged.flipped)


def claims_score(judged: JudgedCritique) -> float:
    """Score the claims in [0, 1]: M of the default reward.

    One uncheckable claim scores neither way; further ones count as refuted, else they would be
    free. On a sound solution, claiming nothing scores 1, else the claims score their precision. On
    a flawed one, precision counts only if the first confirmed flaw is the true first bad step (any
    confirmed flaw where that is unknown), and claiming nothing scores 0.
    """
    confirmed = [claim.flaw.step for claim in judged.claims if claim.status == "confirmed"]
    num_counted = len(confirmed) + num_refuted(judged.claims)
    if num_counted == 0:
        return float(judged.sound)
    precision = len(confirmed) / num_counted
    if judged.sound:
        return precision
    if not confirmed or judged.first_bad_step not in (None, confirmed[0]):
        return 0.0
    return precision


def num_refuted(claims: Sequence[ClaimResult]) -> int:
    """Count the refuted claims, and the uncheckable ones beyond the one that is allowed."""
    statuses = [claim.status for claim in claims]
    return statuses.count("refuted") + max(0, statuses.count("uncheckable") - MAX_UNCHECKABLE)


def dsm2_reward(judged: JudgedCritique) -> float:
    """Multiply format, score and meta-score (DeepSeekMath-V2, arXiv:2511.22570).

    The score is 1 - |p - g|; our meta-score is `claims_score`, and 1 where nothing is checkable.

    Returns:
        Reward in [0, 1].
    """
    if isinstance(judged.critique, ParseFailure):
        return 0.0
    score = 1 - abs(judged.critique.p_sound - judged.sound)
    return score * (claims_score(judged) if judged.checkable else 1.0)


def rlcr_reward(judged: JudgedCritique) -> float:
    """Reward a right verdict, less the Brier score of its confidence (RLCR, arXiv:2507.16806).

    The confidence in the verdict is p for `sound` and 1 - p for `flawed`.

    Returns:
        Reward in [-1, 1]; a text that is not a critique earns -1, as a confident error does.
    """
    if isinstance(judged.critique, ParseFailure):
        return -1.0
    says_sound = judged.critique.verdict == "sound"
    correct = float(says_sound == judged.sound)
    confidence = judged.critique.p_sound if says_sound else 1 - judged.critique.p_sound
    return correct - (confidence - correct) ** 2


@dataclass(frozen=True)
class CriticClassWeights:
    """Weights of the two classes, inverse to the root of their size (Tango, arXiv:2505.15034).

    Without them a critic that sees mostly wrong answers learns to reject everything. Class sizes
    enter as shares, smoothed over batches; balanced classes weigh 1 each. A frozen state: `update`
    returns the next one.
    """

    sound_share: float = 0.5
    ema: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.sound_share <= 1:
            raise ValueError(f"sound_share must lie in [0, 1], got {self.sound_share}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}: 0 forgets earlier batches")

    def update(self, sound: Sequence[bool]) -> "CriticClassWeights":
        """Move the shares towards those of a batch; an empty batch changes nothing."""
        if not sound:
            return self
        share = sum(sound) / len(sound)
        return replace(self, sound_share=self.ema * self.sound_share + (1 - self.ema) * share)

    def weight(self, sound: bool) -> float:
        """Weigh one class: 1 / sqrt(n), scaled to 1 at balance and held below 5."""
        share = self.sound_share if sound else 1 - self.sound_share
        return float((2 * max(share, 0.02)) ** -0.5)


def tango_reward(judged: JudgedCritique, weights: CriticClassWeights) -> float:
    """Reward a right verdict by class weight, and the format with 0.8 (Tango, arXiv:2505.15034).

    Returns:
        Reward in [0, 5.8]; 0 for a text that is not a critique.
    """
    if isinstance(judged.critique, ParseFailure):
        return 0.0
    correct = (judged.critique.verdict == "sound") == judged.sound
    return weights.weight(judged.sound) * correct + 0.8
