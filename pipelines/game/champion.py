"""Champion and challenger: a round's training of the critic stays unless it made the critic worse.

The challenger judges solutions of this round that the champion, the critic of the round's
beginning, judged when it pointed. Both are measured by single critiques on the same solutions, by
what training may know of them. The champion's weights come back where a measure in `DECIDES` is
worse beyond its paired interval; the optimizer's state stays, and the next round tries again.
Leaves out the measures (`critic/calibration.py`).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from critic.calibration import MeasuredCritique, compare
from pipelines.game.audit import measured
from pipelines.game.bout import Bout, CritiqueItem, RoundPlan
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Player, Weights

Agree = Callable[[list[str]], list[str]]
DECIDES = ("processbench_f1", "brier", "false_accusations")
MAX_SOLUTIONS = 96


class Champion:
    """The trial of a challenger.

    Args:
        referee: knows the truth about solutions.
        critic: the champion until it trains, the challenger after that.
        agree: rank 0's list in every process, given one's own.
    """

    def __init__(self, referee: Referee, critic: Player, agree: Agree) -> None:
        self.referee, self.critic, self.agree = referee, critic, agree
        self._num_tokens = 0

    def weights(self, bouts: Sequence[Bout]) -> Weights | None:
        """A copy of the champion's weights; None where there will be no trial."""
        wanted = self.referee.settings.critic.champion and any(b.judged for b in bouts)
        return self.critic.weights_copy() if wanted else None

    def lost(self, bouts: Sequence[Bout], plan: RoundPlan) -> list[str]:
        """The measures by which the challenger is worse; empty where it stays."""
        distinct = {(b.task.id, b.solution.text): b for b in bouts if b.judged is not None}
        rng = random.Random(f"{self.referee.settings.run.seed}/champion/{plan.round}")
        tried = rng.sample(list(distinct.values()), min(MAX_SOLUTIONS, len(distinct)))
        items = [_by_its_answer(self.referee.lesson(bout)) for bout in tried]
        prompts = [self.referee.critique_prompt(item.task, item.solution) for item in items]
        drawn = self.critic.sample(prompts, f"{plan.purpose}/champion")
        before: list[MeasuredCritique] = []
        after: list[MeasuredCritique] = []
        for bout, item, (sample,) in zip(tried, items, drawn, strict=True):
            assert bout.judged is not None, "only judged solutions are tried"
            self._num_tokens += len(sample.token_ids)
            before.append(measured(item, None, bout.judged))
            after.append(measured(item, None, self.referee.check(item, sample)))
        changes = compare(before, after)
        return self.agree([name for name in DECIDES if changes[name].verdict == "worse"])

    def take_tokens(self) -> int:
        """Tokens generated since the last call."""
        taken, self._num_tokens = self._num_tokens, 0
        return taken


def _by_its_answer(item: CritiqueItem) -> CritiqueItem:
    """A solution that passed counts as sound, even by wrong steps."""
    return replace(item, first_bad=None) if item.sound else item
