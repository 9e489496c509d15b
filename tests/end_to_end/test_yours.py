"""configs/yours.toml: a chat model and a file of problems are all that a user must name.

The walk from a file to an adapter is in a user's own steps: what docs/use.md shows is taken from
its text, and the run is started as configs/yours.toml says.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from doc_blocks import block
from judge_server import Answer, JudgeServer, judge_server, says
from peft import PeftModel
from pipeline_cases import ROOT, accelerate, environment, refused, rows, run, status
from pointing_cases import block_of, samples_of
from transformers import AutoModelForCausalLM, AutoTokenizer
from yours_cases import (
    PROBLEMS,
    REASON,
    STYLES,
    guessing_model,
    prompt_of,
    reply,
    tasks_of,
    write_problems,
)

from pipelines.game.bout import Start
from pipelines.game.curriculum import build_source
from pipelines.game.referee import Referee, verifiers_of
from pipelines.rl import main
from pipelines.run.early import check_early
from pipelines.run.origin import find_origin
from pipelines.settings.load import load_settings
from pipelines.settings.tables import Settings

pytestmark = pytest.mark.timeout(600)
YOURS = ROOT / "configs" / "yours.toml"
MODEL, FILE, DIRECTORY = "runs/smollm2-base", "mine.jsonl", "runs/yours"
JUDGE_URL = "http://localhost:8000/v1"
BRIEF, JUDGED = 0.5, 0.5  # the weights that docs/use.md shows
# No vLLM, every task of the train split once, and nothing longer than it must be.
SMALL = (
    "rollout.engine=transformers", "run.rounds=1", "learner.steps_per_round=3",
    "learner.max_completion_length=32", "learner.grpo.per_device_train_batch_size=56",
    "learner.grpo.num_generations=4", "critic.steps_per_round=1", "critic.imitation_steps=0",
    "critic.max_completion_length=8", "evaluate.num_samples=1",
    "evaluate.num_tasks=6", "evaluate.num_probe_tasks=6", "evaluate.num_audit_tasks=6",
    "critic.critiques_per_audit=1",
)  # fmt: skip


def test_it_loads_and_is_short() -> None:
    settings = load_settings(YOURS)
    assert settings.learner.model == settings.critic.model and settings.tasks.source == "jsonl"
    lines = [line for line in YOURS.read_text().splitlines() if line and line[0] not in "#["]
    assert len(lines) <= 20, "a file that a user reads before the first run"
    assert sum("<-" in line for line in lines) == 5, "what a user must look at is marked"


@dataclass(frozen=True)
class Walk:
    """What the walk has left.

    Attributes:
        config: the user's copy of configs/yours.toml.
        run: the run's directory.
        server: the judge, which the run asked `num_asked` times.
    """

    config: Path
    settings: Settings
    model: Path
    run: Path
    server: JudgeServer
    num_asked: int


def grade(prompt: str, time_asked: int) -> Answer:
    """A judge who likes a reason; of a solution, so the reference aside."""
    solution = prompt.partition("\nSolution:\n")[2]
    return says(f"It has a reason or not.\nScore: {10 if REASON.strip() in solution else 0}")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """A file, a model, a reward, a judge, one configuration, one command."""
    folder = tmp_path_factory.mktemp("yours")
    model, directory, file = folder / "model", folder / "run", folder / FILE
    write_problems(file)
    reward = folder / "mine.py"
    reward.write_text(block("# mine.py"))
    with judge_server(grade) as server:
        text = "\n".join(
            (YOURS.read_text(), block("[rewards.functions]"), block("[rewards.judge]"))
        )
        for shown, mine in (
            (f'"{MODEL}"', f'"{model}"'), (f'"{FILE}"', f'"{file}"'),
            (f'"{DIRECTORY}"', f'"{directory}"'), ('"mine.py:brief"', f'"{reward}:brief"'),
            (JUDGE_URL, server.url),
        ):  # fmt: skip
            assert shown in text, shown
            text = text.replace(shown, mine)
        config = folder / "yours.toml"
        config.write_text(text)
        settings = load_settings(config, SMALL)
        guessing_model(model, settings)
        *_, last = block("python pipelines/smollm2.py", ROOT / "README.md").splitlines()
        assert last == "accelerate launch pipelines/rl.py --config configs/yours.toml"
        command = [*accelerate(), "--config", str(config), *SMALL]
        done = run(command, environment(HF_HUB_OFFLINE="1"))
        assert done.returncode == 0, done.stdout + done.stderr
        yield Walk(config, settings, model, directory, server, len(server.prompts))


def test_every_problem_is_played_or_held_out(walk: Walk) -> None:
    assert status(walk.run)["state"] == "finished" and len(rows(walk.run, "round")) == 1
    report = json.loads((walk.run / "tasks.json").read_text())
    (listed,) = report["lists"]
    assert listed["num_rows"] == len(PROBLEMS) == sum(listed["num_tasks"].values()) == 60
    assert listed["faults"] == [] and report["too_long"] == {}
    played = {one.question for task, one in tasks_of(walk.settings) if task.split == "train"}
    held_out = sum(report["held_out"].values())
    assert len(played) == listed["num_tasks"]["train"] == 60 - held_out, "the rest measures"
    # The judge is asked about every completion that is trained on, and once before the run.
    judged = {
        one.question for one in PROBLEMS if any(one.question in p for p in walk.server.prompts[1:])
    }
    assert judged == played
    ((epochs,),) = [[row["tasks/epochs"]] for row in rows(walk.run, "round")]
    assert epochs == 1.0, "each once"


def test_what_the_run_paid(walk: Walk) -> None:
    problems = {task.id: one for task, one in tasks_of(walk.settings)}
    bouts = (walk.run / "transcripts" / "round_00000.jsonl").read_text().splitlines()
    seen: Counter[str] = Counter()
    for bout in map(json.loads, bouts):
        problem, said = problems[bout["task"]], bout["solution"]
        passed = said.endswith(reply(problem.right)) and bout["defect"] is None
        assert (bout["outcome"] == "correct") == passed, bout
        seen[bout["outcome"]] += 1
        assert bout["reward"] == pytest.approx(passed + extra(said)), bout
    assert seen["correct"] and seen["incorrect"]


def extra(said: str) -> float:
    """What the user's function and judge pay."""
    return -BRIEF * len(said) / 1000 + JUDGED * (REASON.strip() in said)


