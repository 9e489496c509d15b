"""What a game and a trainer exchange: prompts, samples, what a game says of them, and a player.

Imports neither torch nor a trainer, so that games do not either. Leaves out how samples are drawn
(`rollouts/sampler.py`) and what is learned from them (`training/trainer.py`).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from data.records import SampledWith

Weights = Mapping[str, object]  # tensors, which a game hands back as it got them
Prompt = str | list[dict[str, str]]  # bare text, or the turns of a conversation
NOT_SAMPLED = SampledWith(temperature=1.0, top_p=1.0, seed=0)


@dataclass(frozen=True)
class Sample:
    """One completion as text, with what the sampler knows of it.

    Attributes:
        text: the completion without special tokens.
        token_ids: the sampled ids, the end-of-sequence id included when it was reached.
        logprobs: log-probability (nats) of each id under the sampler.
        truncated: whether the token limit ended it.
        sampled: what it was sampled with.
        weights_hash: the hash of the weights that sampled it.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    truncated: bool
    sampled: SampledWith = NOT_SAMPLED
    weights_hash: str = ""


@dataclass(frozen=True)
class StepSignal:
    """A step's or turn's own reward, on the completion's characters [start, end)."""

    start: int
    end: int
    value: float


@dataclass(frozen=True)
class Scored:
    """What a game says of one completion.

    Attributes:
        reward: of the outcome; None masks the completion out.
        steps: rewards of single steps, which are added on the steps' own tokens.
        flaw: the characters [start, end) of the first flawed step, where it is located, with what
            separates it from the step before; an end beyond the text includes its end token. It
            takes the place of the outcome.
        ending: the characters with which a failure ends whose first flaw nobody located. They are
            its flaw where its whole group failed and others' flaws are located.
        passed: whether a rule accepts it; None where none judged it, or where it is no measure of
            the policy, such as the end of a solution that was begun for it.
    """

    reward: float | None
    steps: tuple[StepSignal, ...] = ()
    flaw: tuple[int, int] | None = None
    ending: tuple[int, int] | None = None
    passed: bool | None = None


class Scorer(Protocol):
    """A game's judge: `indices` are prompts of the block, one per completion, groups adjacent."""

    def __call__(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]: ...


class Respondent(Protocol):
    """Whoever answers prompts: a role, or a checkpoint's sampler."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        purpose: str,
        num: int = 1,
        temperature: float | None = None,
    ) -> list[list[Sample]]:
        """Sample `num` completions per prompt without an update; None: the training temperature."""
        ...

    def prompt_length(self, prompt: Prompt) -> int:
        """A prompt's number of tokens."""
        ...


class Examinee(Respondent, Protocol):
    """Whoever can be examined: sampled, and asked how likely given replies are."""

    @property
    def process_index(self) -> int:
        """This process's place among the run's processes, from 0."""
        ...

    def score(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Log-probabilities (nats) under the policy of each reply's tokens after its prompt."""
        ...


class Player(Examinee, Protocol):
    """A role as a game sees it.

    Attributes:
        name: "learner" or "critic".
    """

    name: str

    @property
    def num_steps(self) -> int:
        """Optimizer steps taken since the run began."""
        ...

    def prompts_per_block(self, steps: int) -> int:
        """How many prompts a block of optimizer steps consumes, over all processes."""
        ...

    def play(
        self, prompts: Sequence[Prompt], scorer: Scorer, purpose: str, block: str = ""
    ) -> None:
        """Train one block: sample a group per prompt, score the samples, update.

        Args:
            prompts: those of the block, in the order in which they are sampled.
            scorer: the game's judge.
            purpose: names the block in the seeds.
            block: names it in the log where it is not the role's own game.
        """
        ...

    def imitate(
        self,
        prompts: Sequence[Prompt],
        replies: Sequence[str],
        purpose: str,
        rate_factor: float = 1.0,
    ) -> None:
        """Train one block on given replies: raise the likelihood of each, token by token.

        Args:
            prompts: those of `replies_per_block(steps)` for some number of steps.
            replies: one per prompt.
            purpose: names the block in the log.
            rate_factor: the block's learning rate, as a multiple of what the schedule says.
        """
        ...

    def replies_per_block(self, steps: int) -> int:
        """How many replies a block of optimizer steps imitates, over all processes."""
        ...

    def weights_copy(self) -> Weights:
        """A copy of the policy's tensors that training changes, by name."""
        ...

    def put_back(self, weights: Weights) -> None:
        """Give the policy the weights of an earlier copy; its optimizer stays as it is."""
        ...

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Add what happens within the block to a stage's seconds."""
        ...
