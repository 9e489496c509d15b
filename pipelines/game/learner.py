"""The learner's game: it solves tasks and is rewarded by the rule, shaded by the critic.

Leaves out how the block is trained (a `Player` does that), and the rules themselves (`rewards/`,
`critic/`).
"""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from data.records import Task
from pipelines.game.bout import Bout, CheckedCritique, RoundPlan
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Player, Sample, Scored, StepSignal
from rewards.aggregate import aggregate, step_rewards
from rewards.solution import Solution
from rewards.verdict import Verdict

Gather = Callable[[list[Bout]], list[Bout]]


class LearnerGame:
    """Solutions, verdicts, critiques, one reward each.

    Args:
        referee: judges them.
        learner: solves.
        critic: criticises; None for no critiques.
        gather: the bouts of all processes, given one's own.
    """

    def __init__(
        self, referee: Referee, learner: Player, critic: Player | None, gather: Gather = list
    ) -> None:
        self.referee, self.learner, self.critic, self.gather = referee, learner, critic, gather

    def play(self, tasks: Sequence[Task], plan: RoundPlan) -> list[Bout]:
        """Train one block on the tasks.

        Returns:
            Every bout of it, of all processes, groups adjacent.
        """
        block = LearnerBlock(self.referee, self.learner, self.critic, tasks, plan)
        prompts = [self.referee.problem(task) for task in tasks]
        self.learner.play(prompts, block, plan.purpose, plan.step_weight)
        return self.gather(block.bouts)


@dataclass
class LearnerBlock:
    """One block's scorer: verifies, criticises and aggregates, and carries the bouts.

    Attributes:
        bouts: those scored so far, of this process.
    """

    referee: Referee
    learner: Player
    critic: Player | None
    tasks: Sequence[Task]
    plan: RoundPlan
    bouts: list[Bout] = field(default_factory=list)

    def __post_init__(self) -> None:
        place = f"{self.plan.purpose}/{self.learner.process_index}"
        self._rng = random.Random(f"{self.referee.settings.run.seed}/{place}")

    def __call__(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        """Score completions; the `Scorer` of the learner's block."""
        tasks = [self.tasks[index] for index in indices]
        read = [
            self.referee.read(task, sample) for task, sample in zip(tasks, samples, strict=True)
        ]
        critiques = self._criticise(tasks, [solution for solution, _ in read])
        scored = []
        for task, sample, (solution, verdict), checked in zip(
            tasks, samples, read, critiques, strict=True
        ):
            view = None if checked is None else checked.view
            reward = aggregate(verdict, critic=view, weight=self.plan.critic_weight)
            self.bouts.append(Bout(task, sample, solution, verdict, checked, reward))
            passed = verdict.passed if verdict.counted else None
            scored.append(Scored(reward, step_signals(solution, verdict, checked), passed))
        if self.referee.settings.rewards.shuffled:
            self._rng.shuffle(scored)
        return scored

    def _criticise(
        self, tasks: Sequence[Task], solutions: Sequence[Solution]
    ) -> list[CheckedCritique | None]:
        with self.learner.timed("critique"):
            if self.critic is None or self.plan.critic_weight == 0:
                return [None] * len(tasks)
            purpose = f"{self.plan.purpose}/{self.learner.num_steps}/critique"
            ask = functools.partial(self.critic.sample, purpose=purpose)
            return self.referee.criticise(tasks, solutions, ask)


def step_signals(
    solution: Solution, verdict: Verdict, checked: CheckedCritique | None
) -> tuple[StepSignal, ...]:
    """The critic's step rewards, as far as its claims survived the meta-check."""
    if checked is None or checked.view is None or not verdict.counted:
        return ()
    confirmed = {claim.flaw.step for claim in checked.claims if claim.status == "confirmed"}
    first_bad = next((i for i, s in enumerate(solution.steps) if s.id in confirmed), None)
    if first_bad is None and not verdict.passed:
        return ()  # the critic missed the flaw: it has nothing to say about the steps
    values = step_rewards(len(solution.steps), first_bad, not verdict.passed)
    return tuple(
        StepSignal(step.start, step.end, value)
        for step, value in zip(solution.steps, values, strict=True)
    )
