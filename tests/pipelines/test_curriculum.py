"""Task sources as the configuration names them; what a round draws."""

import json
from pathlib import Path

import pytest
from pipeline_cases import CONFIG

from data.records import Split, Task
from data.sources import TaskSource
from pipelines.errors import UserError
from pipelines.game.bout import Start
from pipelines.game.curriculum import Curriculum, build_source
from pipelines.settings.load import load_settings
from rewards.dialect import dialect

TAGGED = ("tasks.params={}", "tasks.dialect=tagged")  # of a file


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "problems.jsonl"
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("source", ["reasoning_gym", "jsonl", "dataset"])
def test_every_source_can_be_configured(source: str, problems: Path) -> None:
    given = [] if source == "reasoning_gym" else [f"tasks.path={problems}", *TAGGED]
    settings = load_settings(CONFIG, [f"tasks.source={source}", *given])
    curriculum = Curriculum(build_source(settings), seed=0)
    tasks = curriculum.draw(0, 8)
    assert len({task.id for task in tasks}) == 8 and all(task.reference for task in tasks)
    assert tasks == curriculum.draw(0, 8) != curriculum.draw(1, 8)
    held_out = {task.id for task in curriculum.held_out("test", 4)}
    assert held_out.isdisjoint(task.id for task in curriculum.draw(2, 40))


MIXTURE = [
    'tasks.family=""', "tasks.params={}",
    "tasks.mixture=[{family = 'products', params = {min_terms = 3, max_terms = 4, max_digits = 1}},"
    " {family = 'basic_arithmetic', weight = 2, params = {operators = ['+'], allow_parentheses = "
    "false, allow_negation = false, max_digits = 1, format_style = 'natural'}}]",
]  # fmt: skip


