"""Syncs into engines that need a process of their own: the MLA kernel, compiled, a wrong RoPE mode.

Each test starts this file again, with what vLLM reads only once per process set otherwise.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pipeline_cases import random_llama, random_moe, redraw
from sync_pairs import (
    ROLLOUT,
    TOKENIZER,
    prove_five_syncs,
    refused,
    start_pair,
)
from weights import make_weights_matter

from pipelines.errors import UnprovenSyncError
from pipelines.rollouts import spec as engine_spec
from pipelines.settings.tables import RolloutTable

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)


def test_the_same_with_the_mla_kernel_on(tmp_path: Path) -> None:
    """In a process of its own: vLLM reads once whether MLA is on."""
    _in_its_own_process(f"prove_mla({str(tmp_path / 'mla')!r})")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["moe", "dense"])
def test_the_same_with_a_compiled_engine(kind: str, tmp_path: Path) -> None:
    """A compiled graph must not keep the packed weights that it was traced with."""
    _in_its_own_process(f"prove_compiled({kind!r}, {str(tmp_path / kind)!r})", timeout=600)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_rope_mode_is_caught_by_the_first_agreement(dtype: str, tmp_path: Path) -> None:
    """In a process of its own: vLLM keeps the rotary module that the first engine made."""
    if torch.cuda.is_available():
        pytest.skip("only vLLM's CPU rotary kernel is wrong in eager mode")
    _in_its_own_process(f"catch_wrong_rope({str(tmp_path / 'moe')!r}, {dtype!r})")


def test_an_engine_with_experts_starts_after_one_without(tmp_path: Path) -> None:
    """In a process of its own: vLLM sets up its process for the first engine alone."""
    _in_its_own_process(f"prove_experts_after_none({str(tmp_path)!r})")


def _in_its_own_process(call: str, timeout: float = 110) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, [here, here.parent / "support", here.parents[1]]))
    done = subprocess.run(
        [sys.executable, "-c", f"import test_sync_processes; test_sync_processes.{call}"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def prove_experts_after_none(directory: str) -> None:
    """Five syncs into each of two engines, the one without experts first."""
    models = {"dense": (random_llama, redraw), "moe": (random_moe, make_weights_matter)}
    for name, (make, redraw_all) in models.items():
        pair = start_pair(make(TOKENIZER), Path(directory) / name)
        prove_five_syncs(pair, redraw_all)


def catch_wrong_rope(directory: str, dtype: str) -> None:
    """Start an engine without the setting that turns vLLM's wrong rotary kernel off."""
    right = engine_spec.engine_options

    def wrong(settings: RolloutTable) -> dict[str, object]:
        return right(settings) | {"compilation_config": {"custom_ops": ["all"]}}

    engine_spec.engine_options = wrong
    pair = start_pair(random_moe(TOKENIZER), Path(directory), dtype=dtype)
    with pytest.raises(UnprovenSyncError, match="engine and policy differ by"):
        pair.push()
    refused(pair)


def prove_compiled(kind: str, directory: str) -> None:
    """Five syncs into an engine that vLLM compiled."""
    compiled = ROLLOUT.model_copy(update={"compile": True})
    make, redraw_all = {"moe": (random_moe, make_weights_matter), "dense": (random_llama, redraw)}[
        kind
    ]
    prove_five_syncs(start_pair(make(TOKENIZER), Path(directory), compiled), redraw_all)


def prove_mla(directory: str) -> None:
    """Five syncs into the one latent that the kernel serves: absorbed matrices are made anew."""
    policy = random_moe(TOKENIZER, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=32)
    pair = start_pair(policy, Path(directory))
    executor = pair.engine.llm.llm_engine.model_executor
    module = executor.driver_worker.model_runner.get_model()
    kinds = {type(part).__name__ for part in module.modules()}
    assert any("MLA" in kind for kind in kinds), f"the MLA kernel is off: {sorted(kinds)}"
    prove_five_syncs(pair, make_weights_matter)
