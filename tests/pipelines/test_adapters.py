"""Adapters are saved as adapters beside the merged model, and training goes on from one."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from pipeline_cases import (
    SMALLEST_RUN,
    arguments,
    random_llama,
    random_moe,
    redraw_adapter,
    refused,
    rows,
    save,
)
from transformers import AutoModelForCausalLM

from pipelines import rl
from pipelines.errors import UserError
from pipelines.policy.adapter import HASH, base_hash, export_adapter
from pipelines.policy.checkpoint import load_policy
from pipelines.policy.folder import ADAPTER_BASE, check_adapter
from pipelines.policy.tensors import policy_tensors, weights_hash
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.run.origin import find_origin, load_samplers
from pipelines.settings.role_table import RoleTable

pytestmark = pytest.mark.timeout(900)
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
TARGETS = "target_modules=['q_proj','v_proj']"
SMALL = (
    *SMALLEST_RUN, "critic.imitation_steps=1", "run.rounds=1",
    f"learner.lora={{r=4, lora_alpha=8, {TARGETS}}}",
    f"critic.lora={{r=4, lora_alpha=8, {TARGETS}}}",
)  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_llama(character_tokenizer()), tmp_path_factory.mktemp("adapters") / "llama")


@pytest.fixture(scope="module")
def first(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with LoRA; its last checkpoint."""
    run = tmp_path_factory.mktemp("first") / "run"
    with redirect_stdout(StringIO()):
        assert rl.main(arguments(llama, run, *SMALL)) == 0
    return run / "checkpoints" / "round_00000"


def saved_adapter(base: Path, folder: Path, seed: int = 1) -> Path:
    """An adapter that matters, on a checkpoint."""
    policy = load_policy(str(base), RoleTable(model=str(base), lora=LORA))
    redraw_adapter(policy, seed)
    export_adapter(policy, folder)
    return folder


def test_a_checkpoint_has_the_adapter_and_the_same_policy_merged(first: Path, llama: Path) -> None:
    for role in ("learner", "critic"):
        folder = first / f"{role}_adapter"
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(llama) and config["r"] == 4
        assert (folder / "tokenizer_config.json").exists()
        # As peft itself loads it, on the base.
        base = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
        merged = PeftModel.from_pretrained(base, folder).merge_and_unload().state_dict()
        whole = AutoModelForCausalLM.from_pretrained(first / role, dtype=torch.float32)
        for name, tensor in whole.state_dict().items():
            torch.testing.assert_close(tensor, merged[name], rtol=1e-5, atol=1e-6)
        assert (first / f"{role}_adapter" / "adapter_model.safetensors").stat().st_size < 20_000


def test_training_goes_on_from_an_adapter(first: Path, llama: Path, tmp_path: Path) -> None:
    """The second run begins with the first one's last weights, and trains the same tensors."""
    run = tmp_path / "run"
    adapters = [f"{role}.adapter={first / f'{role}_adapter'}" for role in ("learner", "critic")]
    with redirect_stdout(StringIO()):
        assert rl.main(arguments(llama, run, *SMALL, "critic.lora={}", *adapters)) == 0
    ended = rows(first.parents[1], "round")[-1]["policy/weights_hash"]
    begun = json.loads((run / "transcripts" / "round_00000.jsonl").read_text().splitlines()[0])
    assert begun, "it played"
    policy = load_policy(
        str(llama), RoleTable(model=str(llama), adapter=str(first / "learner_adapter"))
    )
    assert [weights_hash(policy)] == ended, "bitwise the policy that the first run ended with"
    second = rows(run, "round")[-1]["policy/weights_hash"]
    assert second != ended
    assert (run / "checkpoints" / "round_00000" / "critic_adapter").is_dir()


