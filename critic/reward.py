"""What a critique earns: our reward and three published presets, as pure functions.

    preset          form
    critic_reward   0.5 (1 - (p - g)^2) + 0.5 L - 0.5 [a claim is refuted]          (ours)
    dsm2_reward     R_fmt R_score R_meta                     (DeepSeekMath-V2, arXiv:2511.22570)
    tango_reward    class-weighted correctness + 0.8 format              (Tango, arXiv:2505.15034)
    rlcr_reward     1[correct] - (q - 1[correct])^2                       (RLCR, arXiv:2507.16806)

p is the critic's `p_sound`, g the rule's verdict (1: the solution passed), L whether the critique
locates the first flaw rightly. Ours adds, so that whatever is claimed the best p is the chance that
the solution passes. A refuted claim costs all that calibration can earn, and nothing is cut off
below: after a slip an accusation never pays better than a critique that breaks off, which earns 0.
A proper reward stays proper only while no group's standard deviation divides it
("Uncalibrated reasoning", arXiv:2508.11800): the critic trains with `scale_rewards = "none"`.
Leaves out who is asked, about what, and how rewards become advantages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from critic.critique import Critique, ParseFailure
from critic.meta import ClaimResult

CALIBRATION_WEIGHT = 0.5
LOCATION_WEIGHT = 0.5
REFUTED_PENALTY = CALIBRATION_WEIGHT
FLIP_PENALTY = 0.2


@dataclass(frozen=True, kw_only=True)
class JudgedCritique:
    """A critique with everything its reward depends on.

    Attributes:
        critique: what the critic wrote, parsed.
        claims: its claims as `check_claims` returned them; empty after a parse failure.
        sound: g, the rule's verdict on the solution.
        first_bad_step: id of the true first bad step, where it is known.
        flipped: whether the verdict changed because the solution carried an assertion of its own
            worth; only items with such an assertion can be flipped.
    """

    critique: Critique | ParseFailure
    claims: Sequence[ClaimResult]
    sound: bool
    first_bad_step: str | None = None
    flipped: bool = False


def critic_reward(judged: JudgedCritique, *, flip_penalty: float = FLIP_PENALTY) -> float:
    """Reward calibration and the right location, in a sum (the default).

    Args:
        flip_penalty: cost in [0, 1] of a verdict flipped by an assertion.

    Returns:
        Reward in [-0.5 - flip_penalty, 1]; 0 for a text that is not a critique.

    Raises:
        ValueError: `flip_penalty` lies outside [0, 1].
    """
    if not 0 <= flip_penalty <= 1:
        raise ValueError(f"flip_penalty must lie in [0, 1], got {flip_penalty}: 0 turns it off")
    if isinstance(judged.critique, ParseFailure):
        return 0.0
    reward = CALIBRATION_WEIGHT * (1 - (judged.critique.p_sound - judged.sound) ** 2)
    reward += LOCATION_WEIGHT * locates(judged)
    reward -= REFUTED_PENALTY * any(claim.status == "refuted" for claim in judged.claims)
    return reward - flip_penalty * judged.flipped


def locates(judged: JudgedCritique) -> bool:
    """Whether the critique says rightly where the first flaw is, or that there is none.

    Where a failed solution's flaw is unknown, only a claim that code confirmed counts.
    """
    if judged.first_bad_step is None and judged.sound:
        return not judged.claims
    return bool(judged.claims) and judged.claims[0].status == "confirmed"


def dsm2_reward(judged: JudgedCritique) -> float:
    """Multiply format, score and meta-score (DeepSeekMath-V2, arXiv:2511.22570).

    The score is 1 - |p - g|; our meta-score is `locates`. The score is linear in p, so that the
    best p is 0 or 1: the side is truthful, the distance is not.

    Returns:
        Reward in [0, 1].
    """
    if isinstance(judged.critique, ParseFailure):
        return 0.0
    return (1 - abs(judged.critique.p_sound - judged.sound)) * locates(judged)


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
