"""One thread for the small models of these tests.

A second thread gains nothing at their sizes, and where other processes want the cores, threads
that wait for one another at every product take a hundred times as long.
"""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
