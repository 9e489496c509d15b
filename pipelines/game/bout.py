"""What a game is made of: a round's plan, a bout, a checked critique, an item for the critic.

Data only; the rules that judge it are the referee's.
"""

from dataclasses import dataclass

from critic.critique import Critique, ParseFailure
from critic.meta import ClaimResult
from data.records import Task
from pipelines.rollouts.sample import Sample
from rewards.aggregate import CriticView
from rewards.solution import Solution
from rewards.verdict import Verdict


@dataclass(frozen=True)
class RoundPlan:
    """A round and what it is played with, as the settings and the monitor's interventions say.

    Attributes:
        round: its number, from 0.
        critic_weight: of the critic's view in the learner's reward; 0 asks for no critique.
        step_weight: of the critic's step signals in the learner's advantages, 0 to 1.
        audit_share: of the audit set that judges the critic, 0 to 1.
    """

    round: int
    critic_weight: float
    step_weight: float
    audit_share: float

    @property
    def purpose(self) -> str:
        """Names the round's blocks in the seeds."""
        return f"round {self.round}"


@dataclass(frozen=True)
class CheckedCritique:
    """One critique of one solution, with its claims checked.

    Attributes:
        text: as the critic wrote it.
        critique: what it says, or why it could not be read.
        claims: each claimed flaw and what code found.
        view: what counts of it for the solution's reward; None where it could not be read.
        weights_hash: the hash of the critic's weights.
    """

    text: str
    critique: Critique | ParseFailure
    claims: tuple[ClaimResult, ...]
    view: CriticView | None
    weights_hash: str


@dataclass(frozen=True)
class Bout:
    """One solution with everything that was said of it.

    Attributes:
        judged: the critique of it; None where none was asked for.
        reward: the learner's; None where it does not count or nothing was trained.
    """

    task: Task
    sample: Sample
    solution: Solution
    verdict: Verdict
    judged: CheckedCritique | None
    reward: float | None


@dataclass(frozen=True)
class CritiqueItem:
    """What the critic is asked about: a solution whose verdict is known.

    Attributes:
        sound: whether the verifier accepts it.
        first_bad: id of the first bad step, where code finds it.
        planted: whether its flaw was put there.
    """

    task: Task
    solution: Solution
    sound: bool
    first_bad: str | None
    planted: bool = False
