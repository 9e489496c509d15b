"""The critic's game: it judges known solutions and is rewarded for truth and calibration."""

import random
from collections.abc import Sequence

from critic.flaws import plant
from critic.reward import (
    CriticClassWeights,
    JudgedCritique,
    critic_reward,
    dsm2_reward,
    rlcr_reward,
    tango_reward,
)
from data.records import Task
from pipelines.game.bout import Bout, CritiqueItem
from pipelines.game.referee import Judging, judge_critique
from pipelines.rollouts.sample import Sample, Scored
from pipelines.training.trainer import RoleTrainer
from rewards.chain import ChainDialect
from rewards.verdict import Verdict


class CriticGame:
    """The critic's block: critiques of known solutions, rewarded for truth and calibration."""

    def __init__(self, judging: Judging, critic: RoleTrainer) -> None:
        self.judging, self.critic = judging, critic
        self.weights = CriticClassWeights()
        self.judged: list[JudgedCritique] = []

    def choose(self, bouts: Sequence[Bout], num: int, rng: random.Random) -> list[CritiqueItem]:
        """Draw distinct well-formed bouts, half of them flawed, a share of all by planting.

        The better the learner, the rarer its flaws: planted ones fill the half, else the critic
        would learn that everything is sound. Empty where no bout can be judged.
        """
        distinct = {(b.task.id, b.solution.text): b for b in bouts if _judgeable(b)}
        pool = [self.judging.item(b.task, b.solution, b.verdict.passed) for b in distinct.values()]
        rng.shuffle(pool)
        sound, flawed = [i for i in pool if i.sound], [i for i in pool if not i.sound]
        half = num // 2
        least_planted = round(num * self.judging.settings.critic.planted_share)
        planted = self._plant(sound, max(least_planted, half - len(flawed)), rng)
        flawed = planted + flawed[: half - len(planted)]
        chosen = _padded(sound, num - half, rng) + _padded(flawed, half, rng)
        if len(chosen) < num:  # one class is missing: better one-sided items than none
            chosen = _padded(chosen, num, rng)
        rng.shuffle(chosen)
        return chosen

    def _plant(
        self, sound: Sequence[CritiqueItem], num: int, rng: random.Random
    ) -> list[CritiqueItem]:
        if not isinstance(self.judging.dialect, ChainDialect):
            return []  # only chains can be corrupted by code so far
        items = []
        for item in sound[:num]:
            task = item.task
            flaw = plant(
                task, item.solution.text, rng, lambda text, task=task: self._verdict(task, text)
            )
            if flaw is not None:
                solution = self.judging.dialect.parse_solution(flaw.text, truncated=False)
                items.append(CritiqueItem(task, solution, False, flaw.step_id, planted=True))
        return items

    def _verdict(self, task: Task, text: str) -> Verdict:
        return self.judging.read(task, Sample(text, [], [], False))[1]

    def play(self, items: Sequence[CritiqueItem], purpose: str) -> list[JudgedCritique]:
        """Train one block on the items; returns every judged critique."""
        self.items, self.judged = items, []
        self.weights = self.weights.update([item.sound for item in items])
        prompts = [self.judging.critique_prompt(item.task, item.solution) for item in items]
        self.critic.play(prompts, self.score, purpose)
        return self.judged

    def score(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        """Check each critique against the truth: the role's `Scorer`."""
        scored = []
        for index, sample in zip(indices, samples, strict=True):
            judged = judge_critique(self.judging, self.items[index], sample)
            self.judged.append(judged)
            scored.append(Scored(self._reward(judged)))
        return scored

    def _reward(self, judged: JudgedCritique) -> float:
        preset = self.judging.settings.critic.reward
        if preset == "dsm2":
            return dsm2_reward(judged)
        if preset == "rlcr":
            return rlcr_reward(judged)
        if preset == "tango":
            return tango_reward(judged, self.weights)
        return critic_reward(judged)


def _padded(items: Sequence[CritiqueItem], num: int, rng: random.Random) -> list[CritiqueItem]:
    """The first `num` items, some of them again where there are fewer; none where there is none."""
    missing = max(0, num - len(items)) if items else 0
    return [*items[:num], *rng.choices(items, k=missing)] if items else []


def _judgeable(bout: Bout) -> bool:
    return bout.solution.well_formed and bout.verdict.outcome in ("correct", "incorrect")
