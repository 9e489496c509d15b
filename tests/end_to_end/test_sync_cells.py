"""Perturbed weights arrive: {colocated, server} x {1, 2 processes} x {MoE, dense} x {full, LoRA}.

Two processes are two under `accelerate launch`, with engines or servers of their own. One process
has its cells in `tests/pipelines/test_sync.py` and `tests/pipelines/test_server_engine.py` too, so
that here they are slow.
"""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from pipeline_cases import ROOT, accelerate, environment, run

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.timeout(600),
]
EXACT = 1e-5  # nats, float32
STALE = 1.0  # nats: an engine before the push must be further away
KINDS = ("moe", "moe, LoRA", "dense", "dense, LoRA")


@pytest.mark.parametrize(
    ("placement", "num_processes"),
    [
        ("colocated", 2),
        pytest.param("server", 2, marks=pytest.mark.slow),  # four servers
        pytest.param("colocated", 1, marks=pytest.mark.slow),
        pytest.param("server", 1, marks=pytest.mark.slow),
    ],
)
def test_every_perturbed_weight_arrives_five_times_in_a_row(
    placement: str, num_processes: int, tmp_path: Path
) -> None:
    script = str(ROOT / "tests" / "support" / "sync_cells.py")
    launcher = [sys.executable, script] if num_processes == 1 else accelerate(2, script)
    done = run(
        [*launcher, placement, str(tmp_path)], environment(PYTHONPATH=str(ROOT)), timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("found_*.json"))]
    assert [process["world"] for process in found] == [num_processes] * num_processes
    for kind in KINDS:
        cells = [process[kind] for process in found]
        for cell in cells:
            assert min(cell["before"]) > STALE, f"{kind}: a stale engine would pass: {cell}"
            assert max(cell["after"]) <= EXACT, f"{kind}: {cell}"
            assert len(set(cell["weights"])) == 5 and all(cell["stepped"])
        assert all(cell["weights"] == cells[0]["weights"] for cell in cells), kind
