"""Evaluate a checkpoint: one function, from a request to a report.

    from pathlib import Path
    from pipelines.inference.evaluate import Request, evaluate_checkpoint

    report = evaluate_checkpoint(Request(Path("runs/tiny"), num_samples=16))
    report.row("majority", 8).accuracy.value

Leaves out the command line (`pipelines/evaluate.py`).
"""

import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from data.records import SPLITS, Split, Task
from data.source import draw_held_out, draw_up_to
from pipelines.errors import UserError, unknown_name
from pipelines.game.curriculum import build_source
from pipelines.game.referee import Referee, verifiers_of
from pipelines.inference.answers import same_answers
from pipelines.inference.attempts import Attempt, Solver
from pipelines.inference.methods import Classes, Pool, Quality, method_rows, quality
from pipelines.inference.redo import redo_rounds
from pipelines.inference.table import InferenceReport
from pipelines.run.directory import versions
from pipelines.run.origin import Origin, find_origin, load_samplers
from pipelines.run.tasks import Context, context_of
from rewards.verifiers import Verifiers

ALL = "all"
MAX_TASKS = 1_000_000


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    Attributes:
        source: a run, one of its rounds, a checkpoint directory, or a hub id.
        config: TOML settings, which a checkpoint needs; a run has its own.
        overrides: `table.key=value`, over the settings.
        critic: judge with this checkpoint instead of the source's own.
        criticise: False leaves out the critic and every method that needs one.
        split: of the tasks; None is "test", and every task of `tasks_file`.
        tasks_file: the user's own JSON lines instead of the configured tasks.
        num_tasks: the most tasks; None is `evaluate.num_tasks`, and every task of `tasks_file`.
        num_samples: solutions per task.
        num_redos: the most redos of a solution.
        greedy: also one solution per task at temperature 0.
        control: also redo and choose by shuffled critiques.
        seed: fixes the samples; the tasks are always the same.
    """

    source: Path
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    critic: Path | None = None
    criticise: bool = True
    split: str | None = None
    tasks_file: Path | None = None
    num_tasks: int | None = None
    num_samples: int = 8
    num_redos: int = 2
    greedy: bool = True
    control: bool = True
    seed: int = 0


def evaluate_checkpoint(
    request: Request, say: Callable[[str], None] = lambda line: None
) -> InferenceReport:
    """Sample one pool of solutions with critiques, and report every method on it.

    Args:
        request: what to evaluate.
        say: is given a line at the start of each stage.

    Raises:
        UserError: a user's mistake; nothing was sampled unless a context turns out too small.
    """
    _check(request)
    origin = find_origin(
        request.source, request.config, request.overrides, request.critic, request.criticise
    )
    settings = origin.settings
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(verifiers_of(settings.rewards)) as verifiers,
    ):
        referee = Referee(settings, verifiers)
        context = context_of(origin, referee)
        with context.explaining():
            name, tasks = _tasks(request, origin, context, say)
        say(f"loading {origin.learner}")
        learner, critic = load_samplers(origin, request.seed, Path(scratch))
        pool = _sample(Solver(referee, learner, critic), tasks, request, say)
        if referee.num_too_long:
            say(f"{referee.num_too_long} solutions are too long for the critic: no critique")
    weights = {"learner": learner.engine.weights.hash}
    weights |= {} if critic is None else {"critic": critic.engine.weights.hash}
    return InferenceReport(
        learner=origin.learner,
        critic=origin.critic,
        weights=weights,
        tasks=name,
        split=_split_name(request),
        num_tasks=len(tasks),
        num_samples=request.num_samples,
        temperature=learner.temperature,
        seed=request.seed,
        rows=tuple(method_rows(pool, request.seed)),
        qualities=tuple(_qualities(pool)),
        versions=versions(),
    )


def _sample(
    solver: Solver, tasks: Sequence[Task], request: Request, say: Callable[[str], None]
) -> Pool:
    """Everything that the methods need, each sample drawn once."""
    num, verifiers = request.num_samples, solver.referee.verifiers
    say(f"{len(tasks)} tasks, {num} solutions each")
    solved = solver.solve(tasks, num, "pool")
    greedy: list[Attempt] = []
    if request.greedy:
        say("greedy solutions")
        greedy = solver.solve(tasks, 1, "greedy", temperature=0.0)
    if solver.critic is None:
        groups = _groups(solved, num)
        return Pool(groups, _classes(verifiers, groups), greedy)
    say("critiques")
    judged = solver.criticise(solved, "critique of pool")
    say(f"at most {request.num_redos} redos")
    rounds = redo_rounds(solver, judged, request.num_redos, "redo")
    shuffled = []
    if request.control:
        say("the same with shuffled critiques")
        shuffle = random.Random(request.seed)
        shuffled = redo_rounds(solver, judged, request.num_redos, "shuffled redo", shuffle)
    groups = _groups(judged, num)
    redone = _groups([standing.attempt for standing in rounds[-1]], num)
    classes = _classes(verifiers, groups), _classes(verifiers, redone)
    return Pool(groups, classes[0], greedy, rounds, classes[1], shuffled)


def _groups(attempts: Sequence[Attempt], num: int) -> list[Sequence[Attempt]]:
    return [attempts[i : i + num] for i in range(0, len(attempts), num)]


def _classes(verifiers: Verifiers, groups: Sequence[Sequence[Attempt]]) -> Classes:
    return [
        same_answers(verifiers, group[0].task, [(a.solution, a.verdict) for a in group])
        for group in groups
    ]


def _qualities(pool: Pool) -> list[Quality]:
    found = [quality("pool", [a for group in pool.attempts_NK for a in group])]
    if pool.greedy_N:
        found.append(quality("greedy", pool.greedy_N))
    for name, rounds in (
        ("after redos", pool.rounds), ("after redos, shuffled critiques", pool.shuffled_rounds),
    ):  # fmt: skip
        if len(rounds) > 1:
            # Without critiques: those of what was redone are gone, the others prove nothing.
            found.append(quality(name, [replace(s.attempt, critique=None) for s in rounds[-1]]))
    return found


def _tasks(
    request: Request, origin: Origin, context: Context, say: Callable[[str], None]
) -> tuple[str, list[Task]]:
    """Where the tasks come from, and the tasks."""
    settings, file = origin.settings, request.tasks_file
    if file is not None:
        if settings.tasks.part_of(file) is not None and request.split is None:
            raise UserError(
                f"{file} is a file that the settings train on: add --split test (or --split all)"
            )
        settings = settings.model_copy(update={"tasks": settings.tasks.of_file(file)})
    source, name = build_source(settings, context.fits), _split_name(request)
    if file is None:
        num = settings.evaluate.num_tasks if request.num_tasks is None else request.num_tasks
        tasks = draw_held_out(source, _split(name), num)
    else:
        wanted = SPLITS if name == ALL else (_split(name),)
        tasks = [task for split in wanted for task in draw_up_to(source, split, MAX_TASKS, 0)]
        random.Random(0).shuffle(tasks)
        if not tasks:
            raise UserError(f'{file} has no "{name}" tasks: give --split all')
        tasks = tasks[: request.num_tasks]
    for line in [*source.remarks(), *context.remarks()]:
        say(line)
    return settings.tasks.name, tasks


def _split_name(request: Request) -> str:
    if request.split is not None:
        return request.split
    return "test" if request.tasks_file is None else ALL


def _split(name: str) -> Split:
    for split in SPLITS:
        if split == name:
            return split
    raise UserError(unknown_name("split", name, SPLITS))


def _check(request: Request) -> None:
    for name, value, least in (
        ("--num", 1 if request.num_tasks is None else request.num_tasks, 1),
        ("--samples", request.num_samples, 1), ("--redos", request.num_redos, 0),
        ("--seed", request.seed, 0),
    ):  # fmt: skip
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    if request.critic is not None and not request.criticise:
        raise UserError("--critic and --no-critic exclude each other: leave out one")
    name = _split_name(request)
    if name == ALL and request.tasks_file is None:
        raise UserError("--split all is for a file of your own: add --tasks FILE")
    if name != ALL:
        _split(name)
