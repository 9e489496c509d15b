"""The critic's own critiques that were confirmed, kept so that it may imitate them later.

    flawed   every claim was confirmed, by code or by continuations, and the verifier refused the
             solution
    sound    the verifier passed the solution, and no step of it is known to be wrong

A critique that counts by trust or agreement alone is none of them: a critic that learned from its
own word would confirm itself. Leaves out the critiques that a teacher writes (`game/lessons.py`).
"""

import random
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from critic.critique import Critique
from pipelines.game.bout import Bout, RoundPlan
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Prompt

MAX_KEPT = 256  # of each class, the latest


@dataclass(frozen=True)
class ConfirmedCritique:
    """A critique that was confirmed, as the critic was asked and as it replied."""

    round: int
    sound: bool
    prompt: Prompt
    reply: str


class RecordedCritiques:
    """The confirmed critiques of the latest rounds.

    Args:
        referee: knows what is true, and how old a record may be.

    Attributes:
        row: the round's figures, as metrics.
    """

    def __init__(self, referee: Referee) -> None:
        self.referee, self.table = referee, referee.settings.feedback
        self.row = dict[str, object]()
        self.kept = {sound: deque[ConfirmedCritique](maxlen=MAX_KEPT) for sound in (True, False)}

    def collect(self, bouts: Sequence[Bout], round_: int) -> None:
        """Keep the bouts' confirmed critiques, each distinct solution's once.

        Args:
            bouts: those that the critic may learn from.
            round_: theirs; what is too old by then is forgotten.
        """
        oldest = round_ - self.table.max_age_rounds
        for kept in self.kept.values():
            while kept and kept[0].round < oldest:
                kept.popleft()
        for bout in {(b.task.id, b.solution.text): b for b in bouts}.values():
            if bout.judged is not None and self._is_confirmed(bout):
                prompt = self.referee.critique_prompt(bout.task, bout.solution)
                one = ConfirmedCritique(round_, bout.verdict.passed, prompt, bout.judged.text)
                self.kept[one.sound].append(one)

    def take(
        self, num: int, max_copies: int, plan: RoundPlan, rng: random.Random
    ) -> tuple[list[Prompt], list[str]]:
        """Draw what takes the place of a teacher's critiques: of both classes alike.

        Args:
            num: of the block's replies.
            max_copies: of each critique.
            plan: the round's, which may restrict the rounds to take from.
            rng: draws.

        Returns:
            Prompts and replies; fewer than the share asks for, by pairs, where there are too few.
        """
        self.row = {}
        allowed = {
            sound: [one for one in kept if _is_allowed(one, plan.fed_rounds)]
            for sound, kept in self.kept.items()
        }
        each = round(self.table.critiques_share * num) // 2
        each = min(each, *(len(own) * max_copies for own in allowed.values()))
        chosen = list[ConfirmedCritique]()
        for own in allowed.values():
            rng.shuffle(own)
            chosen += (own * max_copies)[:each]
        if chosen:
            self.row = {
                "feedback/critiques": len(chosen),
                "feedback/critiques_share": len(chosen) / num,
                "feedback/critiques_distinct": len(set(map(id, chosen))),
                "feedback/critiques_mean_age": sum(plan.round - one.round for one in chosen)
                / len(chosen),
            }
        return [one.prompt for one in chosen], [one.reply for one in chosen]

    def _is_confirmed(self, bout: Bout) -> bool:
        judged = bout.judged
        if judged is None or not isinstance(judged.critique, Critique) or not bout.judgeable:
            return False
        if judged.critique.verdict == "sound":
            return bout.verdict.passed and self.referee.lesson(bout).first_bad is None
        statuses = {claim.status for claim in judged.claims}
        return not bout.verdict.passed and statuses == {"confirmed"}

    def state_dict(self) -> list[dict[str, object]]:
        """What a later process needs to go on."""
        return [asdict(one) for kept in self.kept.values() for one in kept]

    def load_state_dict(self, state: Sequence[Mapping]) -> None:
        """Go on where `state_dict` was taken."""
        for kept in self.kept.values():
            kept.clear()
        for row in state:
            self.kept[row["sound"]].append(ConfirmedCritique(**row))


def _is_allowed(one: ConfirmedCritique, rounds: Collection[int] | None) -> bool:
    return rounds is None or one.round in rounds
