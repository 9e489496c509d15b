"""Which mutants that pass HumanEval's tests are equal to their reference, and which are not seen?

    python benchmarks/exp_survivors.py HumanEval.jsonl.gz

Takes the survivors of `bench_sandbox.py` from benchmarks/results/sandbox.json and asks mutant and
reference for the same inputs: those of the tests, changed at random. A survivor with another value
on one of them is kept with that input; the others are equal as far as `NUM_INPUTS` inputs show.
Both run in this process, without any sandbox: only for problems that one trusts.
"""

import argparse
import copy
import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_sandbox import difference, parameters, read_tasks
from harness import RESULTS, write_result
from mutants import entry_of, mutants

NUM_INPUTS = 1500
SECONDS = 0.3  # of processor time of one call
MOST_LATE = 4  # calls of a reference that do not end in it


class Late(BaseException):
    """A call took too long."""


def ended(function: Callable[..., Any], inputs: tuple[Any, ...]) -> str:
    """How a call ends: "late", "raises", or its value as text."""
    inputs, running = copy.deepcopy(inputs), False

    def interrupt(*_: object) -> None:
        if running:
            raise Late

    signal.signal(signal.SIGPROF, interrupt)
    try:
        try:
            running = True
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            return repr(function(*inputs))
        finally:
            running = False
            signal.setitimer(signal.ITIMER_PROF, 0)
    except Late:
        return "late"
    except Exception:
        return "raises"


def changed(value: Any, rng: random.Random) -> Any:
    """A value of the same type, near this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = (value + 1, value - 1, value * 2, rng.randint(0, 12), rng.randint(0, abs(value) + 2))
        return rng.choice(near) if value >= 0 else value + rng.randint(-3, 3)
    if isinstance(value, float):
        return rng.choice([value + 1, value - 0.5, value * 2, round(rng.uniform(0, 5), 1)])
    if isinstance(value, str):
        return "".join(_rearranged([*value], rng, lambda one, _: chr(ord(one) + one.isalnum())))
    if isinstance(value, list | tuple):
        return type(value)(_rearranged([*value], rng, changed))
    if isinstance(value, dict) and value:
        key = rng.choice([*value])
        return {**value, key: changed(value[key], rng), changed(key, rng): value[key]}
    return value


def _rearranged(items: list[Any], rng: random.Random, change: Callable[..., Any]) -> list[Any]:
    if not items:
        return items
    place, how = rng.randrange(len(items)), rng.randrange(4)
    if how == 0:
        del items[place]
    elif how == 1:
        items.insert(place, copy.deepcopy(rng.choice(items)))
    elif how == 2:
        rng.shuffle(items)
    else:
        items[place] = change(items[place], rng)
    return items


def tell_apart(
    reference: Callable[..., Any], mutant: Callable[..., Any], inputs: list[tuple[Any, ...]]
) -> dict[str, str] | None:
    """An input on which both differ; None where none was found."""
    rng, num_late = random.Random(0), 0
    for _ in range(NUM_INPUTS):
        given = [*copy.deepcopy(rng.choice(inputs))]
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(given))
            given[place] = changed(given[place], rng)
        right = ended(reference, tuple(given))
        num_late += right == "late"
        if num_late >= MOST_LATE:
            return None
        if right not in ("late", "raises") and (other := ended(mutant, tuple(given))) != right:
            return {"input": f"{tuple(given)!r:.120}", "right": right[:60], "mutant": other[:60]}
    return None


def asked(check: Callable[..., Any], reference: Callable[..., Any]) -> list[tuple[Any, ...]]:
    """The inputs of a problem's tests."""
    inputs: list[tuple[Any, ...]] = []

    def recorded(*given: Any) -> Any:
        inputs.append(copy.deepcopy(given))
        return reference(*given)

    check(recorded)
    return inputs


def defined(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "program"}
    exec(code, names)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    result = json.loads((RESULTS / "sandbox.json").read_text())
    survivors, found = result["quality"]["survivors"], []
    for task in read_tasks(parser.parse_args().path, 10**9):
        entry, given = entry_of(task), parameters(task)
        of_task = [one for one in survivors if one["task"] == entry]
        if not of_task:
            continue
        reference = defined(task.reference)[entry]
        check = defined("\n".join([task.reference, *given.tests]))["check"]
        inputs = asked(check, reference)
        for kind, text in mutants(task):
            one = {"task": entry, "kind": kind, **difference(task.reference, text)}
            if one in of_task:
                of_task.remove(one)
                apart = tell_apart(reference, defined(text)[entry], inputs)
                found.append({**one, "apart": apart})
    kinds = Counter("apart" if one["apart"] else "no difference found" for one in found)
    print(dict(kinds))
    write_result("sandbox", {**result, "survivors": {"counts": dict(kinds), "mutants": found}})


if __name__ == "__main__":
    main()
