"""What all processes ask of a role alike, asked once: each answers a share, and all get the whole.

Leaves out training, in which every process has prompts of its own.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from pipelines.rollouts.sample import Examinee, Prompt, Sample

T = TypeVar("T")
Gather = Callable[[list], list]  # the lists of all processes in one, given one's own


class SharedRole:
    """A role that is examined by every process together.

    Args:
        role: this process's copy of it.
        gather: over processes; each of them must make the same calls.
    """

    def __init__(self, role: Examinee, gather: Gather) -> None:
        self.role, self.gather = role, gather

    def sample(
        self,
        prompts: Sequence[Prompt],
        purpose: str,
        num: int = 1,
        temperature: float | None = None,
    ) -> list[list[Sample]]:
        """`num` samples per prompt; see `Respondent.sample`."""
        return self._shared(
            prompts, lambda own, _: self.role.sample(own, purpose, num, temperature), prompts
        )

    def score(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Log-probabilities (nats) of each reply's tokens after its prompt."""
        return self._shared(prompts, self.role.score, replies)

    def prompt_length(self, prompt: Prompt) -> int:
        """A prompt's number of tokens."""
        return self.role.prompt_length(prompt)

    def _shared(
        self,
        prompts: Sequence[Prompt],
        ask: Callable[[Sequence[Prompt], Sequence], Sequence[T]],
        beside: Sequence,
    ) -> list[T]:
        """What `ask` says of every prompt with what stands beside it, wherever it was asked."""
        counts = self.gather([len(prompts)])
        assert len(set(counts)) == 1, f"processes ask for {counts} answers: they must ask alike"
        num, rank = len(counts), self.role.process_index
        answers = self.gather([list(ask(prompts[rank::num], beside[rank::num]))])
        return [answers[place % num][place // num] for place in range(len(prompts))]
