"""The two games: the learner solves and is judged, the critic judges and is judged.

A game turns tasks into prompts for its role's block, scores what comes back, and keeps every
judged sample as data. Training itself is `pipelines/roles.py`; the rules are in `rewards/` and
`critic/`.
"""

import functools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from critic.critique import Critique, ParseFailure
from critic.flaws import plant
from critic.format import CritiqueDialect, critique_dialect
from critic.meta import ClaimResult, check_claims, critic_view, is_checkable, known_first_bad
from critic.reward import (
    CriticClassWeights,
    JudgedCritique,
    critic_reward,
    dsm2_reward,
    rlcr_reward,
    tango_reward,
)
from data.records import Task
from pipelines.credit import Scored, StepSignal
from pipelines.roles import RoleTrainer, Sample
from pipelines.settings import Settings
from rewards.aggregate import CriticView, aggregate, step_rewards
from rewards.chain import ChainDialect
from rewards.dialect import Dialect, Solution, dialect
from rewards.verdict import Verdict
from rewards.verify import Verifiers

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class JudgedClaim:
    """One critique of one solution, with its claims checked."""

    text: str
    critique: Critique | ParseFailure
    claims: tuple[ClaimResult, ...]
    view: CriticView | None
    weights: str  # hash of the critic's weights


@dataclass(frozen=True)
class Bout:
    """One solution with everything that was said of it."""

    task: Task
    sample: Sample
    solution: Solution
    verdict: Verdict
    judged: JudgedClaim | None
    reward: float | None


@dataclass(frozen=True)
class CritiqueItem:
    """What the critic is asked about: a solution whose verdict is known."""

    task: Task
    solution: Solution
    sound: bool
    first_bad: str | None
    planted: bool = False


class Judging:
    """Rendering, parsing and checking shared by both games and by every audit."""

    def __init__(self, settings: Settings, verifiers: Verifiers) -> None:
        self.settings, self.verifiers = settings, verifiers
        self.dialect: Dialect = dialect(settings.tasks.dialect)
        self.critiques: CritiqueDialect = critique_dialect(settings.tasks.dialect)

    def prompt(self, text: str) -> Prompt:
        """A prompt as the dialect's models take it: bare text, or one user message."""
        return [{"role": "user", "content": text}] if self.dialect.conversational else text

    def problem(self, task: Task) -> Prompt:
        """The learner's prompt, after the configured examples as earlier turns."""
        asked = self.prompt(self.dialect.render_problem(task))
        if isinstance(asked, str):
            return asked
        turns: list[dict[str, str]] = []
        for example in self.settings.tasks.examples:
            shown = self.dialect.render_problem(replace(task, question=example.question))
            turns += [
                {"role": "user", "content": shown},
                {"role": "assistant", "content": example.reply},
            ]
        return turns + asked

    def critique_prompt(self, task: Task, solution: Solution) -> Prompt:
        problem = self.dialect.render_problem(task)
        return self.prompt(self.critiques.render_prompt(problem, solution.text))

    def read(self, task: Task, sample: Sample) -> tuple[Solution, Verdict]:
        """Parse and verify one completion."""
        solution = self.dialect.parse_solution(sample.text, truncated=sample.truncated)
        return solution, self.verifiers.verify(task, solution)

    def judge(self, task: Task, solution: Solution, sample: Sample) -> JudgedClaim:
        """Parse a critique of the solution and check its claims."""
        critique = self.critiques.parse(sample.text, solution, truncated=sample.truncated)
        if isinstance(critique, ParseFailure):
            return JudgedClaim(sample.text, critique, (), None, sample.weights)
        claims = check_claims(task, solution, critique, self.dialect)
        view = critic_view(critique, claims, solution)
        return JudgedClaim(sample.text, critique, claims, view, sample.weights)

    def item(
        self, task: Task, solution: Solution, sound: bool, planted: bool = False
    ) -> CritiqueItem:
        first_bad = None if sound else known_first_bad(task, solution, self.dialect)
        return CritiqueItem(task, solution, sound, first_bad, planted)


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


def criticise(
    judging: Judging,
    tasks: Sequence[Task],
    solutions: Sequence[Solution],
    ask: Callable[[list[Prompt]], list[list[Sample]]],
) -> list[JudgedClaim | None]:
    """One critique of each distinct well-formed solution, shared by its copies."""
    distinct = {
        (task.id, solution.text): (task, solution)
        for task, solution in zip(tasks, solutions, strict=True)
        if solution.well_formed
    }
    drawn = ask([judging.critique_prompt(*pair) for pair in distinct.values()])
    found = {
        key: judging.judge(task, solution, samples[0])
        for (key, (task, solution)), samples in zip(distinct.items(), drawn, strict=True)
    }
    return [found.get((t.id, s.text)) for t, s in zip(tasks, solutions, strict=True)]


def judge_critique(judging: Judging, item: CritiqueItem, sample: Sample) -> JudgedCritique:
    """Everything the critic's reward depends on, for one critique of a known solution."""
    claim = judging.judge(item.task, item.solution, sample)
    return JudgedCritique(
        critique=claim.critique,
        claims=claim.claims,
        sound=item.sound,
        first_bad_step=item.first_bad,
        checkable=is_checkable(item.task, item.solution, judging.dialect),
    )


def _padded(items: Sequence[CritiqueItem], num: int, rng: random.Random) -> list[CritiqueItem]:
    """The first `num` items, some of them again where there are fewer; none where there is none."""
    missing = max(0, num - len(items)) if items else 0
    return [*items[:num], *rng.choices(items, k=missing)] if items else []


def _judgeable(bout: Bout) -> bool:
    return bout.solution.well_formed and bout.verdict.outcome in ("correct", "incorrect")
