"""A user's mistake is refused before torch is imported, and thus within three seconds."""

import contextlib
import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from peft import LoraConfig
from pipeline_cases import CONFIG
from trl import GRPOConfig, SFTConfig

from pipelines.errors import UserError
from pipelines.run.early import check_wandb
from pipelines.settings.library import (
    GRPO,
    LORA,
    SFT,
    TRUNCATED_SAMPLING,
    LibraryConfig,
    check_library_table,
    types_of,
)
from pipelines.settings.library_fields import field_types
from pipelines.settings.load import dump_settings, load_settings
from rewards.functions import check_named

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "trl", "peft", "vllm")


def refused_early(*command: str, program: str = "rl", world_size: str = "1") -> str:
    """What a program says to a mistake; fails if it imported a heavy library by then."""
    code = (
        f"import sys\nfrom pipelines.{program} import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as ended:\n"
        f"    found = [name for name in {HEAVY} if name in sys.modules]\n"
        "    assert not found, f'imported {found}'\n"
        "    sys.exit(ended.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"WORLD_SIZE": world_size},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    return done.stderr


def start(folder: Path) -> list[str]:
    """The command of a run whose models are there, as far as their folders tell."""
    model = folder / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (model / name).write_text("{}")
    roles = [f"learner.model={model}", f"critic.model={model}"]
    return ["--config", str(CONFIG), f"run.directory={folder / 'run'}", *roles]


@pytest.mark.parametrize(
    ("config", "config_class"), [(GRPO, GRPOConfig), (SFT, SFTConfig), (LORA, LoraConfig)]
)
def test_fields_read_from_the_source_are_the_classes_own(
    config: LibraryConfig, config_class: type
) -> None:
    found, named = field_types(config.module, config.name), types_of(config_class)
    assert found is not None and list(found) == list(named)
    assert config_class.__name__ == config.name
    package = config.module.partition(".")[0]
    assert field_types(package, config.name) in (found, None), "never others"
    defaults = {
        field.name: field.default for field in dataclasses.fields(config_class)
        if field.default not in (None, dataclasses.MISSING)
        and field.name not in TRUNCATED_SAMPLING
    }  # fmt: skip
    for types in (found, named):  # what the library itself puts there must fit
        check_library_table("x", defaults, LibraryConfig("", ""), types)


def test_what_cannot_be_read_is_left_to_the_class_itself() -> None:
    assert field_types("trl.trainer.grpo_config", "NoSuchConfig") is None
    assert field_types("no_such_library.config", "Config") is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("learner.grpo.learning_rte=1", 'learning_rte in GRPOConfig: did you mean "learning_rate"'),
        ("learner.grpo.loss_type=dapoo", 'did you mean "dapo"?'),
        ("critic.lora={rank=8}", "unknown key critic.lora.rank in LoraConfig"),
        ("sft.trainer.max_step=9", 'in SFTConfig: did you mean "max_steps"'),
        ("learner.grpo.learning_rate=abc", "learning_rate = 'abc' must be a number"),
        ('learner.grpo.learning_rate="1e-5"', "learning_rate = '1e-5' must be a number"),
        ("learner.grpo.per_device_train_batch_size=eight", "must be a whole number"),
        ("learner.grpo.scale_rewards=2", "is not a choice"),
        ("learner.grpo.bf16=1", "learner.grpo.bf16 = 1 must be true or false"),
        ("critic.lora.r=true", "critic.lora.r = True must be a whole number"),
        ("learner.modell=x", 'did you mean "model"'),
        ("tasks.params.min_term=3", "min_term"),
        ("tasks.family=basic_arithmetics", 'did you mean "basic_arithmetic"'),
        ("learner.model=/absent", "learner.model: /absent does not exist"),
    ],
)
def test_a_typo_is_told_before_torch_is_imported(tmp_path: Path, override: str, said: str) -> None:
    assert said in refused_early(*start(tmp_path), override)


def test_other_mistakes_of_a_start_are_told_before_torch_is_imported(tmp_path: Path) -> None:
    absent = ("tasks.source=jsonl", "tasks.family=", "tasks.params={}", "tasks.path=absent.jsonl")
    begun = start(tmp_path)
    line = refused_early(*begun, *absent)
    assert "task file absent.jsonl does not exist" in line

    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "2+2?", "answer": "4"}\n')
    wrong = (*absent[:3], f"tasks.path={mine}", "tasks.question_field=problm")
    line = refused_early(*begun, *wrong)
    assert "2 of 2 rows are faulty" in line and "problm" in line

    settings = load_settings(CONFIG, [f"run.directory={tmp_path}"])
    (tmp_path / "config.json").write_text(dump_settings(settings))
    line = refused_early("--config", str(CONFIG), f"run.directory={tmp_path}")
    assert f"already holds a run: continue it with --resume {tmp_path}" in line
    line = refused_early("--resume", str(tmp_path), "run.seed=4")
    assert "would change the experiment" in line
    line = refused_early("--config", str(CONFIG), world_size="2")
    assert "run.num_processes = 1 but the launcher started 2" in line
    line = refused_early("--config", str(CONFIG), "sft.trainer.lerning_rate=1", program="sft")
    assert 'did you mean "learning_rate"' in line


