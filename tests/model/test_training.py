"""The model under the tools that wrap it: gradient checkpointing, PEFT, Accelerate, Trainer."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments
from weights import largest_change, make_weights_matter

from model.configuration import tiny_config
from model.modeling import SparringMoeForCausalLM

IDS_BT = torch.randint(0, 40, (4, 16), generator=torch.Generator().manual_seed(0))


def tiny_model() -> SparringMoeForCausalLM:
    return make_weights_matter(SparringMoeForCausalLM(tiny_config(40)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_equal_gradients(reentrant: bool) -> None:
    plain, checkpointed = tiny_model(), tiny_model()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for model in (plain, checkpointed):
        model(input_ids=IDS_BT, labels=IDS_BT).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert a.grad is not None and torch.equal(a.grad, b.grad), name


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning")
@pytest.mark.parametrize(
    "targets",
    [
        ["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
        ["gate_proj", "up_proj", "down_proj"],  # PEFT turns these into the fused experts
    ],
)
def test_a_lora_adapter_trains_generates_and_merges(targets: list[str]) -> None:
    wrapped = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=targets, lora_alpha=64))
    optimizer = torch.optim.Adam((p for p in wrapped.parameters() if p.requires_grad), lr=1e-2)
    before = wrapped(input_ids=IDS_BT, labels=IDS_BT).loss
    for _ in range(3):
        optimizer.zero_grad()
        wrapped(input_ids=IDS_BT, labels=IDS_BT).loss.backward()
        optimizer.step()
    wrapped.eval()
    with torch.no_grad():
        after = wrapped(input_ids=IDS_BT, labels=IDS_BT)
    assert after.loss < before
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    cached = wrapped.generate(input_ids=IDS_BT, use_cache=True, **options)
    assert torch.equal(cached, wrapped.generate(input_ids=IDS_BT, use_cache=False, **options))
    merged = wrapped.merge_and_unload()
    assert largest_change(merged(input_ids=IDS_BT).logits, after.logits) <= 1e-4


def test_accelerate_prepares_and_unwraps_it() -> None:
    accelerator = Accelerator(cpu=True)
    model = tiny_model()
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accelerator.backward(prepared(input_ids=IDS_BT, labels=IDS_BT).loss)
    optimizer.step()
    assert accelerator.unwrap_model(prepared) is model


def test_trainer_lowers_the_loss_and_its_checkpoint_loads(tmp_path: Path) -> None:
    model = SparringMoeForCausalLM(tiny_config(40))
    rows = [{"input_ids": ids, "labels": ids} for ids in IDS_BT]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=6,
        learning_rate=3e-3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=1,
        save_steps=6,
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    assert trainer.model_accepts_loss_kwargs
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    loaded = SparringMoeForCausalLM.from_pretrained(tmp_path / "checkpoint-6")
    for (name, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
