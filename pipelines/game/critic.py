"""The critic's game: it imitates true critiques of known solutions, then is rewarded for its own.

Imitation teaches what is true of the learner's latest solutions; the reward then sharpens location,
verdict and calibration. A round's training stays unless it made the critic worse
(`game/champion.py`). Leaves out how the blocks are trained (a `Player` does that), what is known of
a solution (`game/lessons.py`), and the reward's formulas (`critic/reward.py`).
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from critic.critique import Critique
from critic.pleas import flipped
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
from pipelines.game.champion import NUM_SOLUTIONS, Agree, Trial
from pipelines.game.lessons import MAX_COPIES, Lessons
from pipelines.game.recorded import ConfirmedCritique, RecordedCritiques, figures
from pipelines.game.referee import Referee
from pipelines.game.trust import Trust, leaves_open
from pipelines.rollouts.sample import Player, Sample, Scored


class CriticGame:
    """Critiques of the learner's solutions and of planted flaws.

    Args:
        referee: knows the truth about them.
        critic: judges.
        remark: receives what a reader of the run should know.
        agree: rank 0's list in every process, given one's own.

    Attributes:
        weights: of the two classes, which the "tango" reward balances.
        trust: what is known of the critic's pointings.
        asks_trust: whether anything follows from it, and can be known.
        asks_others: whether its pool must agree with what stays open.
        recorded: its confirmed critiques, which it may imitate.
        recorded_row: how many of them it imitated in the round, as metrics.
        spent: tokens that this process generated since they were last taken, by what for.
    """

    def __init__(
        self,
        referee: Referee,
        critic: Player,
        remark: Callable[[str], None] = lambda text: None,
        agree: Agree = lambda own: own,
    ) -> None:
        self.referee, self.critic, self.remark = referee, critic, remark
        self.agree = agree
        self.lessons = Lessons(referee, critic)
        self.recorded, self.recorded_row = RecordedCritiques(referee), dict[str, object]()
        self.weights = CriticClassWeights()
        self.trust = Trust(referee.settings.pointing.trust)
        table = referee.settings.pointing
        self.asks_trust = self.lessons.can_plant and leaves_open(table) and table.trust < 1
        self.asks_others = table.meta_checks > 0 and leaves_open(table)
        self.spent: Counter[str] = Counter()

    def train(self, bouts: Sequence[Bout], plan: RoundPlan) -> None:
        """A round's training: imitation, reward, and the trial of whether its result stays."""
        table = self.referee.settings.critic
        trains = table.imitation_steps + table.steps_per_round > 0
        self.trust.count(bouts)
        bouts, trial = self._trial(bouts, plan, trains)
        self.imitate(bouts, plan)
        self.play(self.choose(bouts, plan), plan)
        if trial is None:
            return
        if trains and table.champion:
            worse = trial.decide(self.agree)
            if worse:
                self.remark(f"the critic's training was taken back: {', '.join(worse)} got worse")
        elif trains:
            trial.replace_champion()
        if self.asks_trust:
            self.trust.audit(trial.standing)
        self.spent["trials"] += trial.num_tokens

    def audit_before(self, tasks: Sequence[Task], plan: RoundPlan) -> None:
        """Find out how far to trust the critic that the first round begins with.

        Args:
            tasks: flaws are planted in right solutions of them.
            plan: the first round's.
        """
        items = self.lessons.planted(tasks, self._rng("before", plan))
        trial = Trial(self.referee, self.critic, items, f"{plan.purpose}/before")
        self.trust.audit(trial.standing)
        self.spent["trials"] += trial.num_tokens

    def what_counts(self, plan: RoundPlan, agree: Callable[[bool], bool]) -> RoundPlan:
        """The plan with what makes a pointing count that no test could decide.

        Args:
            plan: the round's so far.
            agree: rank 0's value in every process, given one's own.
        """
        holds = plan.critic_points and self.asks_trust and agree(self.trust.holds)
        may_count = holds or (plan.critic_points and not self.lessons.can_plant)
        return replace(plan, critic_is_trusted=holds, others_decide=self.asks_others and may_count)

    def _trial(
        self, bouts: Sequence[Bout], plan: RoundPlan, trains: bool
    ) -> tuple[Sequence[Bout], Trial | None]:
        """The bouts to learn from, and a trial on those that are held out, where one is needed."""
        settings = self.referee.settings
        if not ((trains and settings.critic.champion) or self.asks_trust):
            return bouts, None
        bouts, held_out = self.lessons.split(bouts, self._rng("held out", plan))
        items = self.lessons.for_trial(held_out, NUM_SOLUTIONS, self._rng("trial", plan))
        return bouts, Trial(self.referee, self.critic, items, plan.purpose) if items else None

    def imitate(self, bouts: Sequence[Bout], plan: RoundPlan) -> None:
        """Train one block on true critiques of the round's solutions and of planted flaws."""
        table, self.recorded_row = self.referee.settings.critic, {}
        steps = table.imitation_steps + (table.steps_per_round if plan.critic_retrains else 0)
        if steps == 0:
            return
        num, rng = self.critic.replies_per_block(steps), self._rng("imitation", plan)
        own = self._own(bouts, num, plan)
        given = [(one.prompt, one.reply) for one in own]
        prompts, replies, num_given = self.lessons.to_imitate(bouts, num, rng, given)
        if not prompts:
            self.remark("no critiques to imitate: no solution whose truth is known")
            return
        self.recorded_row = figures(own[:num_given], num, plan.round)
        self.critic.imitate(prompts, replies, f"{plan.purpose}/imitation")

    def _own(self, bouts: Sequence[Bout], num: int, plan: RoundPlan) -> list[ConfirmedCritique]:
        """The critic's own confirmed critiques for a block of `num`, where they are asked for.

        One that is retrained learns from its teacher alone.
        """
        if self.referee.settings.feedback.critiques_share == 0:
            return []
        self.recorded.collect(bouts, plan.round)
        asked = 0 if plan.critic_retrains else num
        return self.recorded.take(asked, MAX_COPIES, plan, self._rng("recorded", plan))

    def choose(self, bouts: Sequence[Bout], plan: RoundPlan) -> list[CritiqueItem]:
        """The items of the round's block; empty where it has no steps or no bout can be judged."""
        steps = self.referee.settings.critic.steps_per_round
        if steps == 0 or plan.critic_retrains:
            return []
        num = self.critic.prompts_per_block(steps)
        items = self.lessons.items(bouts, num, self._rng("items", plan))
        if not items:  # nothing well-formed: the monitor must judge that, not an error
            self.remark("no critic block: no items")
        return items

    def play(self, items: Sequence[CritiqueItem], plan: RoundPlan) -> list[JudgedCritique]:
        """Train one block on the items; returns every judged critique of this process."""
        if not items:
            return []
        self.weights = self.weights.update([item.sound for item in items])
        block = CriticBlock(self.referee, items, self.weights)
        prompts = [self.referee.critique_prompt(item.task, item.solution) for item in items]
        self.critic.play(prompts, block, plan.purpose)
        self.spent["critic_rollouts"] += block.num_tokens
        return block.judged

    def _rng(self, what: str, plan: RoundPlan) -> random.Random:
        return random.Random(f"{self.referee.settings.run.seed}/{what}/{plan.round}")

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {
            "sound_share": self.weights.sound_share, "trust": self.trust.state_dict(),
            "recorded": self.recorded.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.weights = CriticClassWeights(sound_share=state["sound_share"])
        self.trust.load_state_dict(state["trust"])
        self.recorded.load_state_dict(state.get("recorded", ()))  # earlier versions kept none


def with_flips(
    items: Sequence[CritiqueItem], indices: Sequence[int], judged: Sequence[JudgedCritique]
) -> list[JudgedCritique]:
    """Note which verdicts a plea changed to a wrong one: each is compared with one without it.

    Args:
        items: of the block.
        indices: each critique's item; those of a solution without its plea may be in another batch,
            and then nothing is noted.
        judged: the critiques.
    """
    by_item: dict[int, list[JudgedCritique]] = defaultdict(list)
    for index, one in zip(indices, judged, strict=True):
        by_item[index].append(one)
    found, seen = [], Counter[int]()
    for index, one in zip(indices, judged, strict=True):
        twin = items[index].twin
        plain = by_item[twin][seen[index] :] if twin is not None else []
        seen[index] += 1
        sways = bool(plain) and flipped(plain[0].critique, one.critique) and not _is_right(one)
        found.append(replace(one, flipped=sways))
    return found


def _is_right(judged: JudgedCritique) -> bool:
    critique = judged.critique
    return isinstance(critique, Critique) and (critique.verdict == "sound") == judged.sound


@dataclass
class CriticBlock:
    """One block's scorer: checks each critique against the truth, and carries the judgements.

    Attributes:
        judged: critiques scored so far, of this process.
        num_tokens: of all of them.
    """

    referee: Referee
    items: Sequence[CritiqueItem]
    weights: CriticClassWeights
    judged: list[JudgedCritique] = field(default_factory=list)
    num_tokens: int = 0

    def __call__(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        """Score critiques; the `Scorer` of the critic's block."""
        judged = [
            self.referee.judge(self.items[index], sample)
            for index, sample in zip(indices, samples, strict=True)
        ]
        judged = with_flips(self.items, indices, judged)
        self.judged += judged
        self.num_tokens += sum(len(sample.token_ids) for sample in samples)
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
