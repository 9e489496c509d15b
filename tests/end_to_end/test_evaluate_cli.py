"""`sparring-evaluate` on a checkpoint trained for seconds."""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from dataset_cases import CONFIG, EASY
from transformers import AutoModelForCausalLM

from critic.critique import Critique
from data.sources import draw_up_to
from pipelines.errors import UserError
from pipelines.evaluate import main
from pipelines.game.curriculum import build_source
from pipelines.game.referee import Referee
from pipelines.inference.attempts import Attempt, Solver
from pipelines.inference.evaluate import Request, evaluate_checkpoint
from pipelines.inference.redo import flagged_step, redo_rounds, text_before
from pipelines.policy.tensors import weights_hash
from pipelines.run.origin import find_origin, load_samplers
from pipelines.settings.load import dump_settings, load_settings
from rewards.verifiers import Verifiers

OVERRIDES = (*EASY, "rollout.engine=transformers", "learner.temperature=1.5")
NUM = 2  # every test task there is of the easy ones


@pytest.fixture(scope="module")
def solver(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Solver]:
    origin = find_origin(base, CONFIG, OVERRIDES, None, True)
    learner, critic = load_samplers(origin, 0, tmp_path_factory.mktemp("scratch"))
    with closing(Verifiers()) as verifiers:
        yield Solver(Referee(origin.settings, verifiers), learner, critic)


@pytest.fixture(scope="module")
def attempts(solver: Solver) -> list[Attempt]:
    """Four criticised attempts at each of many tasks."""
    tasks = draw_up_to(build_source(solver.referee.settings), "train", 32, 0)
    return solver.criticise(solver.solve(tasks, 4, "pool"), "critique of pool")


