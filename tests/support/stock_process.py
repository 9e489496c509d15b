"""Stock transformers, in one process that never imports our code, for every test that asks it.

In a test's own process the Auto classes would build our model. Starting such a process takes
seconds, nearly all of them imports, so a session starts one.
"""

import atexit
import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_STOCK = """
import json, sys, torch
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

def answer(directory, ids, answer, dequantize):
    options = {"quantization_config": FineGrainedFP8Config(dequantize=True)} if dequantize else {}
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **options)
    assert type(model).__module__.startswith("transformers.models.deepseek_v3"), type(model)
    assert not any(name.split(".")[0] == "model" for name in sys.modules)
    logits = model(input_ids=torch.load(ids), use_cache=False).logits.detach()
    torch.save((model.state_dict(), logits), answer)

for line in sys.stdin:
    try:
        answer(**json.loads(line))
        print(json.dumps(""), flush=True)
    except Exception as error:
        print(json.dumps(repr(error)), flush=True)
"""


def stock_model(
    saved: Path, ids_BT: Tensor, folder: Path, *, dequantize: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """Weights and logits of a checkpoint as stock transformers loads it, in float32.

    Args:
        saved: the checkpoint.
        ids_BT: token ids.
        folder: where ids and answer are exchanged.
        dequantize: whether transformers must dequantise the checkpoint, which is in FP8.
    """
    torch.save(ids_BT, folder / "ids.pt")
    request = {"directory": str(saved), "ids": str(folder / "ids.pt"), "dequantize": dequantize}
    process = _process()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({**request, "answer": str(folder / "stock.pt")}) + "\n")
    process.stdin.flush()
    reply = process.stdout.readline()
    assert reply, "the process of stock transformers ended: its stderr says why"
    assert not (error := json.loads(reply)), error
    return torch.load(folder / "stock.pt")


def stock_logits(saved: Path, ids_BT: Tensor, folder: Path) -> Tensor:
    """Logits of a checkpoint as stock transformers loads it."""
    return stock_model(saved, ids_BT, folder)[1]


@cache
def _process() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _STOCK],
        cwd=tempfile.gettempdir(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process
