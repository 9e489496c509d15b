"""Flawed solutions made on purpose, to train and audit the critic.

A right chain solution gets one mistake of a known kind at a known step, and goes on consistently
from it; or it gets two that cancel, so that its answer is right by wrong steps. Planting reads the
right solution and what operation the task names, and never asks whether a step holds: it serves
families whose step checks are withheld from training too. A solution that reached the right answer
by wrong steps must not be planted in, since its own first wrong step may come earlier; where steps
are withheld nothing can tell.

Leaves out the learner's own mistakes, which the rollouts supply, and planting in free text.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from data.records import Task
from rewards.chain import ChainDialect, chain_of, stated, write_step, write_steps
from rewards.mistakes import MISTAKES, Mistake, Place, Stated, mistakes_at
from rewards.operations import Chain
from rewards.verdict import Verdict

FlawKind = Mistake | Literal["cancelling"]
# A term after the last one has no operand to restate.
SINGLE_FLAWS: tuple[Mistake, ...] = tuple(kind for kind in MISTAKES if kind != "extra_term")
FLAW_KINDS: tuple[FlawKind, ...] = (*SINGLE_FLAWS, "cancelling")
_CHAIN = ChainDialect()


@dataclass(frozen=True)
class PlantedFlaw:
    """A corrupted solution, and the truth about it.

    Attributes:
        step_id: its first wrong step; every step before it is the right solution's own.
        kind: the mistake at that step; "cancelling" is any that another one made up for.
        right_step: the text that stood there in the right solution.
        later: the same of the step that makes up for it, after what was stated before; empty where
            none does.
        sound: whether its answer is right nevertheless.
    """

    text: str
    step_id: str
    kind: FlawKind
    right_step: str
    sound: bool
    later: Mapping[str, str] = field(default_factory=dict)


def plant(
    task: Task,
    solution_text: str,
    rng: random.Random,
    verify: Callable[[str], Verdict],
    kinds: Sequence[FlawKind] = FLAW_KINDS,
) -> PlantedFlaw | None:
    """Corrupt a right chain solution, by each kind as often as by any other.

    Args:
        task: a task of the chain dialect.
        solution_text: the right solution.
        rng: chooses the kind, then the step, then the variant.
        verify: the rule's verdict on a solution of this task.
        kinds: those to choose among; one that this solution has no room for gives way to another.

    Returns:
        The flaw, or None if the solution did not pass to begin with, has room for none of the
        kinds, or if the verifier does not confirm what became of the answer.
    """
    solution = _CHAIN.parse_solution(solution_text, truncated=False)
    if not solution.well_formed or not verify(solution_text).passed:
        return None
    right = [stated(step) for step in solution.steps]
    operands = tuple(each.operand for each in right if each.operand is not None)
    chain = Chain(chain_of(task).operation, operands)
    for kind in rng.sample(kinds, len(kinds)):
        if kind == "cancelling":
            found = next(_cancelling(chain, right, rng), None)
        else:
            found = next(_single(chain, right, kind, rng), None)
        if found is None:
            continue
        index, said, due = found
        text, sound = write_steps(said), kind == "cancelling"
        if verify(text).outcome != ("correct" if sound else "incorrect"):
            return None
        parsed = _CHAIN.parse_solution(text, truncated=False)
        right_step = write_step(index, right[index])
        later = {parsed.steps[place].id: write_step(place, step) for place, step in due.items()}
        return PlantedFlaw(text, parsed.steps[index].id, kind, right_step, sound, later)
    return None


_Corrupted = tuple[int, list[Stated], Mapping[int, Stated]]


def _single(
    chain: Chain, right: list[Stated], kind: Mistake, rng: random.Random
) -> Iterator[_Corrupted]:
    """Solutions with one mistake of a kind and a wrong answer, and where it stands."""
    for index, slip in _slips(chain, right, kind, rng):
        said = [*right[:index], slip, *_continued(chain, index, slip)]
        if said[-1].value != right[-1].value:
            yield index, said, {}


def _cancelling(chain: Chain, right: list[Stated], rng: random.Random) -> Iterator[_Corrupted]:
    """Solutions whose value goes wrong and comes back, and where; with what was due there."""
    for kind in rng.sample(SINGLE_FLAWS, len(SINGLE_FLAWS)):
        for index, slip in _slips(chain, right, kind, rng):
            if slip.operand is None:
                continue  # nothing follows that could make up for it
            later = _continued(chain, index, slip)
            back = rng.randrange(len(later))  # this one states the right value by chance
            place = index + 1 + back
            due = {place: later[back]} if later[back] != right[place] else {}
            yield index, [*right[:index], slip, *later[:back], *right[place:]], due


def _slips(
    chain: Chain, right: list[Stated], kind: Mistake, rng: random.Random
) -> Iterator[tuple[int, Stated]]:
    """Every way to go wrong by this kind, in a random order."""
    for index in rng.sample(range(len(right)), len(right)):
        previous = right[index - 1].value if index else chain.operation.identity
        variants = mistakes_at(Place(chain, index, previous), kind)
        for slip in rng.sample(variants, len(variants)):
            yield index, slip


def _continued(chain: Chain, index: int, slip: Stated) -> list[Stated]:
    """The steps after a slip, right but for it; none after a final answer."""
    if slip.operand is None:
        return []
    rest = chain.operands[index + 1 :]
    values = chain.operation.run(rest, start=slip.value)
    last = values[-1] if values else slip.value
    pairs = zip(rest, values, strict=True)
    return [*(Stated(operand, value) for operand, value in pairs), Stated(None, last)]
