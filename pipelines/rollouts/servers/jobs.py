"""What servers are asked for in one batch: completions, or log-probabilities of given sequences.

Leaves out which server answers what (`rollouts/servers/dispatch.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pipelines.rollouts.engine import Completion, Sampling
from pipelines.rollouts.routes import Finished, RouteSource
from pipelines.rollouts.servers.replica import Server

T = TypeVar("T")
Answered = tuple[Completion, Finished]


class Job(ABC, Generic[T]):
    """The requests of one batch, each known by its index."""

    @abstractmethod
    def ask(self, server: Server, index: int) -> T:
        """Make one request, and wait for its answer."""

    def begin(self, server: Server) -> None:
        """Prepare a server for its first request; nothing to prepare unless overridden."""

    def end(self, server: Server, answers: dict[int, T]) -> dict[int, T]:
        """Complete a server's answers, once it is proven that they are the policy's."""
        return answers


@dataclass(frozen=True)
class ScoreJob(Job[list[float]]):
    """Log-probabilities (nats) of each sequence's tokens after the first."""

    sequences: Sequence[Sequence[int]]
    timeout_seconds: float

    def ask(self, server: Server, index: int) -> list[float]:
        return server.client.score(self.sequences[index], self.timeout_seconds)


@dataclass(frozen=True)
class GenerateJob(Job[Answered]):
    """One completion per prompt, each with its own seed.

    Attributes:
        source: where the completions' routes come from; None if they are not wanted.
    """

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    seeds: Sequence[int]
    end_ids: Sequence[int]
    timeout_seconds: float
    source: RouteSource | None

    def ask(self, server: Server, index: int) -> Answered:
        prompt, seed = self.prompts[index], self.seeds[index]
        return server.client.generate(
            prompt, self.sampling, seed, self.end_ids, self.timeout_seconds
        )

    def begin(self, server: Server) -> None:
        if self.source is not None:
            self.source.begin(server)

    def end(self, server: Server, answers: dict[int, Answered]) -> dict[int, Answered]:
        """Add the routes, which only the server that sampled a completion knows."""
        if self.source is None:
            return answers
        routes = self.source.routes(server, [finished for _, finished in answers.values()])
        return {
            index: (replace(completion, routes=own), finished)
            for (index, (completion, finished)), own in zip(answers.items(), routes, strict=True)
        }
