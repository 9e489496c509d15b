"""A block's rollouts for TRL: batch by batch, or one batch ahead of the update (bounded staleness).

A block of given replies stands in for rollouts: nobody samples, and no log-probability of a sampler
weighs them.

Ahead, the next batch is drawn while the last is verified, criticised and learned from. It is then
one generation batch older than the policy that learns from it, never more: the engine gets the
newest weights before each batch, TRL's importance correction weighs the difference, and nothing is
in flight when a block ends. Leaves out how a batch is drawn and who counts it
(`rollouts/sampler.py`).
"""

import math
from collections.abc import Sequence

from pipelines.policy.fingerprint import WeightsId
from pipelines.rollouts.engine import Completion, Sampling
from pipelines.rollouts.sample import Prompt
from pipelines.rollouts.sampler import NOTHING, Request, Rollouts, Sampler


class BlockRollouts:
    """What GRPOTrainer takes for its `vllm_generation`: one block's batches, from a sampler.

    Args:
        sampler: draws them.
        batch_size: completions of a generation batch in each process.
        num_processes: processes that share the block's prompts.
        ahead: whether the next batch is drawn before the last one is used.

    Attributes:
        current: the batch that is being scored and learned from.
        replies: of the block, one per prompt, where they are given; None where it samples.
    """

    def __init__(self, sampler: Sampler, batch_size: int, num_processes: int, ahead: bool) -> None:
        self.sampler, self.ahead, self.current = sampler, ahead, NOTHING
        self._batch_size, self._num_processes = batch_size, num_processes
        self._prompts: Sequence[Prompt] = ()
        self.replies: Sequence[str] | None = None
        self._used: list[int] = []
        self._masked: list[int] = []
        self._purpose, self._num_batches = "train", 0

    def begin_block(
        self, prompts: Sequence[Prompt], purpose: str, replies: Sequence[str] | None = None
    ) -> None:
        """Take the block's prompts, one per group, in the order in which TRL asks for them."""
        self._prompts, self._purpose, self._num_batches = prompts, purpose, 0
        self.replies, self._used, self._masked = replies, [], []

    def learn_from(self, masked_N: Sequence[bool]) -> None:
        """The update will use the current batch's groups, except those masked as a whole."""
        for group, masked in zip(self.current.request.groups, masked_N, strict=False):
            (self._masked if masked else self._used).append(group)

    def note_fates(self) -> None:
        """The block is through: note in the ledger what became of its groups."""
        if self.sampler.ledger is not None:
            self.sampler.ledger.record("used", self._used)
            self.sampler.ledger.record("discarded", self._masked, reason="every reward masked")

    def end_block(self) -> None:
        """Leave nothing in flight; after an error there may be a batch that nobody will use."""
        self.sampler.drop_in_flight("the block ended before they were used")

    @property
    def staleness(self) -> int:
        """How many updates the policy has made since the current batch was asked for."""
        return self.sampler.version - self.current.request.weights.version

    def sync_weights(self) -> None:
        """TRL's name for giving the engine the policy's weights."""
        if self.replies is None:
            self.sampler.ensure_synced()

    def generate(self, prompts, images, num_generations, profiler=None):  # type: ignore[no-untyped-def]
        """TRL's batch: prompts, completions, log-probabilities (nats) and nothing more."""
        if self.replies is None:
            self.current = self._batch(prompts, num_generations)
        else:
            self.current = self._given(self.replies, prompts)
        self._num_batches += 1
        if self.ahead and self.replies is None:
            self._draw_ahead(num_generations)
        completions = self.current.completions
        logprobs = [[[lp] for lp in done.logprobs] for done in completions]
        return prompts, [done.token_ids for done in completions], logprobs, None

    def _batch(self, prompts: Sequence[Sequence[int]], group_size: int) -> Rollouts:
        drawn_ahead = self.sampler.take(prompts)
        if drawn_ahead is not None:
            return drawn_ahead
        return self.sampler.draw(prompts, self._sampling(), self._batch_name(), group_size)

    def _given(self, replies: Sequence[str], prompts: Sequence[Sequence[int]]) -> Rollouts:
        """This process's share of the given replies, each with its end token."""
        place = self._num_batches * self._num_processes + self.sampler.process_index
        share = replies[place * self._batch_size :][: self._batch_size]
        end = self.sampler.end_id(self._prompts[0])
        completions = [
            Completion([*ids, end], [math.nan] * (len(ids) + 1), truncated=False)
            for ids in self.sampler.tokenize_replies(share)
        ]
        weights = WeightsId(self.sampler.version, "")
        return Rollouts(
            Request(prompts, self._sampling(), [0] * len(prompts), 1, [], weights), completions
        )

    def _draw_ahead(self, group_size: int) -> None:
        following = self._following(group_size)
        if following:
            prompts = self.sampler.tokenize(following)
            self.sampler.prefetch(prompts, self._sampling(), self._batch_name(), group_size)

    def _following(self, group_size: int) -> list[Prompt]:
        """This process's share of the next generation batch, each prompt once per completion."""
        place = self._num_batches * self._num_processes + self.sampler.process_index
        every = [prompt for prompt in self._prompts for _ in range(group_size)]
        return every[place * self._batch_size :][: self._batch_size]

    def _batch_name(self) -> str:
        """Names the next batch in the seeds: several may be drawn from the same weights."""
        return f"{self._purpose}, batch {self._num_batches}"

    def _sampling(self) -> Sampling:
        return Sampling(self.sampler.max_tokens, self.sampler.temperature, routes=True)
