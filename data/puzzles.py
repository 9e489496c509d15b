"""Tasks from reasoning-gym's procedural families, split by hash.

A draw scans one endless stream of entries, fixed by the seed alone, and keeps those whose hash
falls into the wanted split. The stream is cut into chunks of one generator seed each. Chunk seeds
lie a chunk apart, since most families give entry i the seed `seed + i`: neighbouring seeds would
repeat each other's entries.

Kept is only what can be judged later from plain JSON: an entry whose own gold answer does not
score 1.0 once it went through JSON is passed over (a few in a thousand), and a family where none
does (`arc_agi`, `rearc`: their scorers compare tuples) is refused. Passed over, too, is an entry
that its generator fails to make (`FAILURES`).
"""

import dataclasses
import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
from reasoning_gym.arithmetic import basic_arithmetic
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS, create_dataset

from data.errors import UserError, unknown_name
from data.records import (
    DEFAULT_SHARES,
    SPLITS,
    Generator,
    Shown,
    Split,
    Task,
    canonical_json,
    identity,
    make_task,
    split_of,
)

CHUNK_SIZE = 1024
LOOP_OWNED = ("seed", "size")
# A draw gives up after this many entries without a new task, times what a new task costs to find.
PATIENCE = 200
# How generators give up on an entry; basic_arithmetic also divides by zero now and then:
# https://github.com/open-thought/reasoning-gym/issues/484
FAILURES = (ArithmeticError, RuntimeError, ValueError)
# basic_arithmetic finds divisors by trial division, for minutes on its largest numbers.
MAX_DIVIDEND = 10**10


class ReasoningGymSource:
    """Verifiable puzzles of one reasoning-gym family.

    Args:
        family: the family's name, such as `basic_arithmetic`.
        params: the family's own parameters (`min_terms`, ...), all but `seed` and `size`.
        shown: how questions are rendered, which fixes each task's identity and split.

    Raises:
        UserError: the family or a parameter is unknown, a value is refused by the family, or
            its entries do not survive JSON.
    """

    def __init__(
        self,
        family: str = "basic_arithmetic",
        params: Mapping[str, object] | None = None,
        shown: Shown | None = None,
    ) -> None:
        self.family, self._shown = family, shown
        self.params: dict[str, object] = dict(params or {})
        _check_params(family, self.params)
        self._difficulty = canonical_json(self.params)
        self._version = version("reasoning-gym")
        with _guarded(0):
            trial = [(chunk, entry) for _, chunk, entry in itertools.islice(self._entries(0), 3)]
            if not any(_usable(chunk, entry) for chunk, entry in trial):
                raise UserError(
                    f'family "{family}" cannot be used: its gold answers do not score 1.0 after '
                    "its entries were stored as JSON; choose another family"
                )

    def draw(
        self, split: Split, num: int, seed: int, exclude: frozenset[str] = frozenset()
    ) -> list[Task]:
        """Return `num` distinct tasks of `split`, the same for the same arguments.

        A longer draw begins with the shorter one of the same seed.

        Args:
            exclude: ids of tasks to leave out.

        Raises:
            UserError: the family does not yield that many distinct tasks in this split.
            ValueError: `split` is not a split.
        """
        if split not in SPLITS:
            raise ValueError(unknown_name("split", split, SPLITS))
        tasks: dict[str, Task] = {}
        patience = math.ceil(PATIENCE / DEFAULT_SHARES[split])
        num_idle = 0
        with _guarded(seed):
            for chunk_seed, chunk, entry in self._entries(seed):
                if len(tasks) >= num:
                    break
                if num_idle > patience:
                    raise UserError(
                        f'{self.family} yielded only {len(tasks)} of {num} distinct "{split}" '
                        f"tasks: ask for fewer, or widen its params {self._difficulty}"
                    )
                num_idle += 1
                task_id = identity(self.family, entry["question"], self._shown)
                if task_id is None or task_id in tasks or task_id in exclude:
                    continue
                if split_of(task_id) != split:
                    continue
                stored = _usable(chunk, entry)
                if stored is not None:
                    tasks[task_id] = self._task(stored, chunk_seed)
                    num_idle = 0
        return list(tasks.values())

    def _entries(self, seed: int) -> Iterator[tuple[int, ProceduralDataset, dict[str, Any]]]:
        """Yield the endless stream of entries, each with its chunk and the chunk's seed."""
        # Spread over 31 bits: seeds 0, 1, 2 of three rounds must not share entries.
        chunk_seed = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big") >> 1
        while True:
            chunk = self._chunk(chunk_seed)
            for index in range(CHUNK_SIZE):
                try:
                    entry = chunk[index]
                except FAILURES:
                    continue
                yield chunk_seed, chunk, entry
            chunk_seed += CHUNK_SIZE

    def _chunk(self, chunk_seed: int) -> ProceduralDataset:
        return create_dataset(self.family, seed=chunk_seed, size=CHUNK_SIZE, **self.params)

    def _task(self, entry: dict[str, Any], chunk_seed: int) -> Task:
        return make_task(
            family=self.family,
            question=entry["question"],
            reference=entry["answer"] or "",  # a few families have a scorer but no one gold answer
            verifier="puzzle",
            entry=entry,
            shown=self._shown,
            generator=Generator(
                name=f"reasoning_gym/{self.family}",
                version=self._version,
                seed=chunk_seed,
                difficulty=self._difficulty,
            ),
        )


def _check_params(family: str, params: Mapping[str, object]) -> None:
    families = DATASETS.keys() - {"composite"}  # a mixture of families, not one
    if family not in families:
        raise UserError(unknown_name("reasoning-gym family", family, families))
    config_class = DATASETS[family][1]
    known = {field.name for field in dataclasses.fields(config_class)} - set(LOOP_OWNED)
    for name in params:
        if name in LOOP_OWNED:
            raise UserError(f'params may not set "{name}" of {family}: the draw sets it')
        if name not in known:
            raise UserError(unknown_name(f"parameter of {family}", name, known))
    try:
        create_dataset(family, seed=0, size=CHUNK_SIZE, **params)
    except (AssertionError, TypeError, ValueError) as error:  # how the families refuse a value
        raise UserError(f"{family} refuses params {dict(params)}: {error}") from error


def _usable(chunk: ProceduralDataset, entry: dict[str, Any]) -> dict[str, Any] | None:
    """Return the entry as JSON gives it back, or None if it cannot be judged from that."""
    try:
        text = json.dumps(entry, default=str, allow_nan=False)
    except ValueError:  # NaN or infinity
        return None
    stored: dict[str, Any] = json.loads(text)
    gold = stored["answer"]
    if gold is None:
        return stored
    if not isinstance(gold, str) or chunk.score_answer(gold, stored) < 1 - 1e-9:
        return None
    return stored


@contextmanager
def _guarded(seed: int) -> Iterator[None]:
    """Keep generators from disturbing the process, or from taking minutes over one entry.

    Some families use or reseed the global random generators: these are pinned, and restored after.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    find_divisors = basic_arithmetic.find_common_divisors
    random.seed(seed)
    np.random.seed(seed % 2**32)
    basic_arithmetic.find_common_divisors = _find_divisors_or_give_up(find_divisors)
    try:
        yield
    finally:
        basic_arithmetic.find_common_divisors = find_divisors
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _find_divisors_or_give_up(
    find_divisors: Callable[[int, int], list[int]],
) -> Callable[[int, int], list[int]]:
    def bounded(a: int, b: int) -> list[int]:
        if math.gcd(a, b) > MAX_DIVIDEND:
            raise ArithmeticError("too large for trial division")
        return find_divisors(a, b)

    return bounded
