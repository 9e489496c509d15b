"""Attempts at tasks: solved, verified, criticised, and continued from a point of their own text.

Uses the games' own prompts, parsers and verifiers. Leaves out which attempts are made
(`inference/redo.py`, `inference/evaluate.py`) and what is estimated from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from critic.critique import Critique, ParseFailure
from data.records import Task
from pipelines.game.referee import Referee
from pipelines.rollouts.engine import Sampling
from pipelines.rollouts.sample import Sample
from pipelines.rollouts.sampler import Sampler
from rewards.solution import Solution
from rewards.verdict import Verdict


@dataclass(frozen=True)
class Attempt:
    """One solution of a task, what was said of it, and what both cost.

    Attributes:
        learner_tokens: generated for it; not those of a prefix that it continues.
        critique: None where none was asked for: malformed solutions are seen without a critic, and
            those too long for its context are not seen.
        critic_tokens: generated for the critique.
    """

    task: Task
    solution: Solution
    verdict: Verdict
    learner_tokens: int
    critique: Critique | ParseFailure | None = None
    critic_tokens: int = 0


class Solver:
    """Makes attempts with a checkpoint.

    Args:
        referee: writes the prompts, reads and verifies.
        learner: solves.
        critic: criticises; None leaves attempts without critiques.
    """

    def __init__(self, referee: Referee, learner: Sampler, critic: Sampler | None) -> None:
        self.referee, self.learner, self.critic = referee, learner, critic

    def solve(
        self, tasks: Sequence[Task], num: int, purpose: str, temperature: float | None = None
    ) -> list[Attempt]:
        """`num` attempts at each task, adjacent; `purpose` names the call in the seeds."""
        problems = [self.referee.problem(task) for task in tasks]
        drawn = self.learner.sample(problems, purpose, num, temperature)
        pairs = zip(tasks, drawn, strict=True)
        return self._attempts([(task, one) for task, samples in pairs for one in samples])

    def criticise(self, attempts: Sequence[Attempt], purpose: str) -> list[Attempt]:
        """The attempts with one critique for each that is well-formed and not too long for it."""
        if self.critic is None:
            return list(attempts)
        prompts = {
            index: self.referee.critique_prompt(a.task, a.solution)
            for index, a in enumerate(attempts)
            if a.solution.well_formed
        }
        asked = [i for i, one in prompts.items() if self.referee.critic_has_room(self.critic, one)]
        self.referee.num_too_long += len(prompts) - len(asked)
        judged = list(attempts)
        drawn = self.referee.ask(self.critic, [prompts[i] for i in asked], purpose)
        for index, (sample,) in zip(asked, drawn, strict=True):
            before = attempts[index]
            parse, truncated = self.referee.critiques.parse, sample.truncated
            critique = parse(sample.text, before.solution, truncated=truncated)
            judged[index] = replace(before, critique=critique, critic_tokens=len(sample.token_ids))
        return judged

    def resume(self, begun: Sequence[tuple[Task, str]], purpose: str) -> list[Attempt]:
        """One attempt at each task that continues the given start of a solution.

        A solution with its start has the same limit of tokens as one from scratch. A start that
        fills the context is dropped: the attempt is one from scratch.
        """
        begun = [(task, self._if_fits(task, start)) for task, start in begun]
        starts = self.learner.tokenize([self.referee.problem(task) for task, _ in begun])
        prompts = self.learner.tokenize([self.referee.problem(*pair) for pair in begun])
        context = self.referee.settings.rollout.max_model_len
        room = [
            max(1, min(self.learner.max_tokens - len(p) + len(s), context - len(p)))
            for p, s in zip(prompts, starts, strict=True)
        ]
        found: dict[int, Sample] = {}
        for bucket in _buckets([len(p) for p in prompts], room, context):
            sampling = Sampling(room[bucket[-1]], self.learner.temperature)
            asked = [prompts[i] for i in bucket]
            drawn = self.learner.draw(asked, sampling, f"{purpose} after {bucket[0]}", 1)
            for index, sample in zip(bucket, self.learner.to_samples(drawn), strict=True):
                prefix = begun[index][1]
                cut = self._cut(sample, room[index])
                found[index] = replace(cut, text=prefix + cut.text)
        return self._attempts([(task, found[index]) for index, (task, _) in enumerate(begun)])

    def _if_fits(self, task: Task, start: str) -> str:
        """A start, or none where the context would hold no token after it."""
        length = self.learner.prompt_length(self.referee.problem(task, start))
        return start if length < self.referee.settings.rollout.max_model_len else ""

    def _attempts(self, pairs: Sequence[tuple[Task, Sample]]) -> list[Attempt]:
        read = self.referee.read_all([(task, sample, "") for task, sample in pairs])
        return [
            Attempt(task, *judged, len(sample.token_ids))
            for (task, sample), judged in zip(pairs, read, strict=True)
        ]

    def _cut(self, sample: Sample, room: int) -> Sample:
        """The sample as its own limit would have ended it."""
        if len(sample.token_ids) <= room:
            return sample
        kept = sample.token_ids[:room]
        text = self.learner.tokenizer.decode(kept, skip_special_tokens=True)
        logprobs = sample.logprobs[:room]
        return replace(sample, text=text, token_ids=kept, logprobs=logprobs, truncated=True)


def _buckets(lengths: Sequence[int], room: Sequence[int], context: int) -> list[list[int]]:
    """Prompts that one call can sample: its longest one leaves room for its longest completion.

    Args:
        lengths: tokens of each prompt.
        room: the most tokens of each completion.
        context: the most tokens of both.

    Returns:
        Indices, those of a bucket by ascending room.
    """
    found: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(room)), key=lambda i: room[i]):
        longest = max(longest, lengths[index])
        if not found or longest + room[index] > context:
            found.append([])
            longest = lengths[index]
        found[-1].append(index)
    return found
