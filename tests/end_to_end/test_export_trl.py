"""TRL's trainers take what `sparring-data export` writes: one step each, on a tiny model."""

from pathlib import Path

import pytest
import torch
from chat_cases import FAMILIES
from datasets import load_dataset
from set_cases import sum_record, write_set
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from pipelines.dataset import main
from pipelines.policy.tokenizer import character_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ONE_STEP = {
    "max_steps": 1, "per_device_train_batch_size": 2, "bf16": False, "use_cpu": True,
    "report_to": [], "save_strategy": "no", "learning_rate": 0.01, "gradient_checkpointing": False,
}  # fmt: skip
Made = tuple[Path, PreTrainedTokenizerBase]


@pytest.fixture(params=["chain", "free"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """A data set of bare text, or of conversations, and a tokenizer for it."""
    if request.param == "chain":
        return request.getfixturevalue("generated"), character_tokenizer()
    right = [sum_record(n, round_=0) for n in range(6)]
    wrong = [sum_record(n, seed=1, reason="verifier: incorrect") for n in range(6)]
    tokenizer = FAMILIES["Qwen2.5"].tokenizer()
    tokenizer.pad_token = "<|endoftext|>"
    return write_set(tmp_path / "set", [[*right, *wrong]]), tokenizer


def exported(made: Made, name: str, folder: Path) -> object:
    out = folder / f"{name}.jsonl"
    assert main(["export", str(made[0]), "--format", name, "--out", str(out)]) == 0
    return load_dataset("json", data_files=str(out), split="train")


def policy(tokenizer: PreTrainedTokenizerBase, folder: Path) -> LlamaForCausalLM:
    """A tiny model that was loaded, as DPO loads its reference from where the policy came."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "policy")
    return LlamaForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)


def moves(trainer: SFTTrainer | DPOTrainer | GRPOTrainer) -> bool:
    """Take one step; whether a weight changed, and none is broken."""
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    after = list(trainer.model.parameters())
    assert all(torch.isfinite(p).all() for p in after)
    return any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_sft_trainer_takes_the_export(made: Made, tmp_path: Path) -> None:
    rows, tokenizer = exported(made, "sft", tmp_path), made[1]
    arguments = SFTConfig(str(tmp_path / "run"), max_length=512, **ONE_STEP)
    assert moves(SFTTrainer(policy(tokenizer, tmp_path), arguments, train_dataset=rows,
                            processing_class=tokenizer))  # fmt: skip


def test_dpo_trainer_takes_the_export(made: Made, tmp_path: Path) -> None:
    rows, tokenizer = exported(made, "dpo", tmp_path), made[1]
    assert all(row["chosen"] != row["rejected"] for row in rows)
    arguments = DPOConfig(str(tmp_path / "run"), max_length=512, **ONE_STEP)
    assert moves(DPOTrainer(policy(tokenizer, tmp_path), args=arguments, train_dataset=rows,
                            processing_class=tokenizer))  # fmt: skip


def test_sft_trainer_takes_the_critics_export(made: Made, tmp_path: Path) -> None:
    if made[1].chat_template:
        pytest.skip("the set has no critiques")
    out = tmp_path / "critic.jsonl"
    assert main(["export", str(made[0]), "--format", "critic", "--out", str(out)]) == 0
    rows = load_dataset("json", data_files=str(out), split="train")
    rows = rows.select_columns(["prompt", "completion"])
    arguments = SFTConfig(str(tmp_path / "run"), max_length=512, **ONE_STEP)
    assert moves(SFTTrainer(policy(made[1], tmp_path), arguments, train_dataset=rows,
                            processing_class=made[1]))  # fmt: skip


def test_grpo_trainer_takes_the_export(made: Made, tmp_path: Path) -> None:
    rows, tokenizer = exported(made, "prompts", tmp_path), made[1]
    asked: list[str] = []

    def reward(completions: list[object], answer: list[str], **_: object) -> list[float]:
        asked.extend(answer)  # the references come with the prompts
        return [float(index % 2) for index in range(len(completions))]

    arguments = GRPOConfig(
        str(tmp_path / "run"), num_generations=2, max_completion_length=4, **ONE_STEP
    )
    trainer = GRPOTrainer(policy(tokenizer, tmp_path), reward, args=arguments, train_dataset=rows,
                          processing_class=tokenizer)  # fmt: skip
    assert moves(trainer) and set(asked) <= set(rows["answer"])
