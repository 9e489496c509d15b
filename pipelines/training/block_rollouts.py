"""A role's rollouts for TRL: batch by batch, or one batch ahead of the update (bounded staleness).

Ahead, the next batch is drawn while the last is verified, criticised and learned from. It is then
one generation batch older than the policy that learns from it, never more: the engine gets the
newest weights before each batch, TRL's importance correction weighs the difference, and nothing is
in flight when a block ends. Leaves out what a batch costs and who counts it
(`training/trainer.py`).
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from pipelines.rollouts.engine import Completion, Sampling

if TYPE_CHECKING:
    from pipelines.training.trainer import RoleTrainer


from pipelines.rollouts.sampler import NOTHING, Order


class BlockRollouts:
    """What GRPOTrainer takes for its `vllm_generation`: one block's batches, on our engine.

    Args:
        role: whose rollouts.
        ahead: whether the next batch is drawn before the last one is used.

    Attributes:
        drawn: the batch that is being scored.
    """

    def __init__(self, role: "RoleTrainer", ahead: bool) -> None:
        self.role, self.ahead, self.drawn = role, ahead, NOTHING
        self.prompts: Sequence[object] = ()
        self.num_generations = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._flying: tuple[Order, Future[list[Completion]]] | None = None

    def begin_block(self, prompts: Sequence[object]) -> None:
        """Take the block's prompts, one a group, in the order in which they will be asked for."""
        self.prompts, self.num_generations = prompts, 0

    def land(self) -> None:
        """Wait until nothing is in flight; the engine may then be given other weights."""
        if self._flying is not None:
            self._flying[1].exception()  # raised where the batch is taken

    def end_block(self) -> None:
        """Leave nothing in flight; after an error a batch may be left that nobody will use."""
        self.land()
        if self._flying is not None and self.role.ledger is not None:
            groups, reason = self._flying[0].groups, "the block ended before they were used"
            self.role.ledger.record("discarded", groups, reason=reason)
        self._flying = None

    def sync_weights(self) -> None:
        """TRL's name for it."""
        self.role.ensure_synced()

    def generate(self, prompts, images, num_generations, profiler=None):  # type: ignore[no-untyped-def]
        """TRL's batch: prompts, completions, log-probabilities (nats) and nothing more."""
        role, taken = self.role, self._flying
        if taken is None:
            self.drawn = role.generate_ids(
                prompts, self._sampling(), self._purpose(), num_generations
            )
        else:
            order, answers = taken
            with role.timed("generate"):
                completions = answers.result()
            self._flying = None
            assert order.prompts == prompts, "the batch that was drawn ahead has other prompts"
            self.drawn = role.received(order, completions)
        self.num_generations += 1
        if self.ahead:
            self._draw_ahead(num_generations)
        completions = self.drawn.completions
        logprobs = [[[lp] for lp in c.logprobs] for c in completions]
        return prompts, [c.token_ids for c in completions], logprobs, None

    def _draw_ahead(self, group_size: int) -> None:
        following = self._following(group_size)
        if following:
            role = self.role
            prompts = role._tokenize_prompts(following)[0]
            order = role.order(prompts, self._sampling(), self._purpose(), group_size)
            if role.sync is not None:  # a server lost in flight is proven while the policy trains
                role.sync.hold_probes()
            ask = (order.prompts, order.sampling, order.seeds)
            self._flying = order, self._pool.submit(role.engine.generate, *ask)

    def _following(self, group_size: int) -> list[object]:
        """This process's share of the next generation batch, each prompt once a completion."""
        args, world = self.role.args, self.role.accelerator
        size = args.per_device_train_batch_size * args.steps_per_generation
        first = (self.num_generations * world.num_processes + world.process_index) * size
        every = [prompt for prompt in self.prompts for _ in range(group_size)]
        return every[first : first + size]

    def _purpose(self) -> str:
        """Names the next batch in the seeds: several may be drawn from the same weights."""
        return f"{self.role.purpose}, batch {self.num_generations}"

    def _sampling(self) -> Sampling:
        return Sampling(self.role.max_completion_length, self.role.temperature, routes=True)
