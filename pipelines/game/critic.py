"""The critic's game: it judges known solutions and is rewarded for truth and calibration.

Leaves out how the block is trained (a `Player` does that), and the reward's formulas
(`critic/reward.py`).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from critic.flaws import SINGLE_FLAWS, plant
from critic.reward import (
    CriticClassWeights,
    JudgedCritique,
    critic_reward,
    dsm2_reward,
    rlcr_reward,
    tango_reward,
)
from data.records import Task
from pipelines.game.bout import Bout, CritiqueItem, RoundPlan
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Player, Sample, Scored
from rewards.chain import ChainDialect
from rewards.verdict import Verdict


class CriticGame:
    """Critiques of the learner's solutions and of planted flaws.

    Args:
        referee: knows the truth about them.
        critic: judges.
        remark: receives what a reader of the run should know.

    Attributes:
        weights: of the two classes, which the "tango" reward balances.
    """

    def __init__(
        self, referee: Referee, critic: Player, remark: Callable[[str], None] = lambda text: None
    ) -> None:
        self.referee, self.critic, self.remark = referee, critic, remark
        self.weights = CriticClassWeights()

    def choose(self, bouts: Sequence[Bout], plan: RoundPlan) -> list[CritiqueItem]:
        """The items of the round's block; empty where it has no steps or no bout can be judged."""
        steps = self.referee.settings.critic.steps_per_round
        if steps == 0:
            return []
        rng = random.Random(f"{self.referee.settings.run.seed}/{plan.round}")
        items = self.draw(bouts, self.critic.prompts_per_block(steps), rng)
        if not items:  # nothing well-formed: the monitor must judge that, not an error
            self.remark("no critic block: no items")
        return items

    def draw(self, bouts: Sequence[Bout], num: int, rng: random.Random) -> list[CritiqueItem]:
        """Draw distinct well-formed bouts, half of them flawed, a share of all by planting.

        The better the learner, the rarer its flaws: planted ones fill the half, else the critic
        would learn that everything is sound. Empty where no bout can be judged.
        """
        distinct = {(b.task.id, b.solution.text): b for b in bouts if _judgeable(b)}
        pool = [self.referee.item(b.task, b.solution, b.verdict.passed) for b in distinct.values()]
        rng.shuffle(pool)
        sound, flawed = [i for i in pool if i.sound], [i for i in pool if not i.sound]
        half = num // 2
        least_planted = round(num * self.referee.settings.critic.planted_share)
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
        if not isinstance(self.referee.dialect, ChainDialect):
            return []  # only chains can be corrupted by code so far
        items = []
        for item in sound[:num]:
            task = item.task
            text = item.solution.text
            verify = partial(self._verdict, task)
            flaw = plant(task, text, rng, verify, SINGLE_FLAWS)  # those that make the answer wrong
            if flaw is not None:
                solution = self.referee.dialect.parse_solution(flaw.text, truncated=False)
                items.append(CritiqueItem(task, solution, False, flaw.step_id, planted=True))
        return items

    def _verdict(self, task: Task, text: str) -> Verdict:
        return self.referee.read(task, Sample(text, [], [], False))[1]

    def play(self, items: Sequence[CritiqueItem], plan: RoundPlan) -> list[JudgedCritique]:
        """Train one block on the items; returns every judged critique of this process."""
        if not items:
            return []
        self.weights = self.weights.update([item.sound for item in items])
        block = CriticBlock(self.referee, items, self.weights)
        prompts = [self.referee.critique_prompt(item.task, item.solution) for item in items]
        self.critic.play(prompts, block, plan.purpose)
        return block.judged

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {"sound_share": self.weights.sound_share}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on where `state_dict` was taken."""
        self.weights = CriticClassWeights(sound_share=state["sound_share"])


@dataclass
class CriticBlock:
    """One block's scorer: checks each critique against the truth, and carries the judgements.

    Attributes:
        judged: critiques scored so far, of this process.
    """

    referee: Referee
    items: Sequence[CritiqueItem]
    weights: CriticClassWeights
    judged: list[JudgedCritique] = field(default_factory=list)

    def __call__(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        """Score critiques; the `Scorer` of the critic's block."""
        judged = [
            self.referee.judge(self.items[index], sample)
            for index, sample in zip(indices, samples, strict=True)
        ]
        self.judged += judged
        return [Scored(self._reward(one)) for one in judged]

    def _reward(self, judged: JudgedCritique) -> float:
        preset = self.referee.settings.critic.reward
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
