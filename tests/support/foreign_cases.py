"""A foreign run in seconds: a tiny stock Llama that names the largest of three digits.

Its base has learned from an unreliable teacher, so that it is right in some two of three samples.
"""

import random
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from pipelines.guard.callback import EntropyMonitorCallback
from pipelines.policy.tokenizer import character_tokenizer

EVERY, NUM_STEPS = 5, 50
RATE = 2e-3
NUM_GOLD = 64
LABEL_NOISE = 0.4  # of the base's teacher


def rows(split: str) -> list[dict[str, object]]:
    """Every problem of a split: "gold" and "train" share none."""
    numbers = list(range(1000))
    random.Random(0).shuffle(numbers)
    chosen = numbers[:NUM_GOLD] if split == "gold" else numbers[NUM_GOLD:]
    texts = [f"{number:03d}" for number in chosen]
    return [{"prompt": f"{text}>", "completion": max(text)} for text in texts]


def is_right(completion: str, row) -> bool:  # type: ignore[no-untyped-def]
    """The gold check."""
    return completion.strip() == row["completion"]


def reward(completions, answer, **_: object) -> list[float]:  # type: ignore[no-untyped-def]
    """GRPO's reward: whether a completion is right."""
    return [float(one.strip() == right) for one, right in zip(completions, answer, strict=True)]


def unreliable_base(folder: Path) -> Path:
    """Train and save it: answers are right in all but `LABEL_NOISE` of what it is shown."""
    torch.manual_seed(0)
    rng, tokenizer = random.Random(0), character_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=32,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model, data = LlamaForCausalLM(config), rows("train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        texts = []
        for row in rng.sample(data, 128):
            answer = rng.choice("0123456789") if rng.random() < LABEL_NOISE else row["completion"]
            texts.append(f"{row['prompt']}{answer}")
        ids_BT = torch.tensor(tokenizer(texts)["input_ids"])
        ends_B1 = torch.full((len(texts), 1), tokenizer.eos_token_id)
        ids_BT = torch.cat([ids_BT, ends_B1], dim=1)
        labels_BT = ids_BT.clone()
        labels_BT[:, :4] = -100  # the prompt
        model(input_ids=ids_BT, labels=labels_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sft(base: Path, folder: Path, rate: float = RATE, shuffled: bool = False) -> SFTTrainer:
    """TRL's SFTTrainer on the problems' answers, or on answers of other problems."""
    data = rows("train")
    if shuffled:
        answers = [row["completion"] for row in data]
        random.Random(1).shuffle(answers)
        data = [{**row, "completion": one} for row, one in zip(data, answers, strict=True)]
    args = SFTConfig(
        output_dir=str(folder), max_steps=NUM_STEPS, per_device_train_batch_size=64,
        learning_rate=rate, lr_scheduler_type="constant", save_strategy="no", max_length=None,
        **quiet(),
    )  # fmt: skip
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=args, train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip


def grpo(base: Path, folder: Path, rate: float = RATE, num_steps: int = NUM_STEPS) -> GRPOTrainer:
    """TRL's GRPOTrainer with the check as its reward."""
    args = GRPOConfig(
        output_dir=str(folder), max_steps=num_steps, per_device_train_batch_size=128,
        num_generations=8, max_completion_length=2, learning_rate=rate, beta=0.0,
        lr_scheduler_type="constant", save_strategy="no", **quiet(),
    )  # fmt: skip
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        reward_funcs=reward, args=args,
        train_dataset=Dataset.from_list(rows("train")).rename_column("completion", "answer"),
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip


def quiet() -> dict[str, object]:
    """Options of a short run on a CPU that prints nothing."""
    return {
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none",
        "logging_steps": 1, "disable_tqdm": True, "seed": 0,
    }  # fmt: skip


def guard(folder: Path, **options: object) -> EntropyMonitorCallback:
    """The monitor on the gold problems, however long its checks take."""
    given = {"every": EVERY, "max_new_tokens": 2, "max_share": 1.0, "batch_size": 256, **options}
    return EntropyMonitorCallback(rows("gold"), is_right, folder, **given)  # type: ignore[arg-type]