def test_each_style_pays_the_right_answers_alone(walk: Walk) -> None:
    """The run's own game, on all sixty: six styles, right and wrong, with reasons and without."""
    settings = load_settings(walk.config, [*SMALL, "pointing.source=none"])
    paid: dict[tuple[str, bool], set[str]] = defaultdict(set)
    with closing(verifiers_of(settings.rewards)) as verifiers:
        tasks = tasks_of(settings)
        starts = [Start(task) for task, _ in tasks]
        block = block_of(Referee(settings, verifiers), None, starts)
        for passed in (True, False):
            for reason in ("", REASON):
                said = [reply(one.right if passed else one.wrong, reason) for _, one in tasks]
                found = block(range(60), samples_of(*said))
                for (_, one), text, scored in zip(tasks, said, found, strict=True):
                    assert scored.reward == pytest.approx(passed + extra(text)), (one, text)
                    assert scored.passed == passed
                    paid[one.style, passed].add(one.answer)
    assert not block.failures
    assert all(len(paid[style.name, passed]) == 2 for style in STYLES for passed in (True, False))


def test_its_adapter_loads_and_generates(walk: Walk) -> None:
    """With PEFT alone, on the user's model, and merged it is the policy that was saved."""
    saved = walk.run / "checkpoints" / "round_00000"
    base = AutoModelForCausalLM.from_pretrained(walk.model, dtype=torch.float32)
    untrained = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    policy = PeftModel.from_pretrained(base, saved / "learner_adapter")
    tokenizer = AutoTokenizer.from_pretrained(saved / "learner_adapter")
    task, _ = tasks_of(walk.settings)[0]
    prompt = torch.tensor([prompt_of(walk.settings, task, tokenizer)])
    written = policy.generate(input_ids=prompt, max_new_tokens=32, do_sample=False)
    assert "The answer is \\boxed{" in tokenizer.decode(written[0, prompt.shape[1] :])
    merged = policy.merge_and_unload().state_dict()
    assert any(not torch.equal(tensor, untrained[name]) for name, tensor in merged.items())
    whole = AutoModelForCausalLM.from_pretrained(saved / "learner", dtype=torch.float32)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"question": "Who?"}', "answer"), ('{"question": "Who?", "answer": ', "JSON")],
)
def test_a_row_that_is_no_problem_is_named(
    walk: Walk, tmp_path: Path, capfd: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    """The run is refused, or with `skip_faulty_rows` the row is left out: named either way."""
    file = tmp_path / FILE
    file.write_text((walk.config.parent / FILE).read_text() + line + "\n")
    given = ["--config", str(walk.config), *SMALL, f"run.directory={tmp_path / 'run'}"]
    told = refused(capfd, main, [*given, f"tasks.path={file}"])
    assert f"{file}:61" in told and said in told, told

    settings = load_settings(walk.config, [f"tasks.path={file}", "tasks.skip_faulty_rows=true"])
    (listed,) = build_source(settings).reports()
    assert listed["num_rows"] == 61 and sum(listed["num_tasks"].values()) == 60
    (fault,) = listed["faults"]
    assert f"{file}:61" in fault and said in fault


@pytest.mark.slow
def test_ones_own_demonstrations_come_first(walk: Walk, tmp_path: Path) -> None:
    """TRL's own program, as docs/use.md shows it; what it saves is a model to start from."""
    file, base = tmp_path / "demonstrations.jsonl", tmp_path / "base"
    turns = [
        {
            "prompt": [{"role": "user", "content": one.question}],
            "completion": [{"role": "assistant", "content": reply(one.right)}],
        }
        for one in PROBLEMS
    ]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in turns))
    text = block("model_name_or_path")
    for shown, mine in (
        (MODEL, walk.model), ("demonstrations.jsonl", file), ("runs/mine-base", base),
    ):  # fmt: skip
        assert shown in text, shown
        text = text.replace(shown, str(mine))
    config = tmp_path / "sft.yaml"
    config.write_text(text)
    program = Path(sys.executable).with_name("trl")
    done = run([str(program), "sft", "--config", str(config)], environment(HF_HUB_OFFLINE="1"))
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = (AutoModelForCausalLM.from_pretrained(one) for one in (walk.model, base))
    assert any(
        not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
    settings = load_settings(
        walk.config,
        [f"learner.model={base}", f"critic.model={base}", f"run.directory={tmp_path / 'run'}"],
    )
    check_early(settings, resume=False)
    find_origin(base, walk.config, (), None, True)
