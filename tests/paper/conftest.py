"""What all tests of the paper's experiments share."""

from __future__ import annotations

import signal
import threading

import pytest
import torch


@pytest.fixture
def one_thread():
    """As many threads as the processes that a test starts: sums depend on them in the last digit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _ctrl_c_as_in_a_terminal():
    """A shell's background jobs ignore Ctrl-C, and so would the programs that tests start."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
