"""What the cold start imitates: procedural solutions and critiques of them.

A criticised solution is right, or it is flawed in one of two ways: planted, by every kind of flaw
as often as by any other, or the work of a solver that slips as often as the demonstrated one, but
in every way alike, with misread operands more often (`EVEN_SLIPS`). A critic that seldom saw a
wrong step would learn to copy what is stated.
"""

import random
from collections.abc import Sequence

from critic.flaws import plant
from critic.format import critique_dialect, true_critique
from data.records import Task
from data.source import TaskSource
from pipelines.errors import UserError
from pipelines.game.curriculum import build_source
from pipelines.settings.tables import Settings
from rewards.chain import EVEN_SLIPS, ChainDialect
from rewards.dialect import Dialect, dialect
from rewards.proposals import proposal_prompt, written_proposal
from rewards.verdict import Verdict
from rewards.verifiers import verify_exact

PLANTED_SHARE = 0.3  # of the flawed solutions that the critic learns from
SLIPS_EVENLY = ChainDialect(EVEN_SLIPS)
Row = dict[str, str]
LEAST_SLIP_RATE = 0.1  # or a solver that never slips would have no slip to criticise


def demonstrations(settings: Settings) -> list[Row]:
    """Prompt and completion rows: solutions with slips, and true critiques of such solutions.

    About `sft.flawed_share` of the criticised solutions hold a wrong step. Solutions of easier
    tasks without a slip come first (`sft.easy`): from these a tiny model finds out how to add much
    sooner than from long sums full of slips, or beside critiques, where copying nearly does.
    Proposals are tasks of both kinds, and say nothing of solving (`sft.num_proposals`).

    Raises:
        UserError: the source has too few tasks, or `sft.easy.params` are no parameters of it.
    """
    sft, rng = settings.sft, random.Random(settings.run.seed)
    assert sft is not None
    first = _easy_solutions(settings, rng) if sft.easy.num_solutions else []
    solver, judge = dialect(settings.tasks.dialect), critique_dialect(settings.tasks.dialect)
    num = sft.num_solutions + sft.num_critiques
    tasks = build_source(settings).draw("train", num + sft.num_proposals, settings.run.seed)
    tasks, shown = tasks[:num], tasks[num:]
    rows = _solutions(tasks[: sft.num_solutions], solver, sft.slip_rate, rng)
    for task in tasks[sft.num_solutions :]:
        text = _solution_to_judge(task, settings, rng)
        solution = solver.parse_solution(text, truncated=False)
        prompt = judge.render_prompt(solver.render_problem(task), text)
        rows.append({"prompt": prompt, "completion": true_critique(task, solution, solver, rng)})
    if sft.num_proposals and sft.easy.params:
        shown += _easier(settings).draw("train", sft.num_proposals, settings.run.seed + 1)
    asked = proposal_prompt(solver, ())
    rows += [{"prompt": asked, "completion": written_proposal(solver, t.question)} for t in shown]
    rng.shuffle(rows)
    return first + rows


def _easy_solutions(settings: Settings, rng: random.Random) -> list[Row]:
    assert settings.sft is not None
    tasks = _easier(settings).draw("train", settings.sft.easy.num_solutions, settings.run.seed)
    return _solutions(tasks, dialect(settings.tasks.dialect), 0.0, rng)


def _easier(settings: Settings) -> TaskSource:
    """The source with the parameters that make its tasks easier.

    Raises:
        UserError: it takes none, or there are none.
    """
    assert settings.sft is not None
    easy, table = settings.sft.easy, settings.tasks
    if table.source != "reasoning_gym" or table.mixture:
        raise UserError(
            "sft.easy makes the tasks of one reasoning-gym family easier: give tasks.family, or "
            "set sft.easy.num_solutions to 0"
        )
    if not easy.params:
        raise UserError(
            "sft.easy.num_solutions is above 0, but sft.easy.params is empty: say there what makes "
            "the tasks easier, such as max_terms"
        )
    easier = table.model_copy(update={"params": {**table.params, **easy.params}})
    return build_source(settings.model_copy(update={"tasks": easier}))


def _solutions(
    tasks: Sequence[Task], solver: Dialect, slip_rate: float, rng: random.Random
) -> list[Row]:
    return [
        {
            "prompt": solver.render_problem(task),
            "completion": solver.write_solution(task, rng, slip_rate),
        }
        for task in tasks
    ]


def _solution_to_judge(task: Task, settings: Settings, rng: random.Random) -> str:
    assert settings.sft is not None
    solver = dialect(settings.tasks.dialect)
    right = solver.write_solution(task, rng, 0.0)
    if rng.random() >= settings.sft.flawed_share:
        return right
    if rng.random() < PLANTED_SHARE:
        flaw = plant(task, right, rng, lambda text: _verdict(task, text, settings))
        return right if flaw is None else flaw.text
    slip_rate = max(settings.sft.slip_rate, LEAST_SLIP_RATE)
    for _ in range(8):  # a solver that seldom slips needs several tries
        text = SLIPS_EVENLY.write_solution(task, rng, slip_rate)
        if text != right:
            break
    return text


def _verdict(task: Task, text: str, settings: Settings) -> Verdict:
    """By comparing strings: what is demonstrated spells a number in one way only."""
    solution = dialect(settings.tasks.dialect).parse_solution(text, truncated=False)
    return verify_exact(task, solution)
