"""What all tests of the paper's experiments share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def one_thread():
    """As many threads as the processes that a test starts: sums depend on them in the last digit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