def test_a_mixture_of_families_can_be_configured() -> None:
    curriculum = Curriculum(build_source(load_settings(CONFIG, MIXTURE)), seed=0)
    tasks = curriculum.draw(0, 60)
    assert {task.family for task in tasks} == {"products", "basic_arithmetic"}
    solver = dialect("chain")
    problems = [solver.render_problem(task) for task in tasks]
    held_out = [solver.render_problem(task) for task in curriculum.held_out("test", 20)]
    assert len(set(problems) | set(held_out)) == 80


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (MIXTURE[1:], "remove tasks.family and tasks.params"),
        ([*MIXTURE, "tasks.source=jsonl"], "tasks.source is jsonl"),
        ([*MIXTURE[:2], "tasks.mixture=[{famly='products'}]"], 'did you mean "family"'),
        ([*MIXTURE[:2], "tasks.mixture=[{family='products', weight=0}]"], "greater than 0"),
    ],
)
def test_a_mixture_says_all_or_nothing(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(CONFIG, overrides)


def test_the_settings_of_a_file_act(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"q": {"text": f"What is {n} + 1?"}, "a": f"So #### {n + 1}"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["tasks.source=jsonl", f"tasks.path={path}", *TAGGED]
    given += ["tasks.question_field=q.text", "tasks.answer_field=a", "tasks.answer_pattern=gsm8k"]
    given += ["tasks.family=eggs", "tasks.verifier=exact"]
    task, *_ = Curriculum(build_source(load_settings(CONFIG, given)), seed=0).draw(0, 8)
    assert (task.family, task.verifier) == ("eggs", "exact")
    assert int(task.reference) == int(task.question.split()[2]) + 1


def test_an_epoch_goes_on_after_a_commit_and_resets_take_no_problem_from_it(
    problems: Path,
) -> None:
    given = ["tasks.source=jsonl", f"tasks.path={problems}", *TAGGED]
    source = build_source(load_settings(CONFIG, given))
    curriculum = Curriculum(source, seed=0)
    seen: list[str] = []
    for round_ in range(3):
        tasks = curriculum.draw(round_, 40)
        begun = [Start(tasks[0], prefix="1. "), *map(Start, tasks[1:])]
        seen += [start.task.id for start in curriculum.begin(begun) if not start.prefix]
        again = Curriculum(source, seed=0)
        again.load_state_dict(json.loads(json.dumps(curriculum.state_dict())))
        assert again.draw(round_ + 1, 40) == curriculum.draw(round_ + 1, 40)
        curriculum = again
    assert len(seen) == len(set(seen)) == 117
    assert curriculum.epochs() == 117 / len(source.ids("train"))


def test_retiring_does_not_fill_a_round_with_one_problem(problems: Path) -> None:
    """With 15 left for a round of 16 all come back; with 16 left the retired stay away."""
    given = ["tasks.source=jsonl", f"tasks.path={problems}", *TAGGED]
    curriculum = Curriculum(build_source(load_settings(CONFIG, given)), seed=0)
    ids = sorted(curriculum.source.ids("train"))
    for num_left in (16, 15, 1, 0):
        curriculum.retired = set(ids[num_left:])
        drawn = {task.id for task in curriculum.draw(0, 16)}
        assert len(drawn) == 16 and bool(curriculum.retired) == (num_left == 16)
        assert drawn.isdisjoint(curriculum.retired)
    curriculum.retired = set(ids[:2])
    assert len(curriculum.draw(0, 500)) == 500 and not curriculum.retired


def test_retiring_one_list_of_a_mixture_does_not_fill_rounds_with_its_rest(problems: Path) -> None:
    mine = f"{{source = 'jsonl', path = '{problems}', family = 'mine'}}"
    given = [*MIXTURE[:2], "tasks.dialect=tagged"]
    given.append(f"tasks.mixture=[{{family = 'products'}}, {mine}]")
    curriculum = Curriculum(build_source(load_settings(CONFIG, given)), seed=0)
    curriculum.retired = set(sorted(curriculum.source.ids("train"))[1:])
    tasks = curriculum.draw(0, 32)
    assert len({task.id for task in tasks}) == 32 and not curriculum.retired


def test_a_mixture_may_hold_a_file(problems: Path) -> None:
    mine = f"{{source = 'jsonl', path = '{problems}', family = 'mine', weight = 3}}"
    given = [*MIXTURE[:2], "tasks.dialect=tagged"]
    given.append(f"tasks.mixture=[{{family = 'products'}}, {mine}]")
    curriculum = Curriculum(build_source(load_settings(CONFIG, given)), seed=0)
    families = [task.family for task in curriculum.draw(0, 40)]
    assert set(families) == {"products", "mine"} and families.count("mine") > 20
    assert curriculum.held_out("test", 8)


def test_a_worked_example_is_in_no_held_out_split(problems: Path) -> None:
    """A policy sees it in every prompt; in training that is no harm."""
    given = ["tasks.source=jsonl", f"tasks.path={problems}", *TAGGED]
    plain = build_source(load_settings(CONFIG, given))
    (held, *_), (trained, *_) = plain.draw("test", 4, 0), plain.draw("train", 4, 0)
    examples = ", ".join(
        f"{{question = '{task.question}', reply = ''}}" for task in (held, trained)
    )
    source = build_source(load_settings(CONFIG, [*given, f"tasks.examples=[{examples}]"]))
    assert held not in draw_all(source, "test") and held in draw_all(plain, "test")
    assert trained in draw_all(source, "train")


def test_a_worked_example_in_another_spelling_is_in_no_held_out_split(problems: Path) -> None:
    given = ["tasks.source=jsonl", f"tasks.path={problems}", *TAGGED]
    held = build_source(load_settings(CONFIG, given)).draw("test", 1, 0)[0]
    example = f"{{question = '{held.question.lower().replace('?', ' ?')}', reply = ''}}"
    source = build_source(load_settings(CONFIG, [*given, f"tasks.examples=[{example}]"]))
    assert held not in draw_all(source, "test")


def test_a_worked_example_of_a_puzzle_is_in_no_held_out_split() -> None:
    given = ["tasks.dialect=tagged"]
    held = build_source(load_settings(CONFIG, given)).draw("test", 8, 0)
    example = f"{{question = '{held[3].question.upper()} ', reply = ''}}"
    source = build_source(load_settings(CONFIG, [*given, f"tasks.examples=[{example}]"]))
    assert [t for t in held if t not in source.draw("test", 8, 0)] == [held[3]]


def draw_all(source: TaskSource, split: Split) -> list[Task]:
    tasks: list[Task] = []
    with pytest.raises(UserError):
        while True:
            tasks = source.draw(split, len(tasks) + 1, 0)
    return tasks
