"""What a library refuses about a user's options is one line too, wherever the library notices."""

import json
import shutil
from pathlib import Path

import pytest
from chat_cases import FAMILIES
from pipeline_cases import CONFIG, ENGINE, arguments, random_llama, random_moe, refused, save
from transformers import AutoTokenizer

from data.errors import MAX_REASON, UserError, as_user_error, reason
from pipelines import dataset, rl, sft
from pipelines.policy.tokenizer import character_tokenizer

pytestmark = pytest.mark.timeout(300)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("options") / "moe")


def test_only_the_named_kinds_are_blamed_on_the_user() -> None:
    with (
        pytest.raises(UserError, match=r"learner\.grpo: no such thing"),
        as_user_error("learner.grpo", ValueError),
    ):
        raise ValueError("no such\n  thing")
    with pytest.raises(UserError, match=r"^already said$"), as_user_error("x", ValueError):
        raise UserError("already said")
    with pytest.raises(KeyError), as_user_error("x", ValueError):
        raise KeyError("a bug")
    assert reason(OSError()) == "OSError" and len(reason(ValueError("ab " * 999))) <= MAX_REASON


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "learner.grpo.loss_type=dapoo",
            "learner.grpo.loss_type = 'dapoo' is not a choice: did you mean \"dapo\"?",
        ),
        ("critic.grpo.scale_rewards=2", "critic.grpo.scale_rewards = 2 is not a choice: known: "),
        ("learner.grpo.optim=adamw_bnb_8bit", "learner.grpo: You need to install `bitsandbytes`"),
        ("critic.grpo.lr_scheduler_type=cosin", "critic.grpo: cosin is not a valid SchedulerType"),
        (
            "learner.grpo.lr_scheduler_type=warmup_stable_decay",
            "learner.grpo: get_wsd_schedule() missing 1 required positional argument",
        ),
        ("learner.grpo.accelerator_config=absent.json", "learner.grpo: [Errno 2] No such file"),
        ("critic.grpo.sync_ref_model=true", "critic.grpo: You passed `sync_ref_model=True` while"),
        ("learner.lora={target_modules=['q_prj']}", "Target modules {'q_prj'} not found in"),
        ("learner.lora={task_type='CAUSAL_LM'}", "got multiple values for keyword argument"),
        ("tasks.dialect=tagged", "cannot be prompted with a conversation: Cannot use chat templat"),
    ],
)
def test_trl_peft_and_transformers_refuse(
    checkpoint: Path, tmp_path: Path, capfd: Capture, override: str, told: str
) -> None:
    command = arguments(checkpoint, tmp_path / "run", "rollout.engine=transformers", override)
    line = refused(capfd, rl.main, command)
    assert told in line, line
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_does_not_fit_its_model_is_refused(
    checkpoint: Path, tmp_path: Path, capfd: Capture
) -> None:
    endless = AutoTokenizer.from_pretrained(checkpoint)
    endless.eos_token = None
    larger = AutoTokenizer.from_pretrained(checkpoint)
    larger.add_tokens([f"more{number}" for number in range(9)])
    for name, tokenizer, told in (
        ("endless", endless, "its tokenizer has no end token"),
        ("larger", larger, "they do not belong together"),
    ):
        folder = tmp_path / name
        shutil.copytree(checkpoint, folder)
        tokenizer.save_pretrained(folder)
        command = arguments(folder, tmp_path / "run", "rollout.engine=transformers")
        line = refused(capfd, rl.main, command)
        assert told in line and str(folder) in line, line
        assert not (tmp_path / "run").exists()


def test_an_auditor_of_another_shape_is_refused(
    checkpoint: Path, tmp_path: Path, capfd: Capture
) -> None:
    other = save(random_moe(character_tokenizer(), num_hidden_layers=1), tmp_path / "other")
    overrides = ("rollout.engine=transformers", f"critic.auditor={other}")
    line = refused(capfd, rl.main, arguments(checkpoint, tmp_path / "run", *overrides))
    assert f"critic.auditor = {other} is a model of another shape than the critic's" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(ENGINE != "vllm", reason="vLLM is not installed")
