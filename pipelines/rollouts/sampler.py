"""Samples for one role: from exactly the policy's weights, every completion with its own seed.

A sampler gives its engine the policy's current weights before it draws, notes the fate of every
group in the run's ledger, and may have one batch in flight while the policy trains. The trainer has
one for a policy that changes; `sparring-data` has one for a checkpoint that does not. Leaves out
what is sampled (games) and what is learned (`training/`).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from data.records import SampledWith
from pipelines.policy.chat import (
    chat_ids,
    prompt_text,
    reply_text,
    text_ids,
    turn_end_id,
    without_end,
)
from pipelines.policy.fingerprint import UNPROVEN, WeightsId
from pipelines.policy.folder import UNNAMED, ModelName
from pipelines.policy.moe import Policy
from pipelines.policy.tensors import weights_hash
from pipelines.rollouts.engine import Completion, Engine, Sampling, completion_seed
from pipelines.rollouts.ledger import Ledger
from pipelines.rollouts.sample import Prompt, Sample
from pipelines.rollouts.stage_seconds import StageSeconds
from pipelines.sync.push import WeightSync


@dataclass(frozen=True)
class Request:
    """A batch that the engine is asked for, and whose weights must answer it.

    Attributes:
        prompts: token ids; those of a group, `group_size` equal ones, are adjacent.
        seeds: one per prompt.
        groups: the groups' numbers in the ledger; empty without one.
        weights: the policy's.
    """

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    seeds: Sequence[int]
    group_size: int
    groups: Sequence[int]
    weights: WeightsId


@dataclass(frozen=True)
class Rollouts:
    """A request with its completions, one per prompt."""

    request: Request
    completions: Sequence[Completion]


NOTHING = Rollouts(Request([], Sampling(1), [], 1, [], UNPROVEN), [])


class Sampler:
    """One role's sampling.

    Args:
        name: "learner" or "critic"; part of the seeds.
        engine: what samples.
        tokenizer: of the policy.
        seed: the run's.
        max_tokens: the most tokens of a completion.
        temperature: of the samples, unless a call gives another.
        policy: whose weights the engine must hold; None where it loaded a checkpoint that stays.
        sync: moves and proves the policy's weights; None where the policy itself generates.
        process_index: of this process; part of the seeds of a policy that trains.
        chat_template_kwargs: what the chat template gets for every conversation.
        called: what the policy is called in the samples.

    Attributes:
        version: how often the policy's weights have changed.
        ledger: the run's, once it has a directory; None notes nothing.
        seconds: time spent by stage; a trainer adds its own stages.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        max_tokens: int,
        temperature: float,
        policy: Policy | None = None,
        sync: WeightSync | None = None,
        process_index: int = 0,
        chat_template_kwargs: Mapping[str, object] | None = None,
        called: ModelName = UNNAMED,
    ) -> None:
        self.name, self.engine, self.tokenizer, self.seed = name, engine, tokenizer, seed
        self.max_tokens, self.temperature = max_tokens, temperature
        self.policy, self.sync, self.process_index = policy, sync, process_index
        self.chat_template_kwargs, self.called = chat_template_kwargs or {}, called
        self.version = 0
        self.ledger: Ledger | None = None
        self.seconds = StageSeconds()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._in_flight: tuple[Request, Future[tuple[list[Completion], list[int]]]] | None = None

    # -- text -----------------------------------------------------------------------------------

    def sample(
        self,
        prompts: Sequence[Prompt],
        purpose: str,
        num: int = 1,
        temperature: float | None = None,
    ) -> list[list[Sample]]:
        """Sample `num` completions per prompt; `purpose` names the call in their seeds.

        Temperature 0 takes the likeliest token each time; None is the sampler's own.
        """
        if not prompts:
            return []
        each = [ids for ids in self.tokenize(prompts) for _ in range(num)]
        chosen = self.temperature if temperature is None else temperature
        sampling = Sampling(self.max_tokens, chosen)
        rollouts = self.draw(each, sampling, purpose, num)
        if self.ledger is not None:
            self.ledger.record("used", rollouts.request.groups)
        samples = self.to_samples(rollouts)
        return [samples[i : i + num] for i in range(0, len(samples), num)]

    def prompt_length(self, prompt: Prompt) -> int:
        """A prompt's number of tokens."""
        return len(self._token_ids(prompt))

    def tokenize(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of prompts; the model is about to speak, or to go on with a begun reply."""
        return [self._token_ids(prompt) for prompt in prompts]

    def tokenize_replies(self, replies: Sequence[str]) -> list[list[int]]:
        """Token ids of what is said after a prompt."""
        return [text_ids(self.tokenizer, text) for text in replies]

    def end_id(self, prompt: Prompt) -> int:
        """The token that ends a reply to such a prompt."""
        turn_end = None if isinstance(prompt, str) else turn_end_id(self.tokenizer)
        return self.tokenizer.eos_token_id if turn_end is None else turn_end

    def _token_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer(prompt)["input_ids"]
        return chat_ids(self.tokenizer, prompt, self.chat_template_kwargs)

    def to_samples(self, rollouts: Rollouts) -> list[Sample]:
        """The completions as text, with what they were sampled with."""
        request, samples, prompt, rendered = rollouts.request, [], None, ""
        asked = zip(rollouts.completions, request.prompts, request.seeds, strict=True)
        for done, ids, seed in asked:
            if ids != prompt:  # those of a group are adjacent
                prompt, rendered = ids, prompt_text(self.tokenizer, ids)
            text = reply_text(self.tokenizer, without_end(self.tokenizer, done.token_ids))
            sampled = SampledWith(
                temperature=request.sampling.temperature, top_p=1.0, seed=seed, rendered=rendered,
                model=self.called.model, adapter=self.called.adapter,
                max_new_tokens=request.sampling.max_tokens,
            )  # fmt: skip
            known = (done.token_ids, done.logprobs, done.truncated, sampled, request.weights.hash)
            samples.append(Sample(text, *known))
        return samples

    # -- token ids ------------------------------------------------------------------------------

    def draw(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, purpose: str, group_size: int
    ) -> Rollouts:
        """Sample one completion per prompt from exactly the current weights.

        Args:
            prompts: token ids; those of a group, `group_size` equal ones, are adjacent.
            sampling: length and temperature.
            purpose: names the call in the seeds.
            group_size: completions that are compared with each other.
        """
        self.wait()
        request = self._request(prompts, sampling, purpose, group_size)
        with self.timed("generate"):
            answers = self._generate(request.prompts, request.sampling, request.seeds)
        return self._received(request, *answers)

    def prefetch(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, purpose: str, group_size: int
    ) -> None:
        """Begin to draw a batch from the current weights; `take` waits for it."""
        assert self._in_flight is None, "one batch at a time"
        request = self._request(prompts, sampling, purpose, group_size)
        if self.sync is not None:  # a server lost in flight is proven while the policy trains
            self.sync.hold_agreement()
        asked = (request.prompts, request.sampling, request.seeds)
        self._in_flight = request, self._pool.submit(self._generate, *asked)

    def take(self, prompts: Sequence[Sequence[int]]) -> Rollouts | None:
        """The batch in flight, which must be that of these prompts; None where there is none."""
        if self._in_flight is None:
            return None
        request, answers = self._in_flight
        with self.timed("generate"):
            completions, reissued = answers.result()
        self._in_flight = None
        assert request.prompts == prompts, "the batch that was drawn ahead has other prompts"
        return self._received(request, completions, reissued)

    def wait(self) -> None:
        """Wait until nothing is in flight; the engine may then be given other weights."""
        if self._in_flight is not None:
            self._in_flight[1].exception()  # raised where the batch is taken

    def drop_in_flight(self, reason: str) -> None:
        """Wait for a batch that nobody will use, and say so in the ledger."""
        self.wait()
        if self._in_flight is not None and self.ledger is not None:
            self.ledger.record("discarded", self._in_flight[0].groups, reason=reason)
        self._in_flight = None

    @property
    def has_batch_in_flight(self) -> bool:
        """Whether a batch was begun and not yet taken."""
        return self._in_flight is not None

    def _request(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, purpose: str, group_size: int
    ) -> Request:
        """Seeds and groups of a batch for the engine, which holds the current weights by now."""
        self.ensure_synced()
        seeds = [self._seed(purpose, index) for index in range(len(prompts))]
        groups: list[int] = []
        if self.ledger is not None:
            facts = {"role": self.name, "purpose": purpose, "weights_version": self.version}
            groups = self.ledger.issue(len(prompts) // group_size, **facts)
        return Request(prompts, sampling, seeds, group_size, groups, self.engine.weights)

    def _seed(self, purpose: str, index: int) -> int:
        """A completion's seed; a checkpoint's depend on no version and on no process."""
        place = () if self.policy is None else (self.version, self.process_index)
        return completion_seed(self.seed, self.name, purpose, *place, index)

    def _generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> tuple[list[Completion], list[int]]:
        """Completions, and the indices of lost requests, which the next batch overwrites."""
        completions = self.engine.generate(prompts, sampling, seeds)
        return completions, list(self.engine.reissued)

    def _received(
        self, request: Request, completions: Sequence[Completion], reissued: Sequence[int]
    ) -> Rollouts:
        """Note a request's answers in the ledger."""
        if self.ledger is not None:
            again = {request.groups[index // request.group_size] for index in reissued}
            self.ledger.record("reissued", sorted(again))
            self.ledger.record("completed", request.groups)
        return Rollouts(request, completions)

    # -- weights --------------------------------------------------------------------------------

    def ensure_synced(self) -> None:
        """Give the engine the policy's current weights, verified, if it lacks them."""
        if self.engine.weights.version == self.version:
            return
        assert self.policy is not None, "a checkpoint's weights do not change"
        with self.timed("generate"):
            self.wait()
        with self.timed("sync"):
            if self.sync is None:
                self.engine.weights = WeightsId(self.version, weights_hash(self.policy))
            else:
                self.sync.push(self.policy, self.version)
        assert self.engine.weights.version == self.version, "a rollout from stale weights"

    def weights_changed(self) -> None:
        """The policy was updated: what the engine holds is one version older now."""
        self.version += 1

    def restore(self, version: int) -> None:
        """The policy's weights are those of an earlier process: the engine needs them, proven."""
        self.version, self.engine.weights = version, UNPROVEN
        if self.sync is not None:
            self.sync.restart_agreement()

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Add what happens within the block to a stage's seconds."""
        return self.seconds.timed(stage)