def test_a_wrong_name_of_ones_own_function_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    """The file is read and not run: a reward may import what takes long."""
    mine, begun = tmp_path / "mine.py", start(tmp_path)
    mine.write_text("import absent_library\n\ndef brevity(task, completion):\n    return 1.0\n")
    said = refused_early(*begun, f'rewards.functions={{"{mine}:brevty"=1.0}}')
    assert f"rewards.functions: {mine}:brevty: {mine} has no function or class 'brevty'" in said
    said = refused_early(*begun, f'rewards.functions={{"{mine}x.py:f"=1.0}}')
    assert f"there is no file {mine}x.py" in said
    mine.write_text("def brevity(:\n")
    assert "invalid syntax" in refused_early(*begun, f'run.trackers=["{mine}:Mine"]')


@pytest.mark.parametrize(
    ("text", "is_known"),
    [
        ("from elsewhere import reward", True),
        ("import elsewhere as reward", True),
        ("reward = make()", True),
        ("from elsewhere import *", True),
        ("class reward: pass", True),
        ("if True:\n    async def reward(): pass", True),
        ("globals()[f'{1}_reward'] = print", True),
        ("def __getattr__(name): return print", True),
        ("def rewards(): pass", False),
    ],
)
def test_only_a_name_that_nothing_can_give_is_refused(
    tmp_path: Path, text: str, is_known: bool
) -> None:
    (tmp_path / "mine.py").write_text(text)
    with contextlib.nullcontext() if is_known else pytest.raises(ValueError, match="no function"):
        check_named(f"{tmp_path}/mine.py:reward")
    check_named("package.module:reward")


def test_wandb_without_a_login_is_told_before_it_waits_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was an error after 21 seconds, of an engine that had been loaded for nothing."""
    for name in ("MODE", "API_KEY", "BASE_URL", "IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(UserError, match=r"WANDB_MODE=offline .* WANDB_API_KEY, or run"):
        check_wandb()
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError):
        check_wandb()
    for name, value in (("MODE", "offline"), ("API_KEY", "x"), ("IDENTITY_TOKEN_FILE", "x")):
        with monkeypatch.context() as given:
            given.setenv(f"WANDB_{name}", value)
            check_wandb()
    own = tmp_path / ".config" / "wandb" / "settings"
    own.parent.mkdir(parents=True)
    own.write_text("[default]\nbase_url = https://wandb.example\n")
    check_wandb()
    own.unlink()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    check_wandb()


@pytest.mark.parametrize(
    ("program", "given", "said"),
    [
        ("dataset", ["generate", "runs/absent", "--num", "1"], "runs/absent is not a directory"),
        ("dataset", ["generate", ".", "--num", "0"], "--num must be at least 1, got 0"),
        ("dataset", ["generate", ".", "--num", "1", "--split", "tset"], 'did you mean "test"?'),
        ("evaluate", ["runs/absent"], "runs/absent is not a directory"),
    ],
)
def test_commands_on_checkpoints_refuse_as_early(
    tmp_path: Path, program: str, given: list[str], said: str
) -> None:
    out = ["--out", str(tmp_path / "set")] if program == "dataset" else []
    assert said in refused_early(*given, *out, program=program)


@pytest.mark.parametrize("program", ["dataset", "evaluate"])
def test_their_settings_are_refused_as_early(tmp_path: Path, program: str) -> None:
    """Of a checkpoint, of a run, and of a server: a typo was told after half a minute."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (model / name).write_text("{}")
    run = tmp_path / "run"
    run.mkdir()
    settings = load_settings(CONFIG, [f"run.directory={run}"])
    (run / "config.json").write_text(dump_settings(settings))
    first = ["generate"] if program == "dataset" else []
    more = ["--num", "1", "--out", str(tmp_path / "set")] if program == "dataset" else []

    def said(source: object, *given: str) -> str:
        return refused_early(*first, str(source), *more, *given, program=program)

    config = ["--config", str(CONFIG)]
    assert 'did you mean "family"' in said(model, *config, "tasks.famly=gcd")
    assert 'did you mean "temperature"' in said(run, "learner.temprature=1")
    assert "no configuration file absent.toml" in said(model, "--config", "absent.toml")
    assert "add --config" in said(model) and "leave out --config" in said(run, *config)
    file = ("tasks.source=dataset", "tasks.family=", "tasks.params={}", "tasks.path=absent.csv")
    assert "dataset absent.csv does not exist" in said(model, *config, *file)
    if program == "evaluate":  # the run's own tasks are asked for no more: its file may be gone
        gone = load_settings(CONFIG, [f"run.directory={run}", *file])
        (run / "config.json").write_text(dump_settings(gone))
        assert "absent.csv" in said(run)
        told = said(run, "--tasks", str(tmp_path / "mine.jsonl"))
        assert "mine.jsonl does not exist" in told and "absent.csv" not in told
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in said(empty, *config)
    if program == "dataset":
        server = "http://localhost:1/v1"
        assert 'did you mean "family"' in said(server, *config, "--model", "m", "tasks.famly=gcd")
        assert "a server says nothing of tasks" in said(server, "--model", "m")


def test_a_folder_that_holds_something_is_refused_as_early(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    given = ["generate", ".", "--num", "1", "--out", str(tmp_path)]
    assert f"{tmp_path} is not empty" in refused_early(*given, program="dataset")
