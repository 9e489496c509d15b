"""The cold start: what it computes with."""

from pathlib import Path

import pytest
import torch
from pipeline_cases import COLD_START, CONFIG

from pipelines.run import cold_start
from pipelines.settings.load import load_settings


@pytest.mark.parametrize("threads", [1, 2])
def test_it_trains_with_its_own_number_of_threads(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever number the process has, and whatever Accelerate chooses when a trainer is made."""
    seen = []

    class Watch(cold_start._Progress):
        def on_step_end(self, *_: object, **__: object) -> None:
            seen.append(torch.get_num_threads())

    monkeypatch.setattr(cold_start, "_Progress", Watch)
    before = torch.get_num_threads()
    torch.set_num_threads(3 - threads)
    try:
        few = ["sft.num_solutions=20", "sft.num_critiques=20", "sft.trainer.max_steps=2"]
        few += [f"sft.threads={threads}", f"sft.directory={tmp_path / 'base'}"]
        cold_start.cold_start(load_settings(CONFIG, [*COLD_START, *few]))
        assert seen == [threads] * 2
    finally:
        torch.set_num_threads(before)
