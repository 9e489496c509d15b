"""What a rollout engine offers: it samples completions of token-id prompts and scores sequences.

It knows nothing of tasks, rewards or training; the sync (`sync/push.py`) moves the policy's weights
into it. Leaves out the three engines: vLLM in this process (`rollouts/vllm_engine.py`), servers of
vLLM (`rollouts/servers/engine.py`), and transformers (`rollouts/transformers_engine.py`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.errors import UserError
from pipelines.policy.fingerprint import WeightsId
from pipelines.rollouts.concurrency import Concurrency
from pipelines.rollouts.routes import Routes
from pipelines.sync.push import Receiver


@dataclass(frozen=True)
class Sampling:
    """How to sample; the full distribution at a temperature, never truncated; 0 is greedy."""

    max_tokens: int
    temperature: float = 1.0
    routes: bool = False  # also return each token's experts, where the engine can


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    Attributes:
        token_ids: sampled ids, the end-of-sequence id included when it was reached.
        logprobs: log-probability (nats) of each id under the sampler, after temperature; where
            that is 0, at temperature 1.
        truncated: the token limit ended it.
        routes: the experts of the prompt's and the completion's tokens, where they were asked for.
    """

    token_ids: list[int]
    logprobs: list[float]
    truncated: bool
    routes: Routes | None = None


class Engine(Protocol):
    """What the roles need of an engine.

    Attributes:
        weights: the policy's that it holds; their version is -1 where that is not proven.
        reissued: indices of the last batch's requests that were lost and asked again.
        concurrency: limits the requests in flight; None where nothing adapts.
    """

    weights: WeightsId
    reissued: Sequence[int]
    concurrency: Concurrency | None

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one completion per prompt of token ids, each with its own seed."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of each sequence's tokens after the first (nats)."""
        ...

    def close(self) -> None:
        """End what outlives this process, if anything does."""
        ...


class SyncedEngine(Engine, Receiver, Protocol):
    """An engine whose weights are sent to it."""


def completion_seed(*parts: object) -> int:
    """A 63-bit seed from what identifies a completion (run, role, weights version, index)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def check_prompts(prompts: Sequence[Sequence[int]], max_tokens: int, max_model_len: int) -> None:
    """Refuse prompts that the context cannot hold.

    Raises:
        UserError: names the longest prompt's length and the setting to change.
    """
    longest = max(len(prompt) for prompt in prompts)
    if longest + max_tokens > max_model_len:
        raise UserError(
            f"a prompt of {longest} tokens and a completion of {max_tokens} exceed "
            f"rollout.max_model_len = {max_model_len}: raise it to at least {longest + max_tokens}"
        )
