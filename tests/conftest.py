"""Settings of every test: quiet CPU threads, no model hub, reproducible properties.

Also what several files share, and which files share a process when pytest-xdist runs several.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from pipelines.process import ENVIRONMENT

if TYPE_CHECKING:
    from pipeline_cases import SharedServer

PARALLEL = "PYTEST_XDIST_WORKER" in os.environ  # one of several processes (`make test`)
# Before torch or vLLM is imported, here or in a subprocess.
for _name, _value in {
    **ENVIRONMENT,
    "HF_HUB_OFFLINE": "1",
    **({"OMP_NUM_THREADS": "1"} if PARALLEL else {}),
}.items():
    os.environ.setdefault(_name, _value)

# Deadlines flake on a loaded machine; a fixed seed keeps a failure from coming and going.
settings.register_profile("sparring", deadline=None, derandomize=True)
settings.load_profile("sparring")


# Files of one group share a process, and so their session fixtures: the engines in this process and
# the shared server, the checkpoint of `judgeable`. Longest first, so that no process ends alone.
GROUPS = (
    ("servers", ("test_server_engine", "test_concurrency", "test_draw_ahead", "test_transfer")),
    ("runs", ("test_rl_e2e", "test_bad_input", "test_server_e2e")),
    (
        "engines",
        (
            "test_sync",
            "test_sync_processes",
            "test_lora_moe",
            "test_routes",
            "test_roles",
            "test_fp8_rollouts",
        ),
    ),
    ("cells", ("test_sync_cells",)),
    ("dataset", ("test_dataset_cli",)),
    ("smollm2", ("test_smollm2",)),
    ("vllm", ("test_vllm",)),
)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each process whole files, the long groups first."""
    if not PARALLEL:
        return
    place = {name: (rank, group) for rank, (group, names) in enumerate(GROUPS) for name in names}
    keys = [place.get(item.path.stem, (len(GROUPS), str(item.path))) for item in items]
    for item, (_, group) in zip(items, keys, strict=True):
        item.add_marker(pytest.mark.xdist_group(group))
    items[:] = [item for _, item in sorted(zip(keys, items, strict=True), key=lambda it: it[0][0])]


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
