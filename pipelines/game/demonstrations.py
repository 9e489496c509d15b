"""What the cold start imitates: procedural solutions and critiques of them."""

import random
from collections.abc import Sequence

from critic.format import critique_dialect
from data.records import Task
from pipelines.settings.tables import Settings
from rewards.dialect import dialect


def demonstrations(settings: Settings, tasks: Sequence[Task]) -> list[dict[str, str]]:
    """Prompt and completion rows: solutions with slips, and true critiques of such solutions.

    A criticised solution has slipped somewhere in about `flawed_share` of the rows.
    """
    assert settings.sft is not None
    solver, judge = dialect(settings.tasks.dialect), critique_dialect(settings.tasks.dialect)
    rng = random.Random(settings.run.seed)
    rows = []
    for task in tasks[: settings.sft.num_solutions]:
        solution = solver.write_solution(task, rng, settings.sft.slip_rate)
        rows.append({"prompt": solver.render_problem(task), "completion": solution})
    for task in tasks[settings.sft.num_solutions :]:
        text = _solution_to_judge(task, settings, rng)
        solution = solver.parse_solution(text, truncated=False)
        prompt = judge.render_prompt(solver.render_problem(task), text)
        rows.append({"prompt": prompt, "completion": judge.write_critique(task, solution, rng)})
    rng.shuffle(rows)
    return rows


def _solution_to_judge(task: Task, settings: Settings, rng: random.Random) -> str:
    solver = dialect(settings.tasks.dialect)
    wanted_flawed = rng.random() < settings.sft.flawed_share
    for _ in range(8):  # a task without a carry cannot slip
        text = solver.write_solution(task, rng, 0.4 if wanted_flawed else 0.0)
        solution = solver.parse_solution(text, truncated=False)
        if all(solver.check_steps(task, solution)) != wanted_flawed:
            break
    return text
