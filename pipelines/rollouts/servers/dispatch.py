"""Sends a batch's requests to servers, each taking the next as soon as it is free."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipelines.rollouts.servers.replica import Server

HEARTBEAT_SECONDS = 1.0
PAUSE_SECONDS = 0.05  # of a sender while fewer requests may be in flight
T = TypeVar("T")


@dataclass(frozen=True)
class Job(Generic[T]):
    """What is done with a server for one batch.

    Attributes:
        ask: one request, by its index.
        begin: before a server's first request.
        end: given its answers, once it is proven that they are the policy's.
    """

    ask: Callable[[Server, int], T]
    begin: Callable[[Server], None] = lambda server: None
    end: Callable[[Server, dict[int, T]], dict[int, T]] = lambda server, answers: answers
