"""What a game is made of: a round's plan, starts, pointings, bouts, critiques and items.

Data only; the rules that judge it are the referee's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from critic.critique import Critique, ParseFailure
from critic.meta import ClaimResult
from data.records import Task
from pipelines.rollouts.sample import Sample
from rewards.solution import Solution, Step
from rewards.verdict import Verdict

Source = Literal["code", "critic", "chance"]
Status = Literal["confirmed", "refuted", "unknown", "trusted", "agreed"]


@dataclass(frozen=True)
class RoundPlan:
    """A round and what it is played with, as the settings and the monitor's interventions say.

    Attributes:
        round: its number, from 0.
        critic_points: whether the critic may point at the learner's flaws.
        audit_factor: how many times as many critiques of each audited solution are asked for.
        critic_is_trusted: whether its pointings count that no test could decide.
        others_decide: whether those of them count with which its pool agrees.
        critic_retrains: whether the critic's steps of reward are steps of imitation instead.
        fed_rounds: the rounds whose verified records alone may be imitated; None restricts nothing.
    """

    round: int
    critic_points: bool
    audit_factor: int = 1
    critic_is_trusted: bool = False
    others_decide: bool = False
    critic_retrains: bool = False
    fed_rounds: tuple[int, ...] | None = None

    @property
    def purpose(self) -> str:
        """Names the round's blocks in the seeds."""
        return f"round {self.round}"


@dataclass(frozen=True)
class Start:
    """What a group of samples begins with.

    Attributes:
        prefix: the part of a solution that is given, up to a step's beginning; "" for none.
        version: the learner's weights version that wrote the prefix.
    """

    task: Task
    prefix: str = ""
    version: int = 0


@dataclass(frozen=True)
class Pointing:
    """Where a failed solution is said to go wrong first.

    Attributes:
        index: of the step.
        source: who says so.
        status: what confirming it found; if that found nothing, and the critic's word counts
            nevertheless, "agreed" (`game/pool.py`) or "trusted" (`game/trust.py`).
        value_before: share of continuations from before the step that passed; None if untried.
        right_step: a step that stood there in a solution that passed; None where none is known.
    """

    index: int
    source: Source
    status: Status = "unknown"
    value_before: float | None = None
    right_step: str | None = None

    @property
    def counts(self) -> bool:
        """Whether credit follows from it."""
        return self.status in ("confirmed", "trusted", "agreed")


@dataclass(frozen=True)
class CheckedCritique:
    """One critique of one solution, with its claims checked.

    Attributes:
        text: as the critic wrote it.
        critique: what it says, or why it could not be read.
        claims: each claimed flaw and what was found about it.
        weights_hash: the hash of the critic's weights.
    """

    text: str
    critique: Critique | ParseFailure
    claims: tuple[ClaimResult, ...]
    weights_hash: str

    @property
    def p_sound(self) -> float | None:
        """The critic's probability that the solution passes; None where it could not be read."""
        return self.critique.p_sound if isinstance(self.critique, Critique) else None


@dataclass(frozen=True)
class Bout:
    """One solution with everything that was said of it.

    Attributes:
        sample: the completion: the solution without the given prefix.
        solution: the whole of it.
        judged: the critique of it; None where none was asked for.
        reward: the learner's; None where it does not count or nothing was trained.
        pointing: at its first flaw; None where nobody pointed.
        prefix: what the group began with; "" but for a reset.
    """

    task: Task
    sample: Sample
    solution: Solution
    verdict: Verdict
    judged: CheckedCritique | None
    reward: float | None
    pointing: Pointing | None = None
    prefix: str = ""

    @property
    def judgeable(self) -> bool:
        """Whether it is a readable solution that the rule passed or refused."""
        return self.solution.well_formed and self.verdict.outcome in ("correct", "incorrect")

    @property
    def located(self) -> Step | None:
        """The first flawed step, where a pointing at it is confirmed."""
        if self.pointing is None or self.pointing.status != "confirmed":
            return None
        return self.solution.steps[self.pointing.index]


@dataclass(frozen=True)
class CritiqueItem:
    """What the critic is asked about: a solution whose verdict is known.

    Attributes:
        sound: whether the verifier accepts it.
        first_bad: id of the first bad step, where it is known.
        planted: the kind of flaw that was put there; "" where none was.
        right_step: a step that should have stood at `first_bad`, where one is known.
        later: the same of each wrong step after it; None where nothing is known of those.
        twin: place among the items of the same solution without the plea that this one carries;
            None where it carries none.
    """

    task: Task
    solution: Solution
    sound: bool
    first_bad: str | None
    planted: str = ""
    right_step: str | None = None
    later: Mapping[str, str | None] | None = None
    twin: int | None = None
