"""A saved model served by stock vLLM, in a process that never imports ours.

One process serves both models: most of its time are imports.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from weights import (
    ROUNDING,
    cost_of_swapped_experts,
    cost_of_wrong_rope,
    largest_change,
    make_weights_matter,
    prompt_logprobs,
)

from model.configuration import tiny_config
from model.modeling import SparringMoeForCausalLM

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)

# enforce_eager rotates plain RoPE wrongly on CPU unless vLLM's own rotary op is off.
_SERVE = """
import json, os, sys
import vllm.envs
from vllm import LLM, SamplingParams
engines = []  # collecting one would tear down what all engines of a process share
for request in json.load(open(sys.argv[1])):
    vllm.envs.disable_envs_cache()  # an engine's start fills it
    os.environ.update(request["environment"])
    engines.append(LLM(
        model=request["model"], dtype="float32", enforce_eager=True, skip_tokenizer_init=True,
        compilation_config={"custom_ops": ["all", "-rotary_embedding"]},
        max_model_len=64, max_num_seqs=4, kv_cache_memory_bytes=2**26, **request["engine"],
    ))
    uses_mla = engines[-1].llm_engine.model_config.use_mla
    assert uses_mla == (request["environment"]["VLLM_MLA_DISABLE"] == "0"), uses_mla
    params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    logprobs = [
        [row[token].logprob for token, row in zip(o.prompt_token_ids[1:], o.prompt_logprobs[1:])]
        for o in engines[-1].generate(prompts, params)
    ]
    json.dump(logprobs, open(request["answer"], "w"))
assert "model" not in sys.modules
"""
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Case:
    """A model, and how vLLM must be started for it."""

    overrides: dict[str, int]
    environment: dict[str, str]
    engine: dict[str, str]

    def model(self) -> SparringMoeForCausalLM:
        config = tiny_config(40, **self.overrides)
        return make_weights_matter(SparringMoeForCausalLM(config).eval(), 1)


CASES = {
    "small latent, a multi-token layer": Case(
        {"num_nextn_predict_layers": 1}, {"VLLM_MLA_DISABLE": "1"}, {}
    ),
    # CPU_MLA by name: where the CPU has AMX, vLLM would pick a backend for bfloat16 only.
    "latent attention, 512 + 64": Case(
        {
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 32,
            "q_lora_rank": 48,
            "num_hidden_layers": 2,
        },
        {"VLLM_MLA_DISABLE": "0"},
        {"attention_backend": "CPU_MLA"},
    ),
}
IDS_BT = torch.randint(0, 40, (2, 32), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """vLLM's log-probabilities of each case [B, T - 1]."""
    folder = tmp_path_factory.mktemp("served")
    requests = []
    for number, case in enumerate(CASES.values()):
        case.model().save_pretrained(folder / f"model{number}")
        requests.append(
            {
                "model": str(folder / f"model{number}"),
                "prompts": IDS_BT.tolist(),
                "answer": str(folder / f"answer{number}.json"),
                "environment": case.environment,
                "engine": case.engine,
            }
        )
    (folder / "requests.json").write_text(json.dumps(requests))
    done = subprocess.run(
        [sys.executable, "-c", _SERVE, str(folder / "requests.json")],
        cwd=folder,
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [json.loads(Path(request["answer"]).read_text()) for request in requests]
    return {name: torch.tensor(answer) for name, answer in zip(CASES, answers, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_stock_vllm_serves_our_checkpoint(name: str, served: dict[str, Tensor]) -> None:
    model = CASES[name].model()
    assert cost_of_wrong_rope(model, IDS_BT) > 1
    assert cost_of_swapped_experts(model, IDS_BT) > 1
    assert largest_change(served[name], prompt_logprobs(model, IDS_BT)) <= ROUNDING
