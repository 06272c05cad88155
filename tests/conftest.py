"""Set-up of the suite: hypothesis profiles, and the device a test runs on (devices.py)."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

# "fixed" draws the same examples in every run, so that a red build is red for everyone.
# HYPOTHESIS_PROFILE=explore draws new ones.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None, print_blob=False)
hypothesis.settings.register_profile("explore", deadline=None, derandomize=False, database=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # the workers share the cores; test_reproducibility.py sets its own numbers of threads
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _running_device(request: pytest.FixtureRequest):
    """Runs the test on the device it is parametrised with, or skips it where that device is absent."""
    callspec = getattr(request.node, "callspec", None)
    device = callspec.params.get("device") if callspec else None
    if device is None:
        yield
        return
    if reason := device.why_absent():
        pytest.skip(reason)
    with device.running():
        yield
