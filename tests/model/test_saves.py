"""Saves: refused, interrupted or killed, they never leave a checkpoint that is a mixture."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from weights import make_weights_matter

from model.checkpoint.files import replacing
from model.configuration import tiny_config
from model.convert_fp8 import convert_to_fp8
from model.fp8.quantize import Fp8Recipe
from model.modeling import SparringMoeForCausalLM

NORM = "model.norm.weight"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def build() -> SparringMoeForCausalLM:
    model = make_weights_matter(SparringMoeForCausalLM(tiny_config(40)))
    convert_to_fp8(model, Fp8Recipe())
    return model


def test_weights_that_are_not_the_models_are_not_saved_over_a_checkpoint(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for fp8 in (False, True):
        with pytest.raises(ValueError, match=f"weights to save: tensor {NORM} is missing"):
            weights = {name: t for name, t in model.state_dict().items() if name != NORM}
            model.save_pretrained(tmp_path, state_dict=weights, fp8=fp8)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"]))
    with pytest.raises(ValueError, match=r"weights to save: tensor \S+o_proj.weight is missing"):
        wrapped.get_base_model().save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_rank_that_writes_nothing_needs_no_weights(tmp_path: Path) -> None:
    model = SparringMoeForCausalLM(tiny_config(40, num_nextn_predict_layers=1))
    model.save_pretrained(tmp_path, is_main_process=False, state_dict={})
    assert not list(tmp_path.iterdir())


def test_a_save_over_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="taken is a file: a checkpoint needs a directory"):
        build().save_pretrained(tmp_path / "taken")


def test_a_failed_save_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path, fp8=True)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(OSError, match="disk full"), replacing(tmp_path, write=True) as folder:
        (folder / WHOLE).write_bytes(b"half")
        raise OSError("disk full")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_save_replaces_shards_by_one_file_and_back(tmp_path: Path) -> None:
    model = build()
    for options in ({"max_shard_size": "100KB"}, {}, {"max_shard_size": "200KB"}, {}):
        with torch.no_grad():
            model.model.norm.weight += 1
        model.save_pretrained(tmp_path, fp8=True, **options)
        files = {file.name for file in tmp_path.glob("*.safetensors*")}
        assert (INDEX in files) == bool(options) and (WHOLE in files) != bool(options)
        loaded = SparringMoeForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(loaded.model.norm.weight, model.model.norm.weight)
    assert not (tmp_path / ".partial").exists()


# Saves over a checkpoint, and dies by SIGKILL at the given call of os.fsync or Path.replace.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from model import SparringMoeForCausalLM
model = SparringMoeForCausalLM.from_pretrained(sys.argv[1])
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(1)
left = int(sys.argv[2])
def watched(function):
    def call(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call
os.fsync, Path.replace = watched(os.fsync), watched(Path.replace)
model.save_pretrained(sys.argv[1], max_shard_size="1MB")
print("calls", int(sys.argv[2]) - left)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_save_killed_anywhere_never_leaves_a_mixture(tmp_path: Path) -> None:
    model = make_weights_matter(SparringMoeForCausalLM(tiny_config(40)))
    root = Path(__file__).resolve().parents[2]
    outcomes = []
    for kill_at in range(1, 40):
        model.save_pretrained(tmp_path, max_shard_size="1MB")
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(kill_at)]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        try:
            loaded = SparringMoeForCausalLM.from_pretrained(tmp_path).state_dict()
        except ValueError as error:
            assert "holds no model.safetensors" in str(error)
            outcomes.append("refused")
            continue
        shifts = {
            round((loaded[name] - tensor).mean().item(), 3)
            for name, tensor in model.named_parameters()
        }
        assert shifts in ({0.0}, {1.0})
        outcomes.append("former" if shifts == {0.0} else "whole")
    assert set(outcomes) >= {"former", "refused"} and kill_at > 10, outcomes
