"""What the critic learns from: solutions whose truth is known, in balanced classes.

    sound      the learner's solutions that passed; of tasks that it did not solve, those that code
               writes as it did for the cold start
    flawed     its failures, first those whose first flaw is located; of a share, and for what is
               missing, planted flaws of many kinds, whose place is known

The better the learner, the rarer its failures: planted ones fill their half, else the critic would
learn that everything is sound. Leaves out how the critic is trained (`game/critic.py`) and how
flaws are planted (`critic/flaws.py`).
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from critic.flaws import plant
from critic.pleas import with_plea
from data.records import Task
from pipelines.game.bout import Bout, CritiqueItem
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Prompt, Sample
from rewards.chain import ChainDialect
from rewards.verdict import Verdict

PLEA_SHARE = 0.1  # of the items


class Lessons:
    """Draws the critic's items from bouts.

    Args:
        referee: knows the truth about them.
    """

    def __init__(self, referee: Referee) -> None:
        self.referee = referee
        self.table = referee.settings.critic

    def items(self, bouts: Sequence[Bout], num: int, rng: random.Random) -> list[CritiqueItem]:
        """Items to be rewarded for; the flaws of some may stand at an unknown step.

        A tenth of them, where the dialect has room for words, are there twice: alone, and with an
        assertion of their own worth or a plea to the judge.
        """
        items = self._balanced(self._pool(bouts, rng), num, rng)
        if not self.referee.dialect.conversational:
            return items
        for place in range(0, 2 * int(PLEA_SHARE * len(items)), 2):
            item = items[place]
            text = with_plea(item.solution.text, rng)
            solution = self.referee.dialect.parse_solution(text, truncated=False)
            items[place + 1] = replace(item, solution=solution, twin=place)
        return items

    def to_imitate(
        self, bouts: Sequence[Bout], num: int, rng: random.Random
    ) -> tuple[list[Prompt], list[str]]:
        """Prompts, and the true critiques that a privileged teacher writes: it knows the flaw.

        Empty where nothing of which a true critique could be written is known.
        """
        pool = [item for item in self._pool(bouts, rng) if item.sound or item.first_bad is not None]
        chosen = self._balanced(pool, num, rng)
        return [self._prompt(item) for item in chosen], [self._reply(item, rng) for item in chosen]

    def _pool(self, bouts: Sequence[Bout], rng: random.Random) -> list[CritiqueItem]:
        distinct = {(b.task.id, b.solution.text): b for b in bouts if _judgeable(b)}
        pool = [self.referee.lesson(bout) for bout in distinct.values()]
        pool += self._written(bouts)
        rng.shuffle(pool)
        return pool

    def _written(self, bouts: Sequence[Bout]) -> list[CritiqueItem]:
        """Right solutions of the tasks that nobody solved, where code can write them.

        A learner that seldom succeeds would else leave the critic a handful of sound solutions to
        learn from, again and again.
        """
        if self.referee.dialect.conversational or not self.table.balance_classes:
            return []
        solved = {bout.task.id for bout in bouts if bout.verdict.passed}
        tasks = {bout.task.id: bout.task for bout in bouts if bout.task.id not in solved}
        items = []
        for task in tasks.values():
            text = self.referee.dialect.write_solution(task, random.Random(0), 0.0)
            solution = self.referee.dialect.parse_solution(text, truncated=False)
            items.append(CritiqueItem(task, solution, True, None))
        return items

    def _balanced(
        self, pool: Sequence[CritiqueItem], num: int, rng: random.Random
    ) -> list[CritiqueItem]:
        """As many sound as flawed ones; one-sided where one class is missing, better than none."""
        if not self.table.balance_classes:
            return _padded(pool, num, rng)
        sound = [item for item in pool if item.sound and item.first_bad is None]
        flawed = [item for item in pool if not item.sound]
        flawed.sort(key=lambda item: item.first_bad is None)  # stable: located ones first
        half = num // 2
        least_planted = round(num * self.table.planted_share)
        planted = self._plant(sound, max(least_planted, half - len(flawed)), rng)
        flawed = planted + flawed[: max(0, half - len(planted))]
        chosen = _padded(sound, num - half, rng) + _padded(flawed, half, rng)
        if len(chosen) < num:
            chosen = _padded(chosen, num, rng)
        rng.shuffle(chosen)
        return chosen

    def _plant(
        self, sound: Sequence[CritiqueItem], num: int, rng: random.Random
    ) -> list[CritiqueItem]:
        if not isinstance(self.referee.dialect, ChainDialect) or not sound:
            return []  # only chains can be corrupted by code so far
        items = []
        for item in _padded(sound, num, rng):
            verify = partial(self._verdict, item.task)
            flaw = plant(item.task, item.solution.text, rng, verify)
            if flaw is not None:
                solution = self.referee.dialect.parse_solution(flaw.text, truncated=False)
                items.append(
                    CritiqueItem(
                        item.task, solution, flaw.sound, flaw.step_id, flaw.kind, flaw.right_step
                    )
                )
        return items

    def _verdict(self, task: Task, text: str) -> Verdict:
        return self.referee.read(task, Sample(text, [], [], False))[1]

    def _prompt(self, item: CritiqueItem) -> Prompt:
        return self.referee.critique_prompt(item.task, item.solution)

    def _reply(self, item: CritiqueItem, rng: random.Random) -> str:
        known = (item.first_bad, item.right_step, item.sound)
        return self.referee.critiques.write_critique(item.solution, *known, rng)


def _padded(items: Sequence[CritiqueItem], num: int, rng: random.Random) -> list[CritiqueItem]:
    """The first `num` items, some of them again where there are fewer; none where there is none."""
    missing = max(0, num - len(items)) if items else 0
    return [*items[:num], *rng.choices(items, k=missing)] if items else []


def _judgeable(bout: Bout) -> bool:
    return bout.solution.well_formed and bout.verdict.outcome in ("correct", "incorrect")
