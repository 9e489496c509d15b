"""What a game is made of: a bout, a critique with its claims checked, an item for the critic."""

from dataclasses import dataclass

from critic.critique import Critique, ParseFailure
from critic.meta import ClaimResult
from data.records import Task
from pipelines.rollouts.sample import Sample
from rewards.aggregate import CriticView
from rewards.solution import Solution
from rewards.verdict import Verdict


@dataclass(frozen=True)
class JudgedClaim:
    """One critique of one solution, with its claims checked."""

    text: str
    critique: Critique | ParseFailure
    claims: tuple[ClaimResult, ...]
    view: CriticView | None
    weights: str  # hash of the critic's weights


@dataclass(frozen=True)
class Bout:
    """One solution with everything that was said of it."""

    task: Task
    sample: Sample
    solution: Solution
    verdict: Verdict
    judged: JudgedClaim | None
    reward: float | None


@dataclass(frozen=True)
class CritiqueItem:
    """What the critic is asked about: a solution whose verdict is known."""

    task: Task
    solution: Solution
    sound: bool
    first_bad: str | None
    planted: bool = False
