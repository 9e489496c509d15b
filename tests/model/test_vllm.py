"""A saved model served by stock vLLM, in a process that never imports ours.

Each engine takes some twenty seconds, most of them imports.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from weights import (
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
import json, sys
from vllm import LLM, SamplingParams
request = json.load(open(sys.argv[1]))
engine = LLM(
    model=request["model"], dtype="float32", enforce_eager=True, skip_tokenizer_init=True,
    compilation_config={"custom_ops": ["all", "-rotary_embedding"]},
    max_model_len=64, max_num_seqs=4, gpu_memory_utilization=0.1, **request["engine"],
)
params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
outputs = engine.generate([{"prompt_token_ids": ids} for ids in request["prompts"]], params)
logprobs = [
    [row[token].logprob for token, row in zip(o.prompt_token_ids[1:], o.prompt_logprobs[1:])]
    for o in outputs
]
assert "model" not in sys.modules
json.dump(logprobs, open(request["answer"], "w"))
"""
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


@pytest.mark.parametrize(
    ("overrides", "environment", "engine"),
    [
        pytest.param(
            {"num_nextn_predict_layers": 1},
            {"VLLM_MLA_DISABLE": "1"},
            {},
            id="small latent, a multi-token layer",
        ),
        # CPU_MLA by name: where the CPU has AMX, vLLM would pick a backend for bfloat16 only.
        pytest.param(
            {
                "kv_lora_rank": 512,
                "qk_rope_head_dim": 64,
                "qk_nope_head_dim": 32,
                "q_lora_rank": 48,
                "num_hidden_layers": 2,
            },
            {},
            {"attention_backend": "CPU_MLA"},
            id="latent attention, 512 + 64",
        ),
    ],
)
def test_stock_vllm_serves_our_checkpoint(
    tmp_path: Path, overrides: dict, environment: dict[str, str], engine: dict[str, str]
) -> None:
    model = make_weights_matter(SparringMoeForCausalLM(tiny_config(40, **overrides)).eval(), 1)
    ids_BT = torch.randint(0, 40, (2, 32), generator=torch.Generator().manual_seed(3))
    assert cost_of_wrong_rope(model, ids_BT) > 1
    assert cost_of_swapped_experts(model, ids_BT) > 1

    model.save_pretrained(tmp_path / "model")
    request = {
        "model": str(tmp_path / "model"),
        "prompts": ids_BT.tolist(),
        "answer": str(tmp_path / "answer.json"),
        "engine": engine,
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    served = subprocess.run(
        [sys.executable, "-c", _SERVE, str(tmp_path / "request.json")],
        cwd=tmp_path,
        env={**os.environ, **_ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert served.returncode == 0, served.stderr[-3000:]
    theirs_BT = torch.tensor(json.loads((tmp_path / "answer.json").read_text()))
    assert largest_change(theirs_BT, prompt_logprobs(model, ids_BT)) <= 1e-5
