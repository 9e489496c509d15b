"""What a game and a trainer exchange: prompts, samples, and what a game says of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class StepSignal:
    """A step's reward on the completion's characters [start, end)."""

    start: int
    end: int
    value: float


@dataclass(frozen=True)
class Scored:
    """What a game says of one completion: a reward (None: masked out) and step signals."""

    reward: float | None
    steps: tuple[StepSignal, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One completion as text, with what the sampler knows of it."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    truncated: bool
    seed: int = 0
    weights: str = ""  # hash of the weights that sampled it


class Scorer(Protocol):
    """A game's judge: `indices` are rows of the block, one a completion, groups adjacent."""

    def __call__(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]: ...
