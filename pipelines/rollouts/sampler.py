"""Samples for one role from exactly the policy's weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from pipelines.rollouts.engine import Completion, Engine, Sampling, completion_seed
from pipelines.rollouts.sample import Prompt, Sample
from pipelines.settings.tables import RoleTable


@dataclass(frozen=True)
class Order:
    """Requests to the engine, and whose weights must answer them.

    Attributes:
        groups: the groups' numbers in the ledger.
        version, weights: number and hash of the policy's weights.
    """

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    seeds: Sequence[int]
    group_size: int
    groups: Sequence[int]
    version: int
    weights: str


@dataclass(frozen=True)
class Drawn:
    """An order's completions, one a prompt."""

    order: Order
    completions: Sequence[Completion]


NOTHING = Drawn(Order([], Sampling(1), [], 1, [], -1, ""), [])


@dataclass(frozen=True)
class Served:
    """A checkpoint that is ready to be sampled from.

    Attributes:
        weights: `weights_hash` of its policy, the same as in the trainer's records.
    """

    weights: str
    tokenizer: PreTrainedTokenizerBase
    engine: Engine


@dataclass(frozen=True)
class Sampler:
    """One role's sampling; what it draws depends on its arguments alone, not on earlier draws."""

    name: str
    served: Served
    role: RoleTable
    seed: int

    def sample(self, prompts: Sequence[Prompt], purpose: str, num: int = 1) -> list[list[Sample]]:
        """Sample `num` completions for each prompt; `purpose` names the draw in their seeds."""
        if not prompts:
            return []
        engine = self.served.engine
        ids = [ids for ids in map(self._token_ids, prompts) for _ in range(num)]
        seeds = [completion_seed(self.seed, self.name, purpose, i) for i in range(len(ids))]
        sampling = Sampling(self.role.max_completion_length, self.role.temperature)
        drawn = zip(engine.generate(ids, sampling, seeds), seeds, strict=True)
        samples = [
            Sample(
                self._text(c.token_ids),
                c.token_ids,
                c.logprobs,
                c.truncated,
                seed,
                self.served.weights,
            )
            for c, seed in drawn
        ]
        return [samples[i : i + num] for i in range(0, len(samples), num)]

    def _token_ids(self, prompt: Prompt) -> list[int]:
        tokenizer = self.served.tokenizer
        if isinstance(prompt, str):
            return tokenizer(prompt)["input_ids"]
        return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]

    def _text(self, token_ids: Sequence[int]) -> str:
        return self.served.tokenizer.decode(token_ids, skip_special_tokens=True)
