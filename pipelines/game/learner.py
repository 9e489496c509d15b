"""The two games: the learner solves and is judged, the critic judges and is judged.

A game turns tasks into prompts for its role's block, scores what comes back, and keeps every
judged sample as data. Training itself is `pipelines/training/trainer.py`; the rules are in
`rewards/` and `critic/`.
"""

import functools
import random
import time
from collections.abc import Sequence

from data.records import Task
from pipelines.game.bout import Bout, JudgedClaim
from pipelines.game.referee import Judging, criticise
from pipelines.rollouts.sample import Sample, Scored, StepSignal
from pipelines.training.trainer import RoleTrainer
from rewards.aggregate import aggregate, step_rewards
from rewards.solution import Solution
from rewards.verdict import Verdict


class LearnerGame:
    """The learner's block: solutions, verdicts, critiques, one reward each."""

    def __init__(self, judging: Judging, learner: RoleTrainer, critic: RoleTrainer | None) -> None:
        self.judging, self.learner, self.critic = judging, learner, critic
        self.rewards = judging.settings.rewards
        self.critic_weight = self.rewards.critic_weight
        self.bouts: list[Bout] = []

    def play(self, tasks: Sequence[Task], purpose: str) -> list[Bout]:
        """Train one block on the tasks; returns every bout of it, groups adjacent."""
        self.tasks, self.bouts, self.purpose = tasks, [], purpose
        run = self.judging.settings.run
        self.rng = random.Random(f"{run.seed}/{purpose}/{self.learner.accelerator.process_index}")
        self.learner.play([self.judging.problem(task) for task in tasks], self.score, purpose)
        return self.bouts

    def score(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        """Verify, criticise, aggregate: the role's `Scorer`."""
        tasks = [self.tasks[i] for i in indices]
        read = [
            self.judging.read(task, sample) for task, sample in zip(tasks, samples, strict=True)
        ]
        judged = self._criticise(tasks, [solution for solution, _ in read])
        scored = []
        for task, sample, (solution, verdict), claim in zip(
            tasks, samples, read, judged, strict=True
        ):
            view = None if claim is None else claim.view
            reward = aggregate(verdict, critic=view, weight=self.critic_weight)
            self.bouts.append(Bout(task, sample, solution, verdict, claim, reward))
            scored.append(Scored(reward, self._steps(solution, verdict, claim)))
        if self.rewards.shuffled:
            self.rng.shuffle(scored)
        return scored

    def _criticise(
        self, tasks: Sequence[Task], solutions: Sequence[Solution]
    ) -> list[JudgedClaim | None]:
        start = time.perf_counter()
        found: list[JudgedClaim | None] = [None] * len(tasks)
        if self.critic is not None and self.critic_weight > 0:
            purpose = f"{self.purpose}/{self.learner.state.global_step}/critique"
            ask = functools.partial(self.critic.sample, purpose=purpose)
            found = criticise(self.judging, tasks, solutions, ask)
        self.learner.timers["critique"] += time.perf_counter() - start
        return found

    def _steps(
        self, solution: Solution, verdict: Verdict, claim: JudgedClaim | None
    ) -> tuple[StepSignal, ...]:
        """The critic's step rewards, as far as its claims survived the meta-check."""
        if claim is None or claim.view is None or not verdict.counted:
            return ()
        confirmed = {c.flaw.step for c in claim.claims if c.status == "confirmed"}
        first_bad = next((i for i, s in enumerate(solution.steps) if s.id in confirmed), None)
        if first_bad is None and not verdict.passed:
            return ()  # the critic missed the flaw: it has nothing to say about the steps
        values = step_rewards(len(solution.steps), first_bad, not verdict.passed)
        return tuple(
            StepSignal(step.start, step.end, value)
            for step, value in zip(solution.steps, values, strict=True)
        )
