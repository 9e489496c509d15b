"""Who points at the first flaw of a failed solution: the cheapest valid pointer.

    code      where every step can be checked and the checks are not withheld
    critic    where they cannot
    chance    a share that no critic chooses, and every failure in which it finds no flaw, so that
              its blind spots are found too

A pointing is a claim. Code confirms it where it may check steps, else continuations do
(`game/confirmation.py`); only a confirmed one counts, or one of a critic that is trusted
(`game/trust.py`). Leaves out what follows from it: credit
(`training/advantages.py`), resets (`game/resets.py`), the critic's lessons (`game/lessons.py`).
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from critic.critique import Critique, ParseFailure
from data.records import Task
from pipelines.game.bout import Pointing
from pipelines.game.referee import Referee
from rewards.solution import Solution, first_bad_step
from rewards.verdict import Verdict


@dataclass(frozen=True)
class Attempt:
    """A solution as the pointers see it.

    Attributes:
        group: names the attempts that share task and beginning.
        prefix: what it began with, which was not its own choice.
        num_tokens: of the completion.
        critique: what the critic said of it; None where it was not asked.
    """

    group: object
    task: Task
    prefix: str
    solution: Solution
    verdict: Verdict
    num_tokens: int
    critique: Critique | ParseFailure | None = None

    @property
    def failed(self) -> bool:
        """Whether it is a readable solution that the rule refuses."""
        return self.solution.well_formed and self.verdict.counted and not self.verdict.passed

    @property
    def first_own_step(self) -> int:
        """Index of the first step that the completion wrote."""
        steps = self.solution.steps
        return next((i for i, s in enumerate(steps) if s.start >= len(self.prefix)), len(steps))

    def before(self, index: int) -> str:
        """The text up to a step's beginning."""
        return self.solution.text[: self.solution.steps[index].start]

    def after(self, index: int) -> str:
        """The text up to a step's end."""
        return self.solution.text[: self.solution.steps[index].end]


class Pointer:
    """Points at the first flaws of failed attempts.

    Args:
        referee: checks steps, where it may.
        rng: chooses what no critic does.
    """

    def __init__(self, referee: Referee, rng: random.Random) -> None:
        self.referee, self.rng = referee, rng
        self.table = referee.settings.pointing

    def wants_critique(self, attempt: Attempt) -> bool:
        """Whether a critic's word can matter: of a failure that code is not asked about, or cannot
        say where it fails.
        """
        if not attempt.failed or self.table.source not in ("critic", "cheapest"):
            return False
        by_code = self.table.source == "cheapest" and self.table.step_checks
        return not by_code or self._first_bad(attempt) is None

    def point(self, attempts: Sequence[Attempt], critic_points: bool) -> list[Pointing | None]:
        """One pointing, or none, for each attempt; code's are confirmed already."""
        return [self._point(attempt, critic_points) for attempt in attempts]

    def _point(self, attempt: Attempt, critic_points: bool) -> Pointing | None:
        own = range(attempt.first_own_step, len(attempt.solution.steps))
        if not attempt.failed or not own or self.table.source == "none":
            return None
        chosen_by_chance = self.rng.random() < self.table.chance_share
        at_random = Pointing(self.rng.choice(own), "chance")  # drawn always: one stream of numbers
        source = self.table.source
        if source == "code" or (source == "cheapest" and self.table.step_checks):
            by_code = self._by_code(attempt)
            if by_code is not None or source == "code":
                return by_code
        if source == "chance" or (chosen_by_chance and source == "cheapest"):
            return self.checked(attempt, at_random)
        if not critic_points or not isinstance(attempt.critique, Critique):
            return None
        claimed = first_claimed(attempt.solution, attempt.critique)
        if claimed is not None and claimed in own:
            return self.checked(attempt, Pointing(claimed, "critic"))
        # It failed, so there is a flaw, and the critic is blind to it: who chose not to look there
        # does not choose what is tested.
        seeks = source == "cheapest" and self.table.chance_share > 0
        return self.checked(attempt, at_random) if seeks else None

    def _by_code(self, attempt: Attempt) -> Pointing | None:
        index = self._first_bad(attempt)
        if index is None or index < attempt.first_own_step:
            return None
        return Pointing(index, "code", "confirmed")

    def checked(self, attempt: Attempt, pointing: Pointing) -> Pointing:
        """Confirm or refute a claim by code, where steps may be checked."""
        if not self.table.confirm:
            return replace(pointing, status="confirmed")
        first_bad = self._first_bad(attempt) if self.table.step_checks else None
        if first_bad is None:
            return pointing
        right = first_bad == pointing.index
        return replace(pointing, status="confirmed" if right else "refuted")

    def _first_bad(self, attempt: Attempt) -> int | None:
        return first_bad_step(self.referee.dialect.check_steps(attempt.task, attempt.solution))


def pass_rate(verdicts: Iterable[Verdict]) -> float:
    """The share that passed, with half a success and half a failure more, so that it is never 0."""
    passed = [verdict.passed for verdict in verdicts if verdict.counted]
    return (sum(passed) + 0.5) / (len(passed) + 1)


def first_claimed(solution: Solution, critique: Critique | ParseFailure | None) -> int | None:
    """Index of the first step that a critique calls wrong."""
    if not isinstance(critique, Critique):
        return None
    named = {flaw.step for flaw in critique.flaws}
    return next((i for i, step in enumerate(solution.steps) if step.id in named), None)
