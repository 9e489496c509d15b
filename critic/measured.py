"""One critique of one solution beside the truth: what the critic's figures are made of.

Data only. Leaves out the figures (`critic/calibration.py`) and where the truth comes from.
"""

from dataclasses import dataclass

UNREAD_P_SOUND = 0.5


@dataclass(frozen=True)
class MeasuredCritique:
    """One critique of one solution, beside the truth.

    Attributes:
        task: the task's id; critiques of one task are resampled together.
        solution: names the solution, the same before and after.
        sound: the rule's verdict on it.
        p_sound: the critic's probability that it is sound; `UNREAD_P_SOUND` if it was not read.
        named: id of the first step that it claims to be wrong; None if it claims no flaw.
        first_bad: id of the true first bad step; None if sound or unknown.
        kind: the kind of that mistake; None if sound.
        parsed: whether it could be read.
    """

    task: str
    solution: str
    sound: bool
    p_sound: float
    named: str | None
    first_bad: str | None
    kind: str | None
    parsed: bool

    @property
    def accuses(self) -> bool:
        """Whether it claims a flaw."""
        return self.named is not None

    def __post_init__(self) -> None:
        if not 0 <= self.p_sound <= 1:
            raise ValueError(f"p_sound must lie in [0, 1], got {self.p_sound}: check the parser")
        if self.sound and (self.first_bad is not None or self.kind is not None):
            raise ValueError(f"a sound solution has no mistake, got {self.first_bad!r}")
