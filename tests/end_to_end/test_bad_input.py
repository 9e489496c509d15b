"""A user's mistakes: one line that says what to change, exit status 2, and nothing written.

They go through `rl.py`'s own `main` in this process (`test_bad_start.py` starts it as a user does).
"""

import json
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline_cases import (
    CONFIG,
    ENGINE,
    arguments,
    random_llama,
    random_moe,
    refused,
    save,
)
from transformers import BertConfig, BertModel

from pipelines.errors import UserError
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rl import main
from pipelines.run.resumed import resume_settings
from pipelines.settings.load import dump_settings, load_settings

pytestmark = pytest.mark.timeout(300)
PYTHON = [sys.executable, "pipelines/rl.py"]
ROLES = ("learner", "critic")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("bad") / "moe")


def _refused(capfd: Capture, command: list[str]) -> str:
    return refused(capfd, main, command)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["learner.step_per_round=1"], r'unknown key learner\.step_per_round .*"steps_per_round"'),
        (["rolout.engine=vllm"], r'unknown key rolout .* "rollout"\?'),
        (
            ["learner.grpo.learning_rat=1"],
            r'unknown key learner\.grpo\.learning_rat in GRPOConfig: .*"learning_rate"\?',
        ),
        (["critic.grpo.max_steps=9"], r"critic\.grpo\.max_steps is set by the loop: remove it"),
        (["learner.grpo.use_vllm=true"], r"learner\.grpo\.use_vllm is set by the loop"),
        (["learner.grpo.top_p=0.9"], r"learner\.grpo\.top_p truncates .* importance ratio"),
        (["critic.grpo.top_k=5"], r"critic\.grpo\.top_k truncates"),
        (["learner.lora.rank=8"], r"unknown key learner\.lora\.rank in LoraConfig"),
        (["run.rounds=0"], r"run\.rounds = 0: .*greater than or equal to 1"),
        (["run.rounds"], r"'run\.rounds' is not of the form table\.key=value"),
        (["learner.steps_per_round=0"], r"learner\.steps_per_round = 0, but a round trains"),
        (
            ["learner.grpo.per_device_train_batch_size=6"],
            r"learner\.grpo: .*(6|generation_batch_size).*4",
        ),
        (
            ["learner.grpo.num_iterations=2", "learner.steps_per_round=3"],
            r"learner\.steps_per_round = 3 .*not a multiple",
        ),
        (["tasks.family=basic_arithmetics"], r'"basic_arithmetics": .* "basic_arithmetic"'),
        (["tasks.dialect=chains"], r"tasks\.dialect = 'chains'"),
        (["rollout.max_model_len=32"], r"rollout\.max_model_len = 32 leaves no room .*learner"),
        (
            ["rollout.max_model_len=70", "critic.max_completion_length=32"],
            r"rollout\.max_model_len = 70 is too small: the critic's .* at least 7\d",
        ),
        (
            ["rollout.max_model_len=36", "critic.max_completion_length=8"],
            r"rollout\.max_model_len = 36 is too small: the critic's prompts .* at least 4\d",
        ),
        (["run.num_processes=2"], r"num_processes = 2 but the launcher started 1: .*--multi_gpu"),
        (["learner.model=runs/absent"], r"learner\.model: runs/absent does not exist: run .*sft"),
        (
            ['rewards.functions={"absent.py:mine"=1}'],
            r"rewards\.functions: absent\.py:mine: .*there is no file absent\.py",
        ),
        (["critic.auditor=runs/absent"], r"critic\.auditor: runs/absent does not exist"),
        (
            ["critic.auditor=runs/absent", "critic.lora={r=2}"],
            r"critic\.auditor is a whole checkpoint .* does not go with critic\.lora",
        ),
        (["evaluate.num_tasks=100000"], r'of 100000 distinct "test" tasks: ask for fewer'),
    ],
)  # fmt: skip
def test_a_mistake_in_the_configuration(
    checkpoint: Path, tmp_path: Path, capfd: Capture, overrides: list[str], told: str
) -> None:
    directory = tmp_path / "run"
    line = _refused(capfd, arguments(checkpoint, directory, *overrides))
    assert re.search(told, line), line
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_that_started_more_than_configured(
    checkpoint: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = _refused(capfd, arguments(checkpoint, tmp_path / "run"))
    assert "run.num_processes = 1 but the launcher started 2" in line
    assert list(tmp_path.iterdir()) == []


# -- checkpoints ---------------------------------------------------------------------------------


def _no(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _no_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a safetensors file at all")


def _other_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))


def _unknown_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "no_such_model", "architectures": None}
    (folder / "config.json").write_text(json.dumps(config))


def _bert(folder: Path) -> None:
    small = BertConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(small).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(_no("model.safetensors"), "no .safetensors file", id="no weights"),
        pytest.param(_no("config.json"), "has no config.json", id="no config"),
        pytest.param(
            _no("tokenizer_config.json"), "has no tokenizer_config.json", id="no tokenizer"
        ),
        pytest.param(_cut_short, "is cut short", id="cut short"),
        pytest.param(_no_header, "or not a safetensors file", id="not safetensors"),
        pytest.param(_other_sizes, "cannot load a causal language model", id="another size"),
        pytest.param(_unknown_kind, "no_such_model", id="unknown kind"),
        pytest.param(_bert, "holds BertModel, which is not a causal language", id="not causal"),
    ],
)  # fmt: skip
def test_a_foreign_checkpoint(
    tmp_path: Path, capfd: Capture, spoil: Callable[[Path], None], told: str
) -> None:
    foreign = save(random_moe(character_tokenizer()), tmp_path / "foreign")
    spoil(foreign)
    line = _refused(capfd, arguments(foreign, tmp_path / "run"))
    assert told in line and "foreign" in line, line
    assert not (tmp_path / "run").exists()


