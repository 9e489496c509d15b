"""A procedural family of our own, in reasoning-gym's form: double, add a digit, keep three places.

Horner's rule at two, modulo 1000. No step is hard, their order matters, and a mistake doubles with
every step after it. Importing this module registers the family with reasoning-gym. Leaves out how
solutions are written (`rewards.chain`).
"""

import random
from dataclasses import dataclass

from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS, register_dataset

FAMILY = "double_and_add"
KEPT = 1000
VERSION = "2"  # raised when the same seed makes other tasks
QUESTION = (
    "Start at zero and for each of these digits double the number and add the digit and keep the "
    "last three places: {digits}. Give only the result as your final answer."
)


@dataclass
class DoubleAndAddConfig:
    """How many digits a task has, from `min_terms` to `max_terms`."""

    min_terms: int = 8
    max_terms: int = 12
    seed: int | None = None
    size: int = 500

    def validate(self) -> None:
        """Refuse what no task can be made of, as reasoning-gym's families do."""
        assert self.size > 0, "size must be positive"
        assert self.min_terms > 0, "min_terms must be positive"
        assert self.max_terms >= self.min_terms, "max_terms must be >= min_terms"


class DoubleAndAddDataset(ProceduralDataset):  # type: ignore[misc]  # it has no types
    """Digits from 0 to 9, the first above 0; the answer is their value at two, modulo 1000."""

    config: DoubleAndAddConfig
    seed: int

    def __init__(self, config: DoubleAndAddConfig) -> None:
        super().__init__(config=config, seed=config.seed, size=config.size)

    def __getitem__(self, idx: int) -> dict[str, object]:
        """Make one task: its `question`, its `answer`, and `metadata`."""
        rng = random.Random(self.seed + idx)
        num = rng.randint(self.config.min_terms, self.config.max_terms)
        digits = [rng.randint(1, 9), *(rng.randint(0, 9) for _ in range(num - 1))]
        value = 0
        for digit in digits:
            value = (2 * value + digit) % KEPT
        return {
            "question": QUESTION.format(digits=", ".join(map(str, digits))),
            "answer": str(value),
            "metadata": {"source_dataset": FAMILY, "source_index": idx, "digits": digits},
        }


if FAMILY not in DATASETS:
    register_dataset(FAMILY, DoubleAndAddDataset, DoubleAndAddConfig)
