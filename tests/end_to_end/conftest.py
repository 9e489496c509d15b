"""A checkpoint trained for seconds and a data set generated from it, made once."""

from pathlib import Path

import pytest
import torch
from dataset_cases import SMALL, command, demonstrations, save

from model.configuration import tiny_config
from model.modeling import SparringMoeForCausalLM
from pipelines.dataset import main
from pipelines.policy.tokenizer import character_tokenizer


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that solves most of the easy tasks, not all, and criticises them."""
    torch.manual_seed(0)
    tokenizer = character_tokenizer()
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = SparringMoeForCausalLM(tiny_config(len(tokenizer), **special, **SMALL))
    pairs = [
        (tokenizer(prompt)["input_ids"], [*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
        for prompt, text in demonstrations()
    ]
    width = max(len(prompt) + len(text) for prompt, text in pairs)
    pad = [[0] * (width - len(prompt) - len(text)) for prompt, text in pairs]
    ids_BT = torch.tensor([[*p, *t, *rest] for (p, t), rest in zip(pairs, pad, strict=True)])
    labels_BT = ids_BT.masked_fill(ids_BT == 0, -100)
    for row, (prompt, _) in enumerate(pairs):
        labels_BT[row, : len(prompt)] = -100
    steps, rate = 320, 0.006
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        rows = torch.randperm(len(pairs))[:48]
        mask_BT = (ids_BT[rows] != 0).long()
        loss = model(input_ids=ids_BT[rows], attention_mask=mask_BT, labels=labels_BT[rows]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return save(model, tokenizer, tmp_path_factory.mktemp("base") / "checkpoint")


@pytest.fixture(scope="session")
def generated(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set made without interruption."""
    out = tmp_path_factory.mktemp("generated") / "set"
    assert main(command(base, out)) == 0
    return out
