"""From verdicts and critiques to rewards, as pure functions.

Rules dominate: the critic shades a reward inside the band that the verifier chose, so
any correct solution earns more than any incorrect one. Whether a critique's claims
hold is decided in `critic.meta`, not here.
"""

from dataclasses import dataclass

from rewards.verdict import Verdict

MAX_WEIGHT = 0.45  # the bands [1 - weight, 1] and [0, weight] stay 0.1 apart


@dataclass(frozen=True)
class CriticView:
    """What the critic's critique comes to, after its claims were checked.

    Attributes:
        p_sound: its probability that the solution is sound.
        sound_share: share of the steps before the first flagged one; 1 if none is flagged.
        confirmed_flaw: whether a flaw it claims was confirmed.
    """

    p_sound: float
    sound_share: float
    confirmed_flaw: bool

    def __post_init__(self) -> None:
        for name, value in (("p_sound", self.p_sound), ("sound_share", self.sound_share)):
            if not 0 <= value <= 1:
                raise ValueError(
                    f"{name} must lie in [0, 1], got {value}: check the critique's parser"
                )


def aggregate(verdict: Verdict, *, critic: CriticView | None, weight: float) -> float | None:
    """The one reward of a completion.

    Correct earns `1 - weight * doubt`, where doubt is `1 - p_sound`, or 1 if a flaw was
    confirmed (the critic's veto). Incorrect earns `weight * sound_share`, malformed 0.

    Args:
        verdict: the rule's judgement.
        critic: the checked critique, or None to use the rule alone.
        weight: the critic's say, in [0, 0.45].

    Returns:
        Reward in [0, 1], or None where the sample must be masked (timeout, error).

    Raises:
        ValueError: the weight is out of range.
    """
    if not 0 <= weight <= MAX_WEIGHT:
        raise ValueError(
            f"the critic's weight must lie in [0, {MAX_WEIGHT}], got {weight}: above it, an "
            "incorrect solution could earn more than a correct one"
        )
    if not verdict.counted:
        return None
    if verdict.passed:
        if critic is None:
            return 1.0
        return 1.0 - weight * (1.0 if critic.confirmed_flaw else 1.0 - critic.p_sound)
    if verdict.outcome == "invalid" or critic is None:
        return 0.0
    return weight * critic.sound_share


def step_rewards(num_steps: int, first_bad: int | None, rule_failed: bool) -> list[float]:
    """Reward each step by the critic's first flaw: +1/K before it, -1/K at it, 0 after.

    Follows RL-Tango (arXiv:2505.15034); the guard is ours: where the rule failed, praise
    is withheld, so no step earns more than 0.

    Args:
        num_steps: K, the number of steps.
        first_bad: index of the first flawed step, or None.
        rule_failed: whether the verifier did not pass the solution.

    Raises:
        ValueError: `first_bad` is not one of the steps.
    """
    if num_steps < 0 or (first_bad is not None and not 0 <= first_bad < num_steps):
        raise ValueError(
            f"first_bad must index one of {num_steps} steps or be None, got {first_bad}"
        )
    if num_steps == 0:
        return []
    good = 0.0 if rule_failed else 1 / num_steps
    if first_bad is None:
        return [good] * num_steps
    return [good] * first_bad + [-1 / num_steps] + [0.0] * (num_steps - first_bad - 1)
