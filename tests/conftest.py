"""Settings of every test: quiet CPU threads, no model hub, reproducible properties."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from pipelines.process import ENVIRONMENT

# Before torch or vLLM is imported, here or in a subprocess.
for _name, _value in {**ENVIRONMENT, "HF_HUB_OFFLINE": "1"}.items():
    os.environ.setdefault(_name, _value)

# Deadlines flake on a loaded machine; a fixed seed keeps a failure from coming and going.
settings.register_profile("sparring", deadline=None, derandomize=True)
settings.load_profile("sparring")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def judgeable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cold-started checkpoint whose solutions and critiques parse; made once, in ten seconds."""
    from pipeline_cases import judgeable_checkpoint

    return judgeable_checkpoint(tmp_path_factory.mktemp("base") / "base")
