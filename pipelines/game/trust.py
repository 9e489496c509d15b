"""May a critic's word count where no test could decide it?

Continuations decide only where success is not too rare: before that, and beyond their budget, a
pointing stays unknown. Such a one counts while two things hold:

    planted   of the critic's pointings at flaws planted in held-out tasks' solutions enough are
              right, by the lower end of a 95% interval over its last three audits, one before the
              first round and one after each round's training; a task counts once, by its mean,
              because a step of it that is accused falsely is so in every solution
    tested    of its pointings at the learner's own failures that continuations decided in the last
              three rounds, no more are refuted than confirmed, by the upper end of the interval

The first needs no check of any step, as the place of a planted flaw is known. The second sees some
of what nobody thought of planting: a pointing that comes too early is refuted, one that comes too
late stays undecided, since nothing passes from there on. A trusted pointing gives credit, and never
teaches the critic. Leaves out the items (`game/lessons.py`) and the tests (`game/confirmation.py`).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple

from critic.measured import MeasuredCritique
from critic.value_drop import NOTHING, Tally, share_interval
from pipelines.game.bout import Bout, Status
from pipelines.settings.pointing_table import PointingTable

LEAST_TESTED = 0.5
NUM_ROUNDS = 3  # a round's audit has some 16 tasks


def leaves_open(table: PointingTable) -> bool:
    """Whether a critic points where no code confirms it, so that some of its word stays open."""
    return table.by_critic and table.confirm


class Trust:
    """What is known of the critic's pointings.

    Args:
        least: the share of its pointings at planted flaws that must be right; 1 trusts no critic.

    Attributes:
        audits: for each of its last audits the sum over tasks of the share of its pointings at
            planted flaws that are right, and the number of tasks.
        tests: confirmed ones among those that continuations decided, in each of the last rounds.
    """

    def __init__(self, least: float) -> None:
        self.least = least
        self.audits: list[tuple[float, int]] = []
        self.tests: list[Tally] = []

    @property
    def planted(self) -> tuple[float, int]:
        """All of the last audits together."""
        return math.fsum(right for right, _ in self.audits), sum(num for _, num in self.audits)

    @property
    def tested(self) -> Tally:
        """All of the last rounds together."""
        return sum(self.tests, NOTHING)

    @property
    def holds(self) -> bool:
        """Whether both conditions do."""
        is_precise = share_interval(*self.planted)[0] >= self.least
        return is_precise and self.tested.interval()[1] >= LEAST_TESTED

    def audit(self, critiques: Sequence[MeasuredCritique]) -> None:
        """Count the pointings of the present critic, at planted flaws alone."""
        by_task: dict[str, list[bool]] = {}
        for one in critiques:
            if one.kind is not None and one.accuses:
                by_task.setdefault(one.task, []).append(one.named == one.first_bad)
        right = math.fsum(sum(own) / len(own) for own in by_task.values())
        self.audits = [*self.audits, (right, len(by_task))][-NUM_ROUNDS:]

    def count(self, bouts: Sequence[Bout]) -> None:
        """Count what continuations decided of a round's pointings, each claim once."""
        told: dict[tuple[str, str], Status] = {}
        for bout in bouts:
            if bout.pointing is not None and bout.pointing.source == "critic":
                end = bout.solution.steps[bout.pointing.index].end
                told[bout.task.id, bout.solution.text[:end]] = bout.pointing.status
        counts = Counter(told.values())
        found = Tally(counts["confirmed"], counts["confirmed"] + counts["refuted"])
        self.tests = [*self.tests, found][-NUM_ROUNDS:]

    def row(self) -> dict[str, object]:
        """For a round's row; a share without anything counted is missing."""
        counts = {"planted": self.planted, "tested": astuple(self.tested)}
        shares = {f"trust/{name}": right / of for name, (right, of) in counts.items() if of}
        return {"trust/holds": self.holds, **shares}

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {"audits": self.audits, "tests": [astuple(tally) for tally in self.tests]}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.audits = [(right, num) for right, num in state["audits"]]
        self.tests = [Tally(*counts) for counts in state["tests"]]
