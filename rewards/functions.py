"""A user's own rewards: `reward(task, completion)`, sync or async, each in processes of its own.

    a number           added to the reward, times its weight
    a list of numbers  one for each step of the solution, added on the step's own tokens
    None               no opinion: nothing is added

A function that raises, hangs or returns something else says nothing about the completion, which is
then left out of training, and counted: never a silent 0. Leaves out the processes
(`killable_worker.py`) and what becomes of the rewards (`pipelines/game/learner.py`).
"""

import ast
import asyncio
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.records import Generator, Task
from rewards.killable_worker import Reply
from rewards.solution import Solution
from rewards.worker_pool import WorkerPool

Value = float | list[float] | None
# Beyond it a group's mean may overflow in float32, and NaN would reach every weight.
GREATEST = 1e30
MADE_WHILE_RUNNING = {"globals", "setattr", "exec", "vars", "__getattr__"}  # how names may arise
DEFINED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_EXPECTED = f"a finite number within {GREATEST:g} of 0, a list of them or None is expected"


@dataclass(frozen=True)
class OwnReward:
    """What the user's functions say of one completion, weighted and added up.

    Attributes:
        value: of the whole; None where a function failed.
        steps: of each step of the solution; empty where no function says anything of steps.
        failure: why one failed.
    """

    value: float | None = 0.0
    steps: tuple[float, ...] = ()
    failure: str = ""

    def plus(self, value: "OwnReward") -> "OwnReward":
        """Both together, where the other says nothing of steps; nothing where either failed."""
        if self.value is None or value.value is None:
            return OwnReward(None, failure=self.failure or value.failure)
        return OwnReward(self.value + value.value, self.steps)


class RewardFunctions:
    """The user's functions; close it to end their processes.

    Args:
        weights: of each function, by `FILE.py:NAME` or `package.module:NAME`.
        timeout_seconds: a call's deadline.
        workers: the most processes of each function.
    """

    def __init__(self, weights: Mapping[str, float], timeout_seconds: float, workers: int) -> None:
        self.weights, self.timeout_seconds = weights, timeout_seconds
        self._pools = {spec: WorkerPool("function", workers, spec) for spec in weights}

    def prove(self, task: Task) -> None:
        """Call each function once, on the task's reference as a completion.

        Raises:
            UserError: one cannot be loaded, raises, hangs, or returns something else.
        """
        for spec in self.weights:
            _, failure = _read(self._ask(spec, task, task.reference), None)
            if failure:
                raise UserError(f"rewards.functions: {spec}: {failure}")

    def __call__(self, task: Task, solution: Solution) -> OwnReward:
        """What all of them say of a completion.

        Raises:
            UserError: one cannot be loaded any more.
        """
        total, steps = 0.0, [0.0] * len(solution.steps)
        says_steps = False
        for spec, weight in self.weights.items():
            value, failure = _read(self._ask(spec, task, solution.text), len(steps))
            if failure:
                return OwnReward(None, failure=f"{spec}: {failure}")
            if isinstance(value, list):
                says_steps = True
                steps = [a + weight * b for a, b in zip(steps, value, strict=True)]
            elif value is not None:
                total += weight * value
        if not all(-GREATEST <= each <= GREATEST for each in (total, *steps)):
            return OwnReward(None, failure=f"rewards beyond {GREATEST:g} with their weights")
        return OwnReward(total, tuple(steps) if says_steps else ())

    def _ask(self, spec: str, task: Task, completion: str) -> Reply:
        job = {"task": asdict(task), "completion": completion}
        try:
            return self._pools[spec].ask(job, self.timeout_seconds)
        except RuntimeError as error:  # its file may be edited while a run goes on
            raise UserError(f"rewards.functions: {spec}: {error}") from error

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools.values():
            pool.close()


def _read(reply: Reply, num_steps: int | None) -> tuple[Value, str]:
    """What a function returned, or why that is nothing."""
    value = reply.value
    if reply.status != "scored":
        return None, reply.detail
    if value is None:
        return None, ""
    values = [_number(v) for v in (value if isinstance(value, list) else [value])]
    numbers = [v for v in values if v is not None]
    if len(numbers) < len(values):
        return None, f"returned {value!r:.80}: {_EXPECTED}"
    if isinstance(value, list) and num_steps is not None and len(value) != num_steps:
        return None, f"returned {len(value)} numbers for a solution of {num_steps} steps"
    return (numbers if isinstance(value, list) else numbers[0]), ""


def _number(value: object) -> float | None:
    """A usable number, None for any other value; an integer may be too long for a float."""
    if isinstance(value, int | float) and -GREATEST <= value <= GREATEST:
        return float(value)
    return None


# -- in the function's own process ----------------------------------------------------------------


def load_function(spec: str) -> Callable[[Mapping[str, object]], dict[str, object]]:
    """The scorer of a worker that calls the user's function.

    Args:
        spec: `FILE.py:NAME` or `package.module:NAME`; the working directory can be imported from.

    Raises:
        ValueError: there is no such function.
    """
    function = load_named(spec)
    # One event loop for all calls: a client or a lock of the user's belongs to the loop it met.
    loop = asyncio.Runner()

    def score(job: Mapping[str, Any]) -> dict[str, object]:
        given = dict(job["task"])
        task = Task(**{**given, "generator": Generator(**given["generator"])})
        value = function(task, job["completion"])
        if inspect.isawaitable(value):
            value = loop.run(_awaited(value))
        return {"status": "scored", "value": _plain(value)}

    return score


def load_named(spec: str) -> Callable[..., Any]:
    """A function or class of the user's own.

    Args:
        spec: `FILE.py:NAME` or `package.module:NAME`; the working directory can be imported from.

    Raises:
        ValueError: there is no such function or class.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise ValueError(f"{spec} does not say which function: write FILE.py:NAME")
    sys.path.insert(0, os.getcwd())
    if place.endswith(".py"):
        stem = Path(place).stem  # rewards.py or random.py must not take a library's place
        taken = stem in sys.modules or stem in sys.stdlib_module_names
        found = importlib.util.spec_from_file_location(f"own_{stem}" if taken else stem, place)
        if found is None or found.loader is None or not Path(place).is_file():
            raise ValueError(f"there is no file {place}")
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module
        found.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    named = getattr(module, name, None)
    if not callable(named):
        raise ValueError(f"{place} ({module.__file__}) has no function or class {name!r}")
    return named  # type: ignore[no-any-return]


def check_named(spec: str) -> None:
    """Refuse a file or a name in it that there is not, without running the file.

    Raises:
        ValueError: as `load_named`; a name that only running the file gives is not refused.
    """
    place, _, name = spec.rpartition(":")
    if not place.endswith(".py"):
        return
    if not Path(place).is_file():
        raise ValueError(f"there is no file {place}")
    tree = ast.parse(Path(place).read_bytes(), place)
    said = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    said |= {n.name for n in ast.walk(tree) if isinstance(n, DEFINED)}
    brought = [n for n in ast.walk(tree) if isinstance(n, ast.alias)]
    said |= {(one.asname or one.name).partition(".")[0] for one in brought}
    if any(one.name == "*" for one in brought) or said & MADE_WHILE_RUNNING:
        return
    if name not in said:
        raise ValueError(f"{place} has no function or class {name!r}")


async def _awaited(value: Awaitable[object]) -> object:
    return await value


def _plain(value: Any) -> object:
    """Numbers of other libraries (tensors, arrays, their items) as Python's own."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else repr(value)