def test_a_dense_checkpoint_of_another_config(
    checkpoint: Path, tmp_path: Path, capfd: Capture
) -> None:
    """A tensor that the config wants and the file lacks would be random weights, silently.

    The critic is the one refused: by then the learner stands, and still nothing is written.
    """
    foreign = save(random_llama(character_tokenizer()), tmp_path / "foreign")
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    line = _refused(capfd, arguments(checkpoint, tmp_path / "run", f"critic.model={foreign}"))
    assert "lacks 9 of the model's tensors, such as model.layers.2." in line
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_mismatch(checkpoint: Path, tmp_path: Path, capfd: Capture) -> None:
    tokenizer = character_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    other = tmp_path / "other"
    random_moe(tokenizer).save_pretrained(other)
    tokenizer.save_pretrained(other)
    line = _refused(capfd, arguments(checkpoint, tmp_path / "run", f"critic.model={other}"))
    assert "different vocabularies (99 and 100 tokens): start both from models with one" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(ENGINE != "vllm", reason="vLLM is not installed")
def test_a_rollout_server_that_is_not_there(
    checkpoint: Path, tmp_path: Path, capfd: Capture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("", 0)) as second:
        ports = [taken.getsockname()[1] for taken in (first, second)]
    named = [f'{role}=["http://127.0.0.1:{port}"]' for role, port in zip(ROLES, ports, strict=True)]
    servers = ("rollout.placement=server", f"rollout.urls={{{', '.join(named)}}}")
    more = (*servers, "rollout.start_timeout_seconds=1")
    line = _refused(capfd, arguments(checkpoint, tmp_path / "run", *more))
    assert re.search(rf"127.0.0.1:{ports[0]} was not ready after .*Connection refused", line), line
    assert not (tmp_path / "run").exists()


# -- files ---------------------------------------------------------------------------------------

GOOD = '{"question": "What is 1 + 1?", "answer": "2"}\n'
BROKEN = '{"question": "What is 2 + 1?", "answer": \n'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param("", "holds no tasks", id="empty"),
        pytest.param(GOOD + BROKEN, "tasks.jsonl:2: not a JSON object", id="json"),
        pytest.param(GOOD + '{"question": "?"}\n', 'jsonl:2: field "answer"', id="field"),
        pytest.param(GOOD, "add tasks, at least 4 in all", id="too few"),
        pytest.param(None, "does not exist", id="absent"),
    ],
)  # fmt: skip
def test_a_bad_task_file(
    checkpoint: Path, tmp_path: Path, capfd: Capture, content: str | None, told: str
) -> None:
    file = tmp_path / "tasks.jsonl"
    if content is not None:
        file.write_text(content)
    tasks = ("tasks.source=jsonl", "tasks.params={}", f"tasks.path={file}")
    line = _refused(capfd, arguments(checkpoint, tmp_path / "run", *tasks))
    assert told in line and "tasks.jsonl" in line, line
    assert not (tmp_path / "run").exists()


def test_configuration_and_run_paths(checkpoint: Path, tmp_path: Path, capfd: Capture) -> None:
    assert "give either --config" in _refused(capfd, [])
    assert "give either --config" in _refused(capfd, ["--config", "a", "--resume", "b"])
    assert "no configuration file" in _refused(capfd, ["--config", str(tmp_path / "no.toml")])
    (tmp_path / "bad.toml").write_text("[run\n")
    assert "bad.toml is not valid TOML" in _refused(capfd, ["--config", str(tmp_path / "bad.toml")])
    assert "holds no run" in _refused(capfd, ["--resume", str(tmp_path / "nothing")])

    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "config.json").write_text("{}")
    line = _refused(capfd, arguments(checkpoint, earlier))
    assert f"already holds a run: continue it with --resume {earlier}" in line
    assert [path.name for path in earlier.iterdir()] == ["config.json"]


def test_a_run_of_another_version_is_refused_and_left_as_it_is(
    capfd: Capture, checkpoint: Path, tmp_path: Path
) -> None:
    given = arguments(checkpoint, tmp_path, "rollout.engine=transformers")
    settings = load_settings(CONFIG, given[2:])
    state = tmp_path / "checkpoints" / "round_00000" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text('{"knobs": {}}')
    (tmp_path / "config.json").write_text(dump_settings(settings))
    (tmp_path / "status.json").write_text('{"state": "running"}')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    line = _refused(capfd, ["--resume", str(tmp_path)])
    assert "was written by another version of Sparring" in line
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_resumed_run_may_find_its_servers_elsewhere_and_changes_nothing_else(
    tmp_path: Path,
) -> None:
    urls = 'rollout.urls={learner=["http://a:1"], critic=["http://a:2"]}'
    served = ["rollout.placement=server", urls]
    (tmp_path / "config.json").write_text(dump_settings(load_settings(CONFIG, served)))
    moved = 'rollout.urls={learner=["http://b:1"], critic=["http://b:2"]}'
    table = resume_settings(tmp_path, [moved, "rollout.max_restarts=9"]).rollout
    assert table.urls == {"learner": ("http://b:1",), "critic": ("http://b:2",)}
    assert table.max_restarts == 9
    with pytest.raises(UserError, match=r"would change the experiment: .* rollout\.urls"):
        resume_settings(tmp_path, ["rollout.precision=fp8"])