def command(source: Path, *more: str) -> list[str]:
    return [str(source), "--num", str(NUM), "--samples", "4", "--redos", "1", *more]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_the_command_prints_a_table_and_writes_what_the_function_returns(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "report.json"
    settings = ["--config", str(CONFIG), *OVERRIDES]
    assert main(command(base, *settings, "--output", str(output))) == 0
    printed = capsys.readouterr().out
    assert f"{NUM} tasks (basic_arithmetic, test), 4 solutions each" in printed
    assert "counted as wrong" in printed and "redo, shuffled critiques" in printed
    found = json.loads(output.read_text())
    assert not [path for path in output.parent.iterdir() if path != output]
    policy = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert found["weights"] == dict.fromkeys(("learner", "critic"), weights_hash(policy))
    request = Request(base, CONFIG, OVERRIDES, num_tasks=NUM, num_samples=4, num_redos=1)
    report = evaluate_checkpoint(request)
    assert json.loads(report.to_json()) == found, "samples follow from the seed"
    mean, best = report.row("mean@4"), report.row("best of k", 4)
    assert mean.accuracy.value <= report.row("pass@k", 4).accuracy.value
    assert report.row("majority", 1).accuracy.value == pytest.approx(mean.accuracy.value, abs=1e-9)
    assert best.learner_tokens == 4 * mean.learner_tokens and best.critic_tokens > 0
    assert {quality.name for quality in report.qualities} == {
        "pool", "greedy", "after redos", "after redos, shuffled critiques"
    }  # fmt: skip


def test_a_file_of_ones_own_is_evaluated_whole(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sums.jsonl"
    rows = [
        {"question": f"Calculate {n}.", "answer": n, "verifier": "exact"} for n in range(10, 22)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    more = ["--config", str(CONFIG), "--tasks", str(path), "--samples", "2", *OVERRIDES]
    more.append("learner.temperature=0.5")  # the checkpoint has seen most of these sums
    assert main([str(base), *more, "--no-critic", "--no-greedy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_tasks"] == 12 and found["split"] == "all" and found["critic"] is None
    assert {row["method"] for row in found["rows"]} == {"mean@2", "pass@k", "majority"}
    assert found["rows"][0]["accuracy"]["value"] > 0
    own = ["tasks.source=jsonl", "tasks.params={}", f"tasks.path={path}"]
    assert "add --split test" in refused(capsys, str(base), *more, *own)


def test_a_run_and_each_of_its_rounds_can_be_evaluated(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for round_ in ("round_00000", "round_00001"):
        for role in ("learner", "critic"):
            shutil.copytree(base, run / "checkpoints" / round_ / role)
    settings = load_settings(CONFIG, [f"run.directory={run}", *OVERRIDES])
    (run / "config.json").write_text(dump_settings(settings))
    first = run / "checkpoints" / "round_00000"
    origin = find_origin(first, None, ["learner.temperature=0.5"], None, True)
    assert (origin.learner, origin.critic) == (str(first / "learner"), str(first / "critic"))
    assert origin.settings.learner.temperature == 0.5
    with pytest.raises(UserError, match="leave out --config"):
        find_origin(first, CONFIG, [], None, True)
    report = evaluate_checkpoint(
        Request(run, num_tasks=2, num_samples=2, num_redos=0, control=False, greedy=False)
    )
    assert report.learner == str(run / "checkpoints" / "round_00001" / "learner")
    methods = {row.method for row in report.rows}
    assert methods == {"mean@2", "pass@k", "majority", "best of k"}


def test_a_redo_continues_the_text_before_the_flagged_step(
    solver: Solver, attempts: list[Attempt]
) -> None:
    first, once, twice = redo_rounds(solver, attempts, 2, "redo")
    assert [s.attempt.solution for s in first] == [a.solution for a in attempts]
    assert all(s.critic_tokens == 0 for s in first)
    num_redone = 0
    for attempt, before, after in zip(attempts, first, once, strict=True):
        step = flagged_step(attempt) if attempt.solution.well_formed else 0
        assert after.critic_tokens == attempt.critic_tokens
        if step is None:
            assert after.attempt == attempt and after.learner_tokens == before.learner_tokens
            continue
        num_redone += 1
        prefix = text_before(attempt.solution, step) if attempt.solution.well_formed else ""
        assert after.attempt.solution.text.startswith(prefix)
        generated = after.learner_tokens - before.learner_tokens
        assert generated == after.attempt.learner_tokens > 0
        assert generated + len(prefix) <= solver.learner.max_tokens
    assert 0 < num_redone < len(attempts), "a temperature that leaves something to redo"
    again = [b.learner_tokens - a.learner_tokens for a, b in zip(once, twice, strict=True)]
    assert min(again) == 0 and sum(tokens > 0 for tokens in again) <= num_redone


def test_shuffled_critiques_send_as_many_back(solver: Solver, attempts: list[Attempt]) -> None:
    _, own = redo_rounds(solver, attempts, 1, "redo")
    _, dealt = redo_rounds(solver, attempts, 1, "shuffled redo", random.Random(0))
    num_redone = [
        sum(s.learner_tokens > a.learner_tokens for a, s in zip(attempts, standing, strict=True))
        for standing in (own, dealt)
    ]
    assert num_redone[0] == num_redone[1] > 0
    assert [s.critic_tokens for s in own] == [s.critic_tokens for s in dealt]


def test_a_continuation_has_the_room_that_its_start_leaves(solver: Solver) -> None:
    """Starts of different lengths in a context that does not hold the longest with the most."""
    (task,) = build_source(solver.referee.settings).draw("train", 1, 0)
    limit, table = solver.learner.max_tokens, solver.referee.settings.rollout
    prefixes = ["q" * n for n in (0, 8, limit - 1)]
    context = len(solver.learner.tokenize([solver.referee.problem(task)])[0]) + limit
    tight = table.model_copy(update={"max_model_len": context})
    referee = Referee(
        solver.referee.settings.model_copy(update={"rollout": tight}), solver.referee.verifiers
    )
    solver.learner.engine.max_model_len = context  # type: ignore[attr-defined]
    try:
        found = Solver(referee, solver.learner, None).resume([(task, p) for p in prefixes], "tight")
    finally:
        solver.learner.engine.max_model_len = table.max_model_len  # type: ignore[attr-defined]
    found += solver.resume([(task, p) for p in prefixes], "ample")
    for attempt, prefix in zip(found, prefixes * 2, strict=True):
        assert attempt.solution.text.startswith(prefix)
        assert 0 < attempt.learner_tokens <= limit - len(prefix)


def test_only_well_formed_solutions_are_criticised(attempts: list[Attempt]) -> None:
    assert any(isinstance(attempt.critique, Critique) for attempt in attempts)
    for attempt in attempts:
        assert (attempt.critique is not None) == attempt.solution.well_formed
        assert (attempt.critic_tokens > 0) == attempt.solution.well_formed


def test_bad_input_is_one_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(base), "--config", str(CONFIG), *OVERRIDES]
    (tmp_path / "empty.jsonl").write_text("")
    cases = {
        "add --config": [str(base)],
        "is not a directory": [str(tmp_path / "nowhere"), "--config", str(CONFIG)],
        "the hub does not give it": ["nobody/nothing", "--config", str(CONFIG)],
        'did you mean "test"': [*given, "--split", "tset"],
        "--split all is for a file": [*given, "--split", "all"],
        "--samples must be at least 1": [*given, "--samples", "0"],
        "--redos must be at least 0": [*given, "--redos", "-1"],
        "exclude each other": [*given, "--no-critic", "--critic", str(base)],
        "holds no tasks": [*given, "--tasks", str(tmp_path / "empty.jsonl")],
        "does not exist or is not a file": [*given, "--tasks", str(tmp_path / "none.jsonl")],
        "name a file": [*given, "--output", str(tmp_path)],
        "is too small": [*given, "--num", "2", "rollout.max_model_len=132"],
        'did you mean "temperature"': [*given, "learner.temprature=1"],
    }
    for expected, arguments in cases.items():
        assert expected in refused(capsys, *arguments), expected
