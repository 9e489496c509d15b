"""The learner's game: it solves tasks, the verifier pays, and whoever can points at first flaws.

    completions -> verdicts -> critiques -> pointings -> those that count -> rewards and flaws

The reward is the rule's alone. Leaves out how the block is trained (a `Player` does that), the
rules themselves (`rewards/`, `critic/`), and how a pointing is made (`game/pointing.py`) and
confirmed (`game/confirmation.py`).
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from critic.critique import Critique, ParseFailure
from pipelines.game.bout import Bout, Pointing, RoundPlan, Start
from pipelines.game.confirmation import Confirmation
from pipelines.game.pointing import Attempt, Pointer, first_claimed
from pipelines.game.pool import Pool
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Player, Sample, Scored, StepSignal
from rewards.functions import OwnReward
from rewards.shaping import overlength, readable
from rewards.solution import Solution

_LINE = re.compile(r"\s*[^\n]*")
AUDITING_SHARE = 0.2  # of the continuations that are tried, where they need not confirm

Gather = Callable[[list[Bout]], list[Bout]]


class LearnerGame:
    """Solutions, verdicts, pointings, one reward each.

    Args:
        referee: judges them.
        learner: solves.
        critic: criticises; None for no critiques.
        gather: the bouts of all processes, given one's own.
        pool: checks the critic's word, where the plan asks it.
        remark: receives what a reader of the run should know.

    Attributes:
        spent: tokens that this process generated since they were last taken, by what for.
    """

    def __init__(
        self,
        referee: Referee,
        learner: Player,
        critic: Player | None,
        gather: Gather = list,
        pool: Pool | None = None,
        remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.referee, self.learner, self.critic, self.gather = referee, learner, critic, gather
        self.pool, self.remark = pool, remark
        self.spent: Counter[str] = Counter()

    def play(self, starts: Sequence[Start], plan: RoundPlan) -> list[Bout]:
        """Train one block, a group for each start.

        Returns:
            Every bout of it, of all processes, groups adjacent.
        """
        starts = [self._with_room(start) for start in starts]
        block = LearnerBlock(self.referee, self.learner, self.critic, starts, plan, self.pool)
        prompts = [self.referee.problem(start.task, start.prefix) for start in starts]
        self.learner.play(prompts, block, plan.purpose)
        self.spent.update(block.spent)
        if block.failures:
            self.remark(
                f"{len(block.failures)} completions are left out: a reward function failed, first "
                f"with {block.failures[0]}"
            )
        return self.gather(block.bouts)

    def _with_room(self, start: Start) -> Start:
        """The start, without its beginning where the context would not hold both and a reply."""
        if not start.prefix:
            return start
        length = self.learner.prompt_length(self.referee.problem(start.task, start.prefix))
        return start if self.referee.leaves_room(length) else Start(start.task)


@dataclass
class LearnerBlock:
    """One block's scorer: verifies, lets flaws be pointed at, and carries the bouts.

    Attributes:
        bouts: those scored so far, of this process.
        spent: tokens generated so far, by what for.
        failures: why the user's functions said nothing of some completions.
    """

    referee: Referee
    learner: Player
    critic: Player | None
    starts: Sequence[Start]
    plan: RoundPlan
    pool: Pool | None = None
    bouts: list[Bout] = field(default_factory=list)
    spent: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        place = f"{self.plan.purpose}/{self.learner.process_index}"
        self._rng = random.Random(f"{self.referee.settings.run.seed}/{place}")
        self._pointer = Pointer(self.referee, self._rng)
        self._confirmation = Confirmation(self.referee, self.learner, self._rng)

    def __call__(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        """Score completions; the `Scorer` of the learner's block."""
        attempts = self._attempts(indices, samples)
        asked = self._criticise(attempts)
        attempts = [
            replace(attempt, critique=self._read(attempt, said))
            for attempt, said in zip(attempts, asked, strict=True)
        ]
        pointings = self._point(attempts)
        own = self.referee.verifiers.own_rewards([(a.task, a.solution) for a in attempts])
        self.failures += [one.failure for one in own if one.failure]
        outcomes = self._outcomes(attempts)
        rewards = [self._reward(*one) for one in zip(attempts, outcomes, own, strict=True)]
        shuffled = self.referee.settings.rewards.shuffled
        if shuffled:
            self._rng.shuffle(rewards)
            pointings = [None] * len(attempts)
        found = list(zip(attempts, samples, asked, pointings, rewards, strict=True))
        self.bouts += [self._bout(*one) for one in found]
        self.spent["rollouts"] += sum(len(sample.token_ids) for sample in samples)
        if shuffled:
            return [Scored(reward, passed=_passed(a)) for a, _, _, _, reward in found]
        return [
            Scored(reward, _signals(a, said), self._flaw(a, p), self._ending(a), _passed(a))
            for (a, _, _, p, reward), said in zip(found, own, strict=True)
        ]

    def _outcomes(self, attempts: Sequence[Attempt]) -> list[float | None]:
        """What the verifier pays, where form is paid apart for malformed solutions too."""
        outcomes = [attempt.verdict.reward for attempt in attempts]
        if not self._pays_form:
            return outcomes
        place = self.referee.settings.tasks.answer_in
        read = {i: readable(one.solution, place) for i, one in enumerate(attempts)}
        loose = {i: one for i, one in read.items() if one is not attempts[i].solution}
        verdicts = self.referee.verifiers.verify_all([(attempts[i].task, loose[i]) for i in loose])
        for place, verdict in zip(loose, verdicts, strict=True):
            outcomes[place] = verdict.reward
        return outcomes

    @property
    def _pays_form(self) -> bool:
        """Whether form is rewarded by itself, and bad form is no failure of the whole."""
        return (
            self.referee.settings.rewards.format_weight > 0 and self.referee.dialect.conversational
        )

    def _reward(self, attempt: Attempt, outcome: float | None, own: OwnReward) -> float | None:
        """The outcome, form, length and what the user adds; None where a judge says nothing."""
        if outcome is None or own.value is None:
            return None
        table, limit = self.referee.settings.rewards, self.referee.settings.learner
        too_long = overlength(
            attempt.num_tokens, limit.max_completion_length, table.length_allowance
        )
        form = table.format_weight * attempt.solution.well_formed
        return table.outcome_weight * outcome + form - table.length_penalty * too_long + own.value

    def _attempts(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Attempt]:
        starts = [self.starts[index] for index in indices]
        pairs = list(zip(starts, samples, strict=True))
        read = self.referee.read_all([(start.task, one, start.prefix) for start, one in pairs])
        return [
            Attempt(index, start.task, start.prefix, *judged, len(sample.token_ids))
            for index, (start, sample), judged in zip(indices, pairs, read, strict=True)
        ]

    def _criticise(self, attempts: Sequence[Attempt]) -> list[Sample | None]:
        """A critique of each distinct solution, where a critic may point."""
        if self.critic is None or not self.plan.critic_points:
            return [None] * len(attempts)
        wanted = [i for i, one in enumerate(attempts) if self._pointer.wants_critique(one)]
        purpose = f"{self.plan.purpose}/{self.learner.num_steps}/critique"
        pairs = [(attempts[i].task, attempts[i].solution) for i in wanted]
        asked: list[Sample | None] = [None] * len(attempts)
        with self.learner.timed("critique"):
            said = self.referee.criticise(pairs, self.critic, purpose)
        for place, sample in zip(wanted, said, strict=True):
            asked[place] = sample
        self.spent["critiques"] += num_tokens(asked)
        return asked

    def _read(self, attempt: Attempt, said: Sample | None) -> Critique | ParseFailure | None:
        if said is None:
            return None
        read = self.referee.critiques.parse
        return read(said.text, attempt.solution, truncated=said.truncated)

    def _point(self, attempts: Sequence[Attempt]) -> list[Pointing | None]:
        pointings = self._pointer.point(attempts, self.plan.critic_points)
        if not any(p is not None and p.status == "unknown" for p in pointings):
            return pointings
        purpose = f"{self.plan.purpose}/{self.learner.num_steps}/continuations"
        with self.learner.timed("confirm"):
            before = self._confirmation.num_tokens
            pointings = self._confirmation.confirm(attempts, pointings, purpose, self._budget())
            self.spent["continuations"] += self._confirmation.num_tokens - before
        if self.plan.others_decide:
            return self._agreed(attempts, pointings)
        if not self.plan.critic_is_trusted:
            return pointings
        return [replace(p, status="trusted") if p and _is_open(p) else p for p in pointings]

    def _agreed(
        self, attempts: Sequence[Attempt], pointings: Sequence[Pointing | None]
    ) -> list[Pointing | None]:
        """The critic's open pointings put to the pool; it sees the solutions, not the claims."""
        assert self.pool is not None, "the plan would not ask it"
        claims = {i: p for i, p in enumerate(pointings) if p is not None and _is_open(p)}
        if not claims:
            return list(pointings)
        pairs = [(attempts[i].task, attempts[i].solution) for i in claims]
        purpose = f"{self.plan.purpose}/{self.learner.num_steps}/meta-check"
        with self.learner.timed("confirm"):
            said = self.pool.ask(self.referee, pairs, purpose)
        if not said:
            return list(pointings)
        self.spent["meta_checks"] += sum(map(num_tokens, said))
        found = list(pointings)
        for (place, claim), words in zip(claims.items(), zip(*said, strict=True), strict=True):
            read = [self._read(attempts[place], one) for one in words]
            named = {first_claimed(attempts[place].solution, critique) for critique in read}
            if named == {claim.index}:
                found[place] = replace(claim, status="agreed")
        return found

    def _budget(self) -> float:
        """Of continuations, as a multiple of the learner's tokens."""
        whole = self.referee.settings.pointing.continuation_budget
        return whole * AUDITING_SHARE if self.plan.critic_is_trusted else whole

    def _bout(
        self,
        attempt: Attempt,
        sample: Sample,
        asked: Sample | None,
        pointing: Pointing | None,
        reward: float | None,
    ) -> Bout:
        bout = Bout(
            attempt.task, sample, attempt.solution, attempt.verdict, None, reward,
            pointing, attempt.prefix,
        )  # fmt: skip
        return self.referee.with_critique(bout, asked)

    def _flaw(self, attempt: Attempt, pointing: Pointing | None) -> tuple[int, int] | None:
        """The first flaw's characters in the completion, where it is certain and credit is given.

        They begin with what separates the step from the one before: to go on was the mistake where
        nothing was left to do. Of a chain that leaves its grammar they are where it does: were that
        free, breaking off would be the cheapest way to fail.
        """
        given = len(attempt.prefix)
        if not (self._gives_credit and attempt.verdict.counted):
            return None
        if not attempt.solution.well_formed:
            if self.referee.dialect.conversational:
                return None  # prose may go wrong anywhere: it stays a failure like any other
            return broken_off(attempt.solution, given)
        if pointing is None or not pointing.counts:
            return None
        steps, index = attempt.solution.steps, pointing.index
        start = steps[index - 1].end if index > attempt.first_own_step else steps[index].start
        return (start - given, steps[index].end - given)

    @property
    def _gives_credit(self) -> bool:
        pointing, rewards = self.referee.settings.pointing, self.referee.settings.rewards
        return pointing.credit and pointing.source != "none" and rewards.outcome_weight > 0

    def _ending(self, attempt: Attempt) -> tuple[int, int] | None:
        """How prose that failed ends: its last line that says anything, and what ends it.

        Code finds no wrong line where one is left out, nor a critic that is blind to it. A fence
        alone, or a line of marks, is not how it failed.
        """
        failed = attempt.verdict.counted and not attempt.verdict.passed
        if not (self._gives_credit and failed and self.referee.dialect.conversational):
            return None
        written = attempt.solution.text[len(attempt.prefix) :]
        said = next((i for i in range(len(written), 0, -1) if written[i - 1].isalnum()), 0)
        return (max(written.rfind("\n", 0, said), 0), len(written) + 1)


