"""A block's rollouts for TRL: batch by batch, or one batch ahead of the update (bounded staleness).

Ahead, the next batch is drawn while the last is verified, criticised and learned from. It is then
one generation batch older than the policy that learns from it, never more: the engine gets the
newest weights before each batch, TRL's importance correction weighs the difference, and nothing is
in flight when a block ends. Leaves out how a batch is drawn and who counts it
(`rollouts/sampler.py`).
"""

from collections.abc import Sequence

from pipelines.rollouts.engine import Sampling
from pipelines.rollouts.sample import Prompt
from pipelines.rollouts.sampler import NOTHING, Rollouts, Sampler


class BlockRollouts:
    """What GRPOTrainer takes for its `vllm_generation`: one block's batches, from a sampler.

    Args:
        sampler: draws them.
        batch_size: completions of a generation batch in each process.
        num_processes: processes that share the block's prompts.
        ahead: whether the next batch is drawn before the last one is used.

    Attributes:
        current: the batch that is being scored and learned from.
    """

    def __init__(self, sampler: Sampler, batch_size: int, num_processes: int, ahead: bool) -> None:
        self.sampler, self.ahead, self.current = sampler, ahead, NOTHING
        self._batch_size, self._num_processes = batch_size, num_processes
        self._prompts: Sequence[Prompt] = ()
        self._purpose, self._num_batches = "train", 0

    def begin_block(self, prompts: Sequence[Prompt], purpose: str) -> None:
        """Take the block's prompts, one per group, in the order in which TRL asks for them."""
        self._prompts, self._purpose, self._num_batches = prompts, purpose, 0

    def end_block(self) -> None:
        """Leave nothing in flight; after an error there may be a batch that nobody will use."""
        self.sampler.drop_in_flight("the block ended before they were used")

    @property
    def staleness(self) -> int:
        """How many updates the policy has made since the current batch was asked for."""
        return self.sampler.version - self.current.request.weights.version

    def sync_weights(self) -> None:
        """TRL's name for giving the engine the policy's weights."""
        self.sampler.ensure_synced()

    def generate(self, prompts, images, num_generations, profiler=None):  # type: ignore[no-untyped-def]
        """TRL's batch: prompts, completions, log-probabilities (nats) and nothing more."""
        self.current = self._batch(prompts, num_generations)
        self._num_batches += 1
        if self.ahead:
            self._draw_ahead(num_generations)
        completions = self.current.completions
        logprobs = [[[lp] for lp in done.logprobs] for done in completions]
        return prompts, [done.token_ids for done in completions], logprobs, None

    def _batch(self, prompts: Sequence[Sequence[int]], group_size: int) -> Rollouts:
        drawn_ahead = self.sampler.take(prompts)
        if drawn_ahead is not None:
            return drawn_ahead
        return self.sampler.draw(prompts, self._sampling(), self._batch_name(), group_size)

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
