"""What the settings say of prompts reaches every place that asks, and is recorded."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from chat_cases import FAMILIES
from pipeline_cases import CONFIG, SHORT_RUN, learner_role, random_llama, refused
from pointing_cases import sum_task

from pipelines import dataset
from pipelines.errors import UserError
from pipelines.game.curriculum import build_source
from pipelines.game.referee import Referee
from pipelines.run.build import build_roles
from pipelines.run.origin import find_origin, load_samplers
from pipelines.run.tasks import run_tasks
from pipelines.settings.load import load_settings
from pipelines.settings.tables import Settings
from pipelines.training.trainer import RoleTrainer
from rewards.verifiers import Verifiers

TASK = sum_task(4, 1, 7)
NO_THOUGHT = "learner.grpo.chat_template_kwargs={enable_thinking=false}"
SILENT = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
OPEN = "<|im_start|>assistant\n"
FREE = (
    "tasks.dialect=free",
    "critic.planted_share=0",
    "rollout.engine=transformers",
    "rollout.max_model_len=1500",
    "learner.max_completion_length=8",
    "critic.max_completion_length=8",
)
THOUGHT = "<think>\n2 + 3 = 5\n</think>\nIt is \\boxed{5}."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with Qwen3's template."""
    tokenizer = FAMILIES["Qwen3"].tokenizer()
    folder = tmp_path_factory.mktemp("wording") / "qwen3"
    model = random_llama(tokenizer)
    model.config.max_position_embeddings = 2048
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(20)) as judges:
        yield judges


def settings_of(checkpoint: Path, *overrides: str) -> Settings:
    models = (f"learner.model={checkpoint}", f"critic.model={checkpoint}")
    return load_settings(CONFIG, [*SHORT_RUN, *FREE, *models, *overrides])


def test_system_wording_and_examples_stand_in_the_prompts(
    checkpoint: Path, verifiers: Verifiers
) -> None:
    settings = settings_of(
        checkpoint,
        'learner.system_prompt="You are brief."',
        'critic.system_prompt="You are strict."',
        'tasks.prompt_template="Solve: {question} Box it."',
        f"tasks.examples=[{{question='Calculate 2 + 3.', reply={json.dumps(THOUGHT)}}}]",
    )
    referee = Referee(settings, verifiers)
    system, asked, shown, problem, begun = referee.problem(TASK, "We add")
    assert system == {"role": "system", "content": "You are brief."}
    assert asked["content"] == "Solve: Calculate 2 + 3. Box it."
    assert shown == {"role": "assistant", "content": THOUGHT}
    assert problem["content"] == f"Solve: {TASK.question} Box it."
    assert begun["content"] == "We add"
    solution = referee.dialect.parse_solution(THOUGHT, truncated=False)
    system, judged = referee.critique_prompt(TASK, solution)
    assert system == {"role": "system", "content": "You are strict."}
    assert f"Solve: {TASK.question} Box it." in judged["content"]


def test_the_answer_is_read_where_the_settings_say(checkpoint: Path, verifiers: Verifiers) -> None:
    referee = Referee(settings_of(checkpoint, "tasks.answer_in=hashes"), verifiers)
    parse = referee.dialect.parse_solution
    assert parse("\\boxed{5}\n#### 12", truncated=False).answer == "12"
    assert parse("\\boxed{5}", truncated=False).defect == "no_answer"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("tasks.prompt_template=Solve", "tasks.prompt_template must say where the {question} goes"),
        ("tasks.answer_in=boxes", "tasks.answer_in = 'boxes': "),
        (
            "tasks={dialect='tagged', answer_in='boxed'}",
            'tasks.answer_in is for tasks.dialect = "f',
        ),
        ("tasks={dialect='chain', prompt_template='{question}'}", "chain dialect has one wording"),
        ("learner.system_prompt=Hello", "learner.system_prompt: turns of a conversation, which"),
        ("rewards.length_allowance=1", "rewards.length_allowance = 1"),
        ("rewards.format_weight=-1", "rewards.format_weight = -1"),
    ],
)
def test_wording_that_does_not_fit_is_refused(checkpoint: Path, override: str, told: str) -> None:
    dialect = "free" if override.startswith(("tasks", "rewards")) else "chain"
    with pytest.raises(UserError) as refused:
        settings_of(checkpoint, f"tasks.dialect={dialect}", override)
    assert told in str(refused.value)


