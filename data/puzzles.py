"""Tasks from reasoning-gym's procedural families and our own, split by hash.

A draw scans one endless stream of entries, fixed by the seed alone, and keeps those whose hash
falls into the wanted split. The stream is cut into chunks of one generator seed each. Chunk seeds
lie a chunk apart, since most families give entry i the seed `seed + i`: neighbouring seeds would
repeat each other's entries.

Kept is only what can be judged later from plain JSON. Passed over are an entry whose own gold
answer does not score 1.0 once it went through JSON (a few in a thousand), an entry for which the
family's scorer gives full marks to an answer that is plainly wrong (`NEGATIVE_CONTROLS`), and an
entry that its generator fails to make (`FAILURES`). A family that would lose half of its first
entries is refused: `arc_agi` and `rearc`, whose scorers compare tuples; `game_of_life_halting`,
whose scorer takes any text; `coin_flip`, whose scorer takes "0" for 0.234; `complex_arithmetic`,
whose scorer takes "nan".
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from typing import Any

import numpy as np
from reasoning_gym.arithmetic import basic_arithmetic
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS, create_dataset

from data import double_and_add
from data.errors import UserError, unknown_name
from data.records import (
    DEFAULT_SHARES,
    SPLITS,
    Fits,
    Generator,
    Shown,
    Split,
    Task,
    canonical_json,
    identity,
    make_task,
    split_of,
)
from data.spelling import spelling_key

CHUNK_SIZE = 1024
LOOP_OWNED = ("seed", "size")
# A draw gives up after this many entries without a new task, times what a new task costs to find.
PATIENCE = 200
NUM_TRIALS = 8  # first entries that decide whether a family can be used
FULL_MARKS = 1 - 1e-9
# What no scorer may take for right, unless it is the gold answer itself.
NEGATIVE_CONTROLS = (
    *("", "\0garbage", "abc", "no idea", "None", "null", "nan", "[]", "{}"),
    *("0", "1", "-1", "True", "False"),
)
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
        fits: whether the context holds a task; None holds any.

    Raises:
        UserError: the family or a parameter is unknown, a value is refused by the family, or
            its entries do not survive JSON.
    """

    def __init__(
        self,
        family: str = "basic_arithmetic",
        params: Mapping[str, object] | None = None,
        shown: Shown | None = None,
        fits: Fits | None = None,
    ) -> None:
        self.family, self._shown, self._fits = family, shown, fits
        self.params: dict[str, object] = dict(params or {})
        _check_params(family, self.params)
        self._difficulty = canonical_json(self.params)
        own = family == double_and_add.FAMILY
        self._origin = "sparring" if own else "reasoning_gym"
        self._version = double_and_add.VERSION if own else version("reasoning-gym")
        with _guarded(0):
            trials = itertools.islice(self._entries(0), NUM_TRIALS)
            faults = [_fault(chunk, entry) for _, chunk, entry in trials]
        if 2 * sum(fault is not None for fault in faults) >= NUM_TRIALS:
            found = "; ".join(sorted({fault for fault in faults if fault}))
            raise UserError(f'family "{family}" cannot be used: {found}; choose another family')

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
                if _fault(chunk, entry) is not None:
                    continue
                task = self._task(_stored(entry), chunk_seed)
                if self._fits is None or self._fits(task):
                    tasks[task_id], num_idle = task, 0
        return list(tasks.values())

    def draw_round(
        self, num: int, seed: int, exclude: frozenset[str], played: Mapping[str, int]
    ) -> list[Task]:
        """Return `num` fresh training tasks; see `TaskSource`."""
        return self.draw("train", num, seed, exclude)

    def ids(self, split: Split) -> frozenset[str]:
        """None: tasks are made on demand."""
        return frozenset()

    def keys(self, split: Split) -> dict[str, str]:
        """None, for the same reason."""
        return {}

    def key(self, question: str) -> str:
        """What tells a question from others, however it is spelled."""
        return spelling_key(question, self._shown)

    def remarks(self) -> list[str]:
        """Nothing."""
        return []

    def reports(self) -> list[dict[str, Any]]:
        """Nothing: there are no rows."""
        return []

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
                name=f"{self._origin}/{self.family}",
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


def _stored(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry as JSON gives it back.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    stored: dict[str, Any] = json.loads(json.dumps(entry, default=str, allow_nan=False))
    return stored


def _fault(chunk: ProceduralDataset, entry: dict[str, Any]) -> str | None:
    """Why answers to this entry cannot be judged from what JSON keeps of it; None if they can."""
    unkept = "its gold answers do not score 1.0 after its entries were stored as JSON"
    try:
        stored = _stored(entry)
    except ValueError:
        return unkept
    gold = stored["answer"]
    if gold is not None and not (isinstance(gold, str) and _full_marks(chunk, gold, stored)):
        return unkept
    if type(chunk).score_answer is ProceduralDataset.score_answer:
        return None  # compares strings
    for wrong in NEGATIVE_CONTROLS:
        if not same_answer(wrong, gold) and _full_marks(chunk, wrong, stored):
            return f"its scorer gives full marks to the answer {wrong!r}"
    return None


def _full_marks(chunk: ProceduralDataset, answer: str, entry: dict[str, Any]) -> bool:
    try:
        return bool(chunk.score_answer(answer, entry) >= FULL_MARKS)
    except Exception:  # the boundary to the library: a scorer that raises gives no marks
        return False


def same_answer(answer: str, gold: str | None) -> bool:
    """Whether two answers are equal as text or as numbers; no answer equals a missing gold one."""
    if gold is None:
        return False
    if answer.casefold() == gold.strip().casefold():
        return True
    try:
        return math.isclose(float(answer), float(gold), abs_tol=1e-3)
    except ValueError:
        return False


@contextmanager
def _guarded(seed: int) -> Iterator[None]:
    """Keep generators from disturbing the process, or from taking minutes over one entry.

    Some families use or reseed the global random generators: these are pinned, and restored after.
    Some print: standard output stays clean for what the program itself has to say.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    find_divisors = basic_arithmetic.find_common_divisors
    random.seed(seed)
    np.random.seed(seed % 2**32)
    basic_arithmetic.find_common_divisors = _find_divisors_or_give_up(find_divisors)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
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