def broken_off(solution: Solution, given: int) -> tuple[int, int]:
    """Where a malformed completion left its grammar: the rest of the line, or the end token.

    Args:
        solution: the whole text, malformed.
        given: characters of it that the completion did not write.

    Returns:
        Characters [start, end) of the completion, from the end of its last readable step on; beyond
        its text where it stopped there.
    """
    start = max([given, *(step.end for step in solution.steps)])
    line = _LINE.match(solution.text, start)
    assert line is not None, "it matches the empty text too"
    end = line.end() if line[0] else start + 1
    return (start - given, end - given)


def _signals(attempt: Attempt, own: OwnReward) -> tuple[StepSignal, ...]:
    """The rewards of the steps that the completion wrote itself, on its own characters."""
    given, first = len(attempt.prefix), attempt.first_own_step
    pairs = list(zip(attempt.solution.steps, own.steps, strict=True))[first:] if own.steps else []
    return tuple(StepSignal(s.start - given, s.end - given, value) for s, value in pairs)


def num_tokens(samples: Sequence[Sample | None]) -> int:
    """Tokens of the distinct samples: equal solutions share one."""
    return sum({id(one): len(one.token_ids) for one in samples if one is not None}.values())


def _is_open(pointing: Pointing) -> bool:
    """Whether the critic pointed and no test could decide."""
    return (pointing.source, pointing.status) == ("critic", "unknown")


def _passed(attempt: Attempt) -> bool | None:
    return attempt.verdict.passed if attempt.verdict.counted and not attempt.prefix else None
