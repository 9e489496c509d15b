"""What the cold start imitates: mistakes of every kind, and critiques that are true of them."""

from collections import Counter

import pytest
from pipeline_cases import CONFIG

from critic.critique import Critique
from critic.format import critique_dialect
from data.records import Task
from pipelines.game.curriculum import build_source
from pipelines.game.demonstrations import demonstrations
from pipelines.settings.load import load_settings
from pipelines.settings.tables import Settings
from rewards.dialect import dialect
from rewards.mistakes import MISTAKES
from rewards.solution import first_bad_step

CHAIN, CRITIQUES = dialect("chain"), critique_dialect("chain")
PRODUCTS = ["tasks.family=products", "tasks.params={min_terms=4, max_terms=6, max_digits=1}"]


@pytest.mark.parametrize("family", [[], PRODUCTS], ids=["sums", "products"])
def test_criticised_solutions_hold_flaws_of_every_kind(family: list[str]) -> None:
    counts = ["sft.num_solutions=50", "sft.num_critiques=600", "sft.easy.num_solutions=0"]
    settings = load_settings(CONFIG, [*family, *counts])
    tasks = {
        CHAIN.render_problem(task): task for task in build_source(settings).draw("train", 650, 0)
    }
    kinds, num_solutions, num_lucky = Counter[str](), 0, 0
    for row in demonstrations(settings):
        problem, _, rest = row["prompt"].partition("\n")
        task = tasks[problem + "\n"]
        if not rest:
            num_solutions += 1
            assert CHAIN.parse_solution(row["completion"], truncated=False).well_formed
            continue
        solution = CHAIN.parse_solution(rest.removesuffix("\n!"), truncated=False)
        critique = CRITIQUES.parse(row["completion"], solution, truncated=False)
        assert isinstance(critique, Critique)
        bad = first_bad_step(CHAIN.check_steps(task, solution))
        marked = [] if bad is None else [solution.steps[bad].id]
        assert [flaw.step for flaw in critique.flaws] == marked
        kinds["none" if bad is None else CHAIN.kind_of_mistake(task, solution, bad)] += 1
        num_lucky += bad is not None and solution.answer == task.reference
    assert num_solutions == 50 and num_lucky > 5
    assert settings.sft is not None
    assert kinds["none"] == pytest.approx(600 * (1 - settings.sft.flawed_share), abs=50)
    assert set(kinds) - {"none"} == set(MISTAKES) - {"extra_term"}


def test_easy_demonstrations_come_first_and_hold_no_slip() -> None:
    easy = ["sft.easy.num_solutions=40", "sft.easy.params={min_terms=3, max_terms=5}"]
    settings = load_settings(CONFIG, ["sft.num_solutions=60", "sft.num_critiques=200", *easy])
    rows = demonstrations(settings)
    terms = [sum(c.isalpha() for c in row["prompt"].partition("\n")[0]) for row in rows]
    assert len(rows) == 300
    assert all(3 <= num <= 5 for num in terms[:40]) and all(8 <= num <= 12 for num in terms[40:])
    tasks = {
        CHAIN.render_problem(task): task
        for params in ({}, {"min_terms": 3, "max_terms": 5})
        for task in build_source(with_params(settings, params)).draw("train", 300, 0)
    }
    solutions = [row for row in rows if row["prompt"] in tasks]
    passed = [is_right(tasks[row["prompt"]], row["completion"]) for row in solutions]
    assert len(solutions) == 100 and all(passed[:40]) and sum(passed[40:]) < 10


def with_params(settings: Settings, params: dict[str, object]) -> Settings:
    tasks = settings.tasks.model_copy(update={"params": {**settings.tasks.params, **params}})
    return settings.model_copy(update={"tasks": tasks})


def is_right(task: Task, text: str) -> bool:
    return all(CHAIN.check_steps(task, CHAIN.parse_solution(text, truncated=False)))
