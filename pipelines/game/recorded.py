"""The critic's own critiques that were confirmed, kept so that it may imitate them later.

Each is of a solution that the verifier refused: its first claim was confirmed, by code or by
continuations, and none was refuted. One that counts by trust or agreement alone is not among them:
a critic that learned from its own word would confirm itself. Nobody criticises a solution that
passed, so that sound ones stay the teacher's (`game/lessons.py`), whose flawed ones these replace.
"""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from critic.critique import Critique
from pipelines.game.bout import Bout, RoundPlan
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Prompt

MAX_KEPT = 512  # the latest, which every commit saves


@dataclass(frozen=True)
class ConfirmedCritique:
    """A critique that was confirmed, as the critic was asked and as it replied."""

    round: int
    prompt: Prompt
    reply: str


class RecordedCritiques:
    """The confirmed critiques of the latest rounds.

    Args:
        referee: writes the critic's prompts, and knows how old a record may be.
    """

    def __init__(self, referee: Referee) -> None:
        self.referee, self.table = referee, referee.settings.feedback
        self.kept = deque[ConfirmedCritique](maxlen=MAX_KEPT)

    def collect(self, bouts: Sequence[Bout], round_: int) -> None:
        """Keep the bouts' confirmed critiques, each distinct solution's once.

        Args:
            bouts: those that the critic may learn from.
            round_: theirs; what is too old by then is forgotten.
        """
        while self.kept and self.kept[0].round < round_ - self.table.max_age_rounds:
            self.kept.popleft()
        for bout in {(b.task.id, b.solution.text): b for b in bouts}.values():
            if bout.judged is not None and _is_confirmed(bout):
                prompt = self.referee.critique_prompt(bout.task, bout.solution)
                self.kept.append(ConfirmedCritique(round_, prompt, bout.judged.text))

    def take(
        self, num: int, max_copies: int, plan: RoundPlan, rng: random.Random
    ) -> list[ConfirmedCritique]:
        """Draw what takes the place of a teacher's critiques.

        Args:
            num: critiques that the block imitates.
            max_copies: of each.
            plan: the round's, which may restrict the rounds to take from.
            rng: draws.

        Returns:
            As many as `feedback.critiques_share` asks for; fewer where there are too few.
        """
        allowed = [
            one for one in self.kept if plan.fed_rounds is None or one.round in plan.fed_rounds
        ]
        rng.shuffle(allowed)
        return (allowed * max_copies)[: round(self.table.critiques_share * num)]

    def state_dict(self) -> list[dict[str, object]]:
        """What a later process needs to go on."""
        return [asdict(one) for one in self.kept]

    def load_state_dict(self, state: Sequence[Mapping]) -> None:
        """Go on where `state_dict` was taken."""
        self.kept = deque((ConfirmedCritique(**row) for row in state), maxlen=MAX_KEPT)


def figures(taken: Sequence[ConfirmedCritique], num: int, round_: int) -> dict[str, object]:
    """What of a block of `num` critiques is the critic's own, as metrics; none where nothing is."""
    if not taken:
        return {}
    return {
        "feedback/critiques": len(taken),
        "feedback/critiques_distinct": len({one.prompt if isinstance(one.prompt, str) else
                                            str(one.prompt) for one in taken}),
        "feedback/critiques_share": len(taken) / num,
        "feedback/critiques_mean_age": sum(round_ - one.round for one in taken) / len(taken),
    }  # fmt: skip


def _is_confirmed(bout: Bout) -> bool:
    """Whether a critique is right about the first flaw of a solution that failed."""
    judged = bout.judged
    if judged is None or not isinstance(judged.critique, Critique):
        return False
    if not bout.judgeable or bout.verdict.passed or not judged.claims:
        return False
    first, *others = (claim.status for claim in judged.claims)
    return first == "confirmed" and "refuted" not in others
