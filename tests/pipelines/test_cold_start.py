"""The cold start: what it computes with."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from pipeline_cases import COLD_START, CONFIG, ROOT, accelerate, environment

from model.configuration import tiny_config
from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UserError
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.run import cold_start
from pipelines.settings.load import load_settings


@pytest.mark.parametrize("threads", [1, 2])
def test_it_trains_with_its_own_number_of_threads(threads: int, tmp_path: Path) -> None:
    """In a process of its own: vLLM's engine keeps others from changing the number."""
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, [here, here.parent / "support", here.parents[1]]))
    call = f"import test_cold_start; test_cold_start.tell_threads({threads}, {str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", call], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [threads] * 2


def tell_threads(threads: int, directory: str) -> None:
    """Print the number of threads at each of two steps, from a process that had another."""
    seen = []

    class Watch(cold_start._Progress):
        def on_step_end(self, *_: object, **__: object) -> None:
            seen.append(torch.get_num_threads())

    cold_start._Progress = Watch
    torch.set_num_threads(3 - threads)
    few = ["sft.num_solutions=20", "sft.num_critiques=20", "sft.trainer.max_steps=2"]
    few += [f"sft.threads={threads}", f"sft.directory={directory}/base"]
    cold_start.cold_start(load_settings(CONFIG, [*COLD_START, *few]))
    assert torch.get_num_threads() == 3 - threads, "the number must be as it was"
    print(json.dumps(seen))


def test_the_trainer_takes_demonstrations_in_their_order(tmp_path: Path) -> None:
    """Else the easy ones would not come first."""
    settings = load_settings(CONFIG, [*COLD_START, f"sft.directory={tmp_path / 'base'}"])
    tokenizer = character_tokenizer()
    texts = [f"{a}{b}" for a in "abcdefgh" for b in "0123456789"]
    rows = [{"prompt": text, "completion": "=1"} for text in texts]
    model = SparringMoeForCausalLM(tiny_config(len(tokenizer)))
    trainer = cold_start._trainer(cold_start._options(settings), model, tokenizer, rows)
    taken = [
        tokenizer.decode(ids)[:2]
        for batch in trainer.get_train_dataloader()
        for ids in batch["input_ids"]
    ]
    assert taken == texts


def test_two_processes_share_a_step(tmp_path: Path) -> None:
    """One of them writes and speaks. The loss is too coarse to show how a batch is shared."""
    few = ["sft.num_solutions=60", "sft.num_critiques=60", "sft.trainer.max_steps=6"]
    script = "pipelines/sft.py"
    said = {}
    for name, program in {"one": [sys.executable, script], "two": accelerate(2, script)}.items():
        own = [f"sft.directory={tmp_path / name}"]
        done = subprocess.run(
            [*program, "--config", str(CONFIG), *COLD_START, *few, *own],
            cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        (said[name],) = re.findall(r"^cold start: 6 steps, loss ([0-9.]+)", done.stdout, re.M)
        files = {path.name for path in (tmp_path / name).iterdir()}
        assert {"cold_start.json", "config.json", "model.safetensors"} <= files
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}, "no work is left"
    # TRL takes the mean of the processes' means, whose numbers of tokens differ.
    assert float(said["one"]) == pytest.approx(float(said["two"]), abs=0.15)


def test_demonstrations_that_the_trainer_would_cut_off_are_left_out_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With its end token a demonstration may have as many tokens as TRL's limit, and no more."""
    tokenizer, processes = character_tokenizer(), PartialState(cpu=True)
    rows = [{"prompt": "a" * n, "completion": "=1"} for n in range(1, 11)]
    kept = cold_start._that_fit(rows, tokenizer, 8, processes)
    assert kept == rows[:5]
    said = capsys.readouterr().out
    assert "5 of 10 demonstrations are too long" in said and "longest has 13 tokens" in said
    assert cold_start._that_fit(rows, tokenizer, None, processes) == rows
    with pytest.raises(UserError, match=r"max_length = 3 holds no demonstration: .* least 13"):
        cold_start._that_fit(rows, tokenizer, 3, processes)
