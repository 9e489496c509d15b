"""A full disk is one line, whoever writes: Python, torch or safetensors. `/dev/full` is one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.errors import UserError, full_disk_as_user_error

FULL = Path("/dev/full")


def python_writes() -> None:
    FULL.write_text("x")


def torch_writes_a_little() -> None:
    torch.save({"weights": torch.zeros(10)}, FULL)


def torch_writes_much() -> None:
    torch.save({"weights": torch.zeros(10**6)}, FULL)


def safetensors_writes() -> None:
    """Its own words: it writes beside the path, which no device can stand in for."""
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    "write", [python_writes, torch_writes_a_little, torch_writes_much, safetensors_writes]
)
def test_a_full_disk_is_told_in_one_line(write: Callable[[], None]) -> None:
    with (
        pytest.raises(UserError, match=r"^runs/x: no room is left"),
        full_disk_as_user_error(Path("runs/x")),
    ):
        write()


def test_the_full_disk_is_the_one_that_was_written_to() -> None:
    with pytest.raises(UserError, match=r"^/dev/shm/x: no room"), full_disk_as_user_error(FULL):
        raise OSError(28, "No space left on device", "/dev/shm/x")


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), FileNotFoundError(2, "absent"), ValueError("unexpected position kind")],
)
def test_nothing_else_is_blamed_on_the_disk(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error.args[-1])), full_disk_as_user_error(FULL):
        raise error
