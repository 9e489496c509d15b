"""What a run's checkpoint gives back, and which it refuses."""

from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from pipelines.errors import UserError
from pipelines.run.checkpoints import Checkpoints
from pipelines.run.session import Clock


def test_a_part_that_kept_less_in_another_version_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, PartialState(cpu=True))
    checkpoints.folder(0).mkdir()
    (checkpoints.folder(0) / "state.json").write_text('{"clock": {}}')
    with pytest.raises(UserError, match="was written by another version of Sparring"):
        checkpoints.restore(0, {}, {"clock": Clock(limit=0)})


def test_an_earlier_rounds_weights_can_be_read_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, PartialState(cpu=True))
    checkpoints.folder(2).mkdir()
    weights = {"head": torch.arange(4.0)}
    torch.save({"trainer": {}, "weights": weights}, checkpoints.folder(2) / "state_critic.pt")
    assert torch.equal(checkpoints.weights(2, "critic")["head"], weights["head"])