def test_vllm_refuses_a_context_beyond_the_models(tmp_path: Path, capfd: Capture) -> None:
    dense = save(random_llama(character_tokenizer()), tmp_path / "dense")  # 128 positions
    line = refused(capfd, rl.main, arguments(dense, tmp_path / "run", "rollout.max_model_len=512"))
    assert f"vLLM cannot serve {dense}: " in line and "max_model_len" in line, line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sft.model={hidden_sise=64}", "sft.model: the config has no field 'hidden_sise'"),
        ("sft.model={num_experts_per_tok=99}", "sft.model: num_experts_per_tok must be at most"),
        ("sft.trainer.loss_type=nlll", "sft.trainer: Invalid `loss_type` nlll"),
        ("sft.trainer.lr_scheduler_kwargs={a=1}", "sft.trainer: get_"),
        ("sft.trainer.max_step=9", 'key sft.trainer.max_step in SFTConfig: did you mean "max_s'),
        ("sft.easy.params={}", "sft.easy.params is empty: say there what makes the tasks easier"),
        ("sft.easy.params={max_term=4}", "max_term"),
        ("tasks.source=dataset", "params are reasoning-gym's, but the source is dataset"),
        ("tasks.dialect=tagged", "the tagged dialect cannot write a demonstration"),
    ],
)
def test_a_cold_start_is_refused(tmp_path: Path, capfd: Capture, override: str, told: str) -> None:
    few = (
        "sft.num_solutions=2",
        "sft.num_critiques=2",
        "sft.easy.num_solutions=2",
        "tasks.path=x",
        f"sft.directory={tmp_path / 'base'}",
    )
    line = refused(capfd, sft.main, ["--config", str(CONFIG), *few, override])
    assert told in line, line
    assert not (tmp_path / "base").exists()


def test_a_damaged_file_names_itself(checkpoint: Path, tmp_path: Path, capfd: Capture) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe[run]")
    assert "binary.toml is not valid TOML" in refused(capfd, rl.main, ["--config", str(binary)])
    line = refused(capfd, rl.main, ["--config", str(tmp_path)])
    assert f"{tmp_path} cannot be read: Is a directory" in line

    (tmp_path / "config.json").write_text('{"run": ')
    for main, command in (
        (rl.main, ["--resume", str(tmp_path)]),
        (dataset.main, ["generate", str(tmp_path), "--out", str(tmp_path / "o"), "--num", "1"]),
        (dataset.main, ["stats", str(tmp_path)]),
    ):
        assert "config.json is not valid JSON" in refused(capfd, main, command)
    (tmp_path / "config.json").write_text("[]")
    assert "is not a JSON table, but a list" in refused(capfd, rl.main, ["--resume", str(tmp_path)])


def test_an_adapter_that_does_not_fit_its_base(
    checkpoint: Path, tmp_path: Path, capfd: Capture
) -> None:
    adapter = tmp_path / "adapter"
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(adapter)
    table = {"peft_type": "LORA", "base_model_name_or_path": str(checkpoint), "r": 4}
    (adapter / "adapter_config.json").write_text(json.dumps(table | {"target_modules": ["zz"]}))
    command = [
        *("generate", str(checkpoint), "--config", str(CONFIG), "--out", str(tmp_path / "out")),
        *("--num", "1", "--critic", str(adapter), "rollout.engine=transformers"),
    ]
    line = refused(capfd, dataset.main, command)
    assert f"cannot load the adapter {adapter}: " in line, line
    assert not (tmp_path / "out").exists()


def test_a_family_whose_scorer_cannot_tell(tmp_path: Path, capfd: Capture) -> None:
    tokenizer = FAMILIES["Qwen3"].tokenizer()
    model = save(random_llama(tokenizer), tmp_path / "qwen3")
    tokenizer.save_pretrained(model)
    family = ("tasks.dialect=free", "tasks.family=puzzle24", "tasks.params={}")
    room = ("rollout.max_model_len=4096",)
    line = refused(capfd, rl.main, arguments(model, tmp_path / "run", *family, *room))
    assert "verifier puzzle of puzzle24: tnr 0." in line and "rewards.min_tnr = 0.95" in line, line
    assert "is correct where" in line and "lower the threshold" in line
    assert not (tmp_path / "run").exists()
