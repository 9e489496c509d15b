"""What the critic learns from: solutions whose truth is known, in balanced classes.

    sound      the learner's solutions that passed; of tasks that it did not solve, those that code
               writes as it did for the cold start
    flawed     planted flaws of many kinds, whose place is known, for a share; then the learner's
               located failures; more planted ones where those are few, and unlocated failures
               where nothing can be planted

The better the learner, the rarer its failures: planted ones fill their half, else the critic would
learn that everything is sound. A part of the round's tasks is held out, for the trial of what was
learned (`game/champion.py`). Leaves out how the critic is trained (`game/critic.py`) and how flaws
are planted (`critic/flaws.py`).
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from critic.flaws import plant
from critic.pleas import with_plea
from data.records import Task
from pipelines.game.bout import Bout, CritiqueItem
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Prompt, Respondent, Sample
from rewards.chain import ChainDialect
from rewards.verdict import Verdict

PLEA_SHARE = 0.1  # of the items
HELD_OUT_SHARE = 0.2  # of a round's tasks
MAX_COPIES = 8  # of one solution in a block: beyond that the critic learns it by heart


class Lessons:
    """Draws the critic's items from bouts.

    Args:
        referee: knows the truth about them.
        critic: whose context must hold an item.
    """

    def __init__(self, referee: Referee, critic: Respondent) -> None:
        self.referee, self.critic = referee, critic
        self.table = referee.settings.critic
        self.can_plant = isinstance(referee.dialect, ChainDialect)  # no other text so far

    def split(self, bouts: Sequence[Bout], rng: random.Random) -> tuple[list[Bout], list[Bout]]:
        """The bouts to learn from, and those of the tasks that are held out."""
        tasks = sorted({bout.task.id for bout in bouts})
        held = set(rng.sample(tasks, round(HELD_OUT_SHARE * len(tasks))))
        return [b for b in bouts if b.task.id not in held], [b for b in bouts if b.task.id in held]

    def items(self, bouts: Sequence[Bout], num: int, rng: random.Random) -> list[CritiqueItem]:
        """Items to be rewarded for; the flaws of some may stand at an unknown step.

        A tenth of them, where the dialect has room for words, are there twice: alone, and with an
        assertion of their own worth or a plea to the judge.
        """
        items = self._chosen(self._taught(bouts, rng), num, rng)
        if not self.referee.dialect.conversational:
            return items
        for place in range(0, 2 * int(PLEA_SHARE * len(items)), 2):
            item = items[place]
            text = with_plea(item.solution, rng, self.referee.dialect.name == "tagged")
            solution = self.referee.dialect.parse_solution(text, truncated=False)
            pleading = replace(item, solution=solution, twin=place)
            if self._has_room(pleading):
                items[place + 1] = pleading
        return items

    def to_imitate(
        self,
        bouts: Sequence[Bout],
        num: int,
        rng: random.Random,
        own: Sequence[tuple[Prompt, str]] = (),
    ) -> tuple[list[Prompt], list[str], int]:
        """Prompts, and the true critiques that a privileged teacher writes: it knows the flaw.

        Empty where a class that should be balanced is missing, or so rare that the critic would
        learn its few by heart.

        Args:
            bouts: to learn from.
            num: critiques.
            rng: draws.
            own: critiques of flawed solutions that take the place of as many of the teacher's.

        Returns:
            Prompts, replies, and how many of these are the critic's own.
        """
        chosen = self._chosen(self._known(self._taught(bouts, rng)), num, rng)
        classes = Counter(item.sound for item in chosen)
        for sound in (True, False) if self.table.balance_classes else ():
            distinct = {item.solution.text for item in chosen if item.sound == sound}
            if len(distinct) * MAX_COPIES < classes[sound] or not distinct:
                return [], [], 0
        pairs = [(self._prompt(item), self._reply(item, rng)) for item in chosen]
        places = [place for place, item in enumerate(chosen) if not item.sound][: len(own)]
        for place, given in zip(places, own, strict=False):
            pairs[place] = given
        return [prompt for prompt, _ in pairs], [reply for _, reply in pairs], len(places)

    def for_trial(self, bouts: Sequence[Bout], num: int, rng: random.Random) -> list[CritiqueItem]:
        """Items whose truth no critic had a say in: a trial by its own words would flatter it.

        Balanced, and with planted flaws, whatever the critic is taught.
        """
        unclaimed = [b for b in bouts if b.pointing is None or b.pointing.source != "critic"]
        pool = self._pool(unclaimed, self._written(bouts), rng)
        chosen = self._balanced(self._known(pool), num, rng)
        chosen = [item for item in chosen if not item.sound or item.first_bad is None]
        return list({(item.task.id, item.solution.text): item for item in chosen}.values())

    def planted(self, tasks: Sequence[Task], rng: random.Random) -> list[CritiqueItem]:
        """A right solution of each task, spoilt by a flaw, where code can do both."""
        items = self._plant(self._write(tasks), len(tasks), rng)
        return [item for item in items if not item.sound and self._has_room(item)]

    def _known(self, pool: Sequence[CritiqueItem]) -> list[CritiqueItem]:
        """Those of which a true critique can be written."""
        needs_step = not self.referee.dialect.conversational  # a chain's critique recomputes it
        return [
            item for item in pool
            if (item.sound if item.first_bad is None else item.right_step or not needs_step)
        ]  # fmt: skip

    def _taught(self, bouts: Sequence[Bout], rng: random.Random) -> list[CritiqueItem]:
        """What may be taught; right solutions are written where classes are balanced."""
        written = self._written(bouts) if self.table.balance_classes else []
        return self._pool(bouts, written, rng)

    def _pool(
        self, bouts: Sequence[Bout], written: Sequence[CritiqueItem], rng: random.Random
    ) -> list[CritiqueItem]:
        distinct = {(b.task.id, b.solution.text): b for b in bouts if b.judgeable}
        pool = [self.referee.lesson(bout) for bout in distinct.values()]
        pool = [item for item in [*pool, *written] if self._has_room(item)]
        rng.shuffle(pool)
        return pool

    def _written(self, bouts: Sequence[Bout]) -> list[CritiqueItem]:
        """Right solutions of the tasks that nobody solved, where code can write them.

        A learner that seldom succeeds would else leave the critic a handful of sound solutions to
        learn from, again and again.
        """
        if self.referee.dialect.conversational:
            return []
        solved = {bout.task.id for bout in bouts if bout.verdict.passed}
        tasks = {bout.task.id: bout.task for bout in bouts if bout.task.id not in solved}
        return self._write(tasks.values())

    def _write(self, tasks: Iterable[Task]) -> list[CritiqueItem]:
        items = []
        for task in tasks:
            text = self.referee.dialect.write_solution(task, random.Random(0), 0.0)
            solution = self.referee.dialect.parse_solution(text, truncated=False)
            items.append(CritiqueItem(task, solution, True, None))
        return items

    def _chosen(
        self, pool: Sequence[CritiqueItem], num: int, rng: random.Random
    ) -> list[CritiqueItem]:
        if self.table.balance_classes:
            return self._balanced(pool, num, rng)
        return _padded(pool, num, rng)

    def _balanced(
        self, pool: Sequence[CritiqueItem], num: int, rng: random.Random
    ) -> list[CritiqueItem]:
        """As many sound as flawed ones; one-sided where one class is missing, better than none.

        Failures that nobody located come last: of those any step could be named for the same
        reward.
        """
        sound = [item for item in pool if item.sound and item.first_bad is None]
        flawed = [item for item in pool if not item.sound]
        flawed.sort(key=lambda item: item.first_bad is None)  # stable: located ones first
        num_located = sum(item.first_bad is not None for item in flawed)
        half = num // 2
        least_planted = round(num * self.table.planted_share)
        planted = self._plant(sound, max(least_planted, half - num_located), rng)
        planted = [item for item in planted if self._has_room(item)]
        flawed = planted + flawed[: max(0, half - len(planted))]
        chosen = _padded(sound, num - half, rng) + _padded(flawed, half, rng)
        if len(chosen) < num:
            chosen = _padded(chosen, num, rng)
        rng.shuffle(chosen)
        return chosen

    def _plant(
        self, sound: Sequence[CritiqueItem], num: int, rng: random.Random
    ) -> list[CritiqueItem]:
        if not self.can_plant or not sound:
            return []
        items = []
        for item in _padded(sound, num, rng):
            verify = partial(self._verdict, item.task)
            flaw = plant(item.task, item.solution.text, rng, verify)
            if flaw is not None:
                solution = self.referee.dialect.parse_solution(flaw.text, truncated=False)
                items.append(
                    CritiqueItem(
                        item.task,
                        solution,
                        flaw.sound,
                        flaw.step_id,
                        flaw.kind,
                        flaw.right_step,
                        flaw.later,
                    )
                )
        return items

    def _verdict(self, task: Task, text: str) -> Verdict:
        return self.referee.read(task, Sample(text, [], [], False))[1]

    def _has_room(self, item: CritiqueItem) -> bool:
        return self.referee.critic_has_room(self.critic, self._prompt(item))

    def _prompt(self, item: CritiqueItem) -> Prompt:
        return self.referee.critique_prompt(item.task, item.solution)

    def _reply(self, item: CritiqueItem, rng: random.Random) -> str:
        known = (item.first_bad, item.right_step, item.sound)
        write = partial(
            self.referee.critiques.write_critique, item.solution, *known, later=item.later
        )
        worked = self.referee.worked_steps(item)
        if worked:  # as long as any other draw: a critic that is cut off says nothing
            length = self.critic.prompt_length(write(rng=random.Random(0), worked=worked))
            worked = worked if length < self.table.max_completion_length else {}
        return write(rng=rng, worked=worked)


def _padded(items: Sequence[CritiqueItem], num: int, rng: random.Random) -> list[CritiqueItem]:
    """The first `num` items, some of them again where there are fewer; none where there is none."""
    missing = max(0, num - len(items)) if items else 0
    return [*items[:num], *rng.choices(items, k=missing)] if items else []
