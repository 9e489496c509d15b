"""Settings of every test: quiet CPU threads, no model hub, reproducible properties.

Also what several files share, and which files share a process when pytest-xdist runs several.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from pipelines.process import ENVIRONMENT

if TYPE_CHECKING:
    from pipeline_cases import SharedServer
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

PARALLEL = "PYTEST_XDIST_WORKER" in os.environ  # one of several processes (`make test`)
# Before torch or vLLM is imported, here or in a subprocess.
for _name, _value in {
    **ENVIRONMENT,
    "HF_HUB_OFFLINE": "1",
    **({"OMP_NUM_THREADS": "1"} if PARALLEL else {}),
}.items():
    os.environ.setdefault(_name, _value)

# Inductor's cache does not know for which instruction set its code was compiled: what a run with
# other instructions left there crashes this one.
if _instructions := os.environ.get("ATEN_CPU_CAPABILITY"):
    for _name, _cache in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("VLLM_CACHE_ROOT", "vllm")):
        os.environ.setdefault(_name, f"{tempfile.gettempdir()}/{_cache}_{_instructions}")

# A shell starts what it puts into the background with SIGINT ignored, which is inherited.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Deadlines flake on a loaded machine; a fixed seed keeps a failure from coming and going.
settings.register_profile("sparring", deadline=None, derandomize=True)
settings.load_profile("sparring")


# Files of one group share a process, and so what they make once: engines, a server, a checkpoint.
# The long ones first, so that no process ends alone; every other file is a group of its own.
GROUPS = {
    "servers": ("test_server_engine", "test_concurrency", "test_draw_ahead", "test_transfer"),
    "runs": ("test_rl_e2e", "test_bad_input", "test_server_e2e"),
    "engines": (
        *("test_sync", "test_lora_moe", "test_routes", "test_roles", "test_fp8_rollouts"),
        *("test_stock_checkpoint", "test_evaluate"),
    ),
    "data sets": (
        *("test_dataset_cli", "test_dataset_reading", "test_shards_cli", "test_evaluate_cli"),
    ),
    "one file each": ("test_sync_cells", "test_sync_processes", "test_vllm", "test_smollm2"),
}
FILES = {name: group for group, names in GROUPS.items() for name in names}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the long groups to the front where several processes share the tests."""
    if PARALLEL:
        order = list(FILES)
        items.sort(key=lambda item: order.index(name) if (name := item.path.stem) in FILES else 99)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling":
    """Give each process whole groups (`--dist loadgroup` has no effect under pytest 9.2)."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            group = FILES.get(Path(file).stem, "one file each")
            return file if group == "one file each" else group

    found = {path.stem for path in Path(__file__).parent.rglob("test_*.py")}
    assert set(FILES) <= found, f"GROUPS names files that are gone: {set(FILES) - found}"
    config.option.loadscopereorder = False  # the order above
    return ByGroup(config, log)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def judgeable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cold-started checkpoint whose solutions and critiques parse; made once, in ten seconds."""
    from pipeline_cases import judgeable_checkpoint

    return judgeable_checkpoint(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[SharedServer]":
    """One vLLM server for every test that needs no server of its own; push weights before use."""
    from pipeline_cases import start_shared_server

    server = start_shared_server(tmp_path_factory.mktemp("shared"))
    yield server
    server.process.stop()