@pytest.mark.parametrize(("overrides", "opening"), [((), OPEN), ((NO_THOUGHT,), SILENT)])
def test_template_arguments_reach_everyone_who_asks(
    checkpoint: Path, verifiers: Verifiers, overrides: tuple[str, ...], opening: str
) -> None:
    settings = settings_of(checkpoint, *overrides)
    referee, task = Referee(settings, verifiers), build_source(settings).draw("test", 1, 0)[0]
    problem = referee.problem(task)
    roles = build_roles(settings, lambda row: None, run_tasks(settings, referee))
    origin = find_origin(checkpoint, CONFIG, _overrides(settings, overrides), None, True)
    learner, critic = load_samplers(origin, 0, checkpoint)
    assert critic is not None
    (trained,), _, _ = roles.learner._tokenize_prompts([problem])
    for ids in (
        trained,
        roles.learner.sampler.tokenize([problem])[0],  # evaluation, probes, continuations
        learner.tokenize([problem])[0],  # sparring-data and sparring-evaluate
    ):
        assert learner.tokenizer.decode(ids).endswith(f"<|im_end|>\n{opening}")
    for sampler in (roles.critic.sampler, critic):  # whose table says nothing
        assert sampler.tokenizer.decode(sampler.tokenize([problem])[0]).endswith(f"\n{OPEN}")


def _overrides(settings: Settings, overrides: tuple[str, ...]) -> list[str]:
    models = (f"learner.model={settings.learner.model}", f"critic.model={settings.critic.model}")
    return [*SHORT_RUN, *FREE, *models, *overrides]


def test_what_was_asked_is_recorded_and_a_resumed_generation_asks_alike(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = [
        *("generate", str(checkpoint), "--config", str(CONFIG), "--out", str(out), "--num", "1"),
        *("--no-critic", "--group", "2", "--batch", "2"),
        *(*SHORT_RUN, *FREE, NO_THOUGHT, 'learner.system_prompt="You are brief."'),
        *("tasks.answer_in=boxed", 'tasks.prompt_template="{question} Box it."'),
    ]
    assert "none of the last" in refused(capfd, dataset.main, command)
    recorded = json.loads((out / "generate.json").read_text())["arguments"]
    assert recorded["learner.chat_template_kwargs.enable_thinking"] is False
    assert recorded["learner.system_prompt"] == "You are brief."
    assert recorded["tasks.answer_in"] == "boxed"
    again = [one.replace("=false}", "=true}") for one in command]
    line = refused(capfd, dataset.main, [*again, "--resume"])
    assert "learner.chat_template_kwargs.enable_thinking False -> True" in line


def test_imitation_ends_a_reply_as_the_template_ends_a_turn(checkpoint: Path) -> None:
    family = replace(FAMILIES["Gemma 3"])
    tokenizer = family.tokenizer()
    tokenizer.save_pretrained(checkpoint.parent / "gemma")
    random_llama(tokenizer).save_pretrained(checkpoint.parent / "gemma")
    batch = {"per_device_train_batch_size": 4, "num_generations": 4}
    role = learner_role(RoleTrainer, checkpoint.parent / "gemma", **batch)
    chat = [[{"role": "user", "content": "1+1"}]] * 4
    role.block.begin_block(chat, "imitation", ["2"] * 4)
    _, completions, _, _ = role.block.generate(role.sampler.tokenize(chat), None, 1)
    named = role.sampler.tokenizer.convert_ids_to_tokens(completions[0])
    assert named == ["2", "<end_of_turn>"]
    role.block.begin_block(["1+1"] * 4, "imitation", ["2"] * 4)
    _, completions, _, _ = role.block.generate(role.sampler.tokenize(["1+1"] * 4), None, 1)
    assert role.sampler.tokenizer.convert_ids_to_tokens(completions[0]) == ["2", "<eos>"]