def test_it_is_sampled_from_as_it_is(first: Path, tmp_path: Path) -> None:
    """`sparring-evaluate RUN/…/learner_adapter --config …`."""
    config = tmp_path / "c.toml"
    config.write_text(
        "[run]\ndirectory = 'x'\n[tasks]\nfamily = 'basic_arithmetic'\ndialect = 'chain'\n"
        "[learner]\nmodel = 'y'\nmax_completion_length = 4\n[critic]\nmodel = 'y'\n"
        "[rollout]\nengine = 'transformers'\n"
    )
    origin = find_origin(first / "learner_adapter", config, (), None, False)
    learner, _ = load_samplers(origin, 0, tmp_path / "scratch")
    assert [learner.engine.weights.hash] == rows(first.parents[1], "round")[-1][
        "policy/weights_hash"
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_adapter_comes_back_bit_by_bit(llama: Path, tmp_path: Path, dtype: str) -> None:
    lora = RoleTable.model_validate({"model": str(llama), "lora": LORA, "dtype": dtype})
    policy = load_policy(str(llama), lora)
    redraw_adapter(policy, 3)
    export_adapter(policy, tmp_path / "a")
    table = lora.model_copy(update={"lora": {}, "adapter": str(tmp_path / "a")})
    again = load_policy(str(llama), table)
    for (name, one), (_, other) in zip(policy_tensors(policy), policy_tensors(again), strict=True):
        assert torch.equal(one, other), name
    trained = [(n, p.dtype) for n, p in again.named_parameters() if p.requires_grad]
    assert trained and {dtype for _, dtype in trained} == {torch.float32}
    assert all(".lora_" in name for name, _ in trained)


def test_experts_adapters_come_back_too(tmp_path: Path) -> None:
    moe = save(random_moe(character_tokenizer()), tmp_path / "moe")
    experts = ["mlp.experts.gate_up_proj"]
    lora = {"r": 2, "target_modules": "all-linear", "target_parameters": experts}
    policy = load_policy(str(moe), RoleTable(model=str(moe), lora=lora))
    redraw_adapter(policy, 5)
    export_adapter(policy, tmp_path / "a")
    again = load_policy(str(moe), RoleTable(model=str(moe), adapter=str(tmp_path / "a")))
    assert weights_hash(policy) == weights_hash(again)


def test_a_base_is_known_in_either_precision(llama: Path) -> None:
    hashes = {
        base_hash(AutoModelForCausalLM.from_pretrained(llama, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert len(hashes) == 1


def test_another_base_is_refused_by_name(llama: Path, tmp_path: Path) -> None:
    """Of the same shape and even of the same name: its weights tell it."""
    adapter = saved_adapter(llama, tmp_path / "adapter")
    other = save(random_llama(character_tokenizer(), seed=9), tmp_path / "llama")
    table = RoleTable(model=str(other), adapter=str(adapter))
    said = rf"learner\.adapter: .*adapter was trained on other weights than those of {other}: its "
    with pytest.raises(UserError, match=said + rf"base was {llama}"):
        load_policy(str(other), table)

    (adapter / ADAPTER_BASE).unlink()  # another program's: by its name
    assert load_policy(str(other), table), "folders of one name may be one model"
    other = other.rename(tmp_path / "other")
    table = RoleTable(model=str(other), adapter=str(adapter))
    with pytest.raises(UserError, match=rf"was trained on {llama}, which is not {other}"):
        load_policy(str(other), table)


def test_an_adapter_that_does_not_fit_is_refused(llama: Path, tmp_path: Path) -> None:
    adapter = saved_adapter(llama, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    for changed, said in (
        ({"r": 8}, "cannot load the adapter"),
        ({"target_modules": ["q_proj", "k_proj"]}, "of its tensors are on one side alone"),
    ):
        (adapter / "adapter_config.json").write_text(json.dumps(config | changed))
        with pytest.raises(UserError, match=said):
            load_policy(str(llama), RoleTable(model=str(llama), adapter=str(adapter)))


def test_mistakes_are_told_before_torch_is_imported(
    llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adapter = saved_adapter(llama, tmp_path / "adapter")
    assert HASH in json.loads((adapter / ADAPTER_BASE).read_text())

    def told(table: RoleTable) -> str:
        with pytest.raises(UserError) as caught:
            check_adapter("critic", table)
        return str(caught.value)

    assert "critic.adapter: absent has no adapter_config.json" in told(RoleTable(adapter="absent"))
    table = RoleTable(adapter=str(adapter), lora={"r": 8})
    assert f"critic.lora.r = 8, but the adapter {adapter} was made with 4" in told(table)
    check_adapter("critic", RoleTable(adapter=str(adapter), lora=LORA | {"r": 4}))
    (adapter / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors" in told(RoleTable(adapter=str(adapter)))

    command = arguments(llama, tmp_path / "run", f"learner.model={adapter}")
    line = refused(capfd, rl.main, command)
    assert f"learner.model: {adapter} is an adapter: give it as learner.adapter" in line
    assert str(llama) in line
