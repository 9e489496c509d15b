"""Champion and challenger: a round's training of the critic stays unless it made the critic worse.

Both judge the same solutions, of tasks that were held out of the round's lessons and whose truth no
critic had a say in: the champion before it trains, the challenger after. The champion's weights
come back where a measure in `DECIDES` is worse beyond its paired interval; the optimizer's state
stays, and the next round tries again. What the critic that stays says there is what it is trusted
by (`game/trust.py`). Leaves out the measures (`critic/calibration.py`).
"""

from collections.abc import Callable, Sequence

from critic.calibration import MeasuredCritique, compare
from pipelines.game.audit import measured
from pipelines.game.bout import CritiqueItem
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Player

Agree = Callable[[list[str]], list[str]]
DECIDES = ("processbench_f1", "brier", "false_accusations")
NUM_SOLUTIONS = 96  # an F1 that falls by a fifth shows beyond its interval


class Trial:
    """One round's trial of a challenger.

    Args:
        referee: knows the truth about the solutions.
        critic: the champion until it trains, the challenger after that.
        items: the solutions.
        purpose: names the trial in the seeds.

    Attributes:
        standing: what the critic said that stands after the trial.
        num_tokens: generated so far.
    """

    def __init__(
        self, referee: Referee, critic: Player, items: Sequence[CritiqueItem], purpose: str
    ) -> None:
        self.referee, self.critic, self.items, self.purpose = referee, critic, items, purpose
        self.num_tokens = 0
        self._champion = critic.weights_copy()
        self.standing = self._measure("champion")

    def decide(self, agree: Agree) -> list[str]:
        """Let the challenger stand, or give the critic the champion's weights.

        Args:
            agree: rank 0's list in every process, given one's own.

        Returns:
            The measures by which the challenger is worse; empty where it stays.
        """
        challenger = self._measure("challenger")
        changes = compare(self.standing, challenger)
        worse = agree([name for name in DECIDES if changes[name].verdict == "worse"])
        if worse:
            self.critic.put_back(self._champion)
        else:
            self.standing = challenger
        return worse

    def replace_champion(self) -> None:
        """Let the challenger stand, whatever it says."""
        self.standing = self._measure("challenger")

    def _measure(self, who: str) -> list[MeasuredCritique]:
        prompts = [self.referee.critique_prompt(item.task, item.solution) for item in self.items]
        drawn = self.referee.ask(self.critic, prompts, f"{self.purpose}/{who}")
        found = []
        for item, (sample,) in zip(self.items, drawn, strict=True):
            self.num_tokens += len(sample.token_ids)
            found.append(measured(item, item.planted or None, self.referee.check(item, sample)))
        return found
