"""Set-up of the suite: hypothesis profiles, and the device a test runs on (devices.py)."""

from __future__ import annotations

import os
from collections import Counter

import hypothesis
import pytest
import torch
from devices import EXAMPLES_RUN, USUAL_EXAMPLES

# "fixed" draws the same examples in every run, so that a red build is red for everyone; "explore" draws new ones, and
# "long" many of them. HYPOTHESIS_PROFILE or --hypothesis-profile chooses.
LONG_FACTOR = 3  # times the examples of a usual run
for name, derandomize, factor in (("fixed", True, 1), ("explore", False, 1), ("long", False, LONG_FACTOR)):
    hypothesis.settings.register_profile(
        name,
        deadline=None,
        database=None,
        derandomize=derandomize,
        print_blob=not derandomize,
        max_examples=factor * USUAL_EXAMPLES,
    )
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # the workers share the cores; test_reproducibility.py sets its own numbers of threads
    torch.set_num_threads(1)


# Networks of tests are to give the same bits, and digits of float32, on a GPU too: that is the loss's business, not cuDNN's.
torch.backends.cudnn.deterministic = True
torch.backends.cudnn.allow_tf32 = False


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
    EXAMPLES_RUN.clear()
    with device.running():
        yield
    request.node.user_properties += [(EXAMPLES, [name, number]) for name, number in EXAMPLES_RUN.items()]


EXAMPLES = "hypothesis examples"  # a test's property: how many it ran, and on which device


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--least-examples", type=int, default=0, help="fail if hypothesis ran fewer examples in all")


class ExampleCount:
    """Adds up the examples that tests report, also from the workers of pytest-xdist."""

    def __init__(self, least: int) -> None:
        self.least = least
        self.by_device: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":  # every phase repeats the properties
            for name, value in report.user_properties:
                if name == EXAMPLES:
                    self.by_device[value[0]] += value[1]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.by_device.total() < self.least and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if self.by_device or self.least:
            parts = ", ".join(f"{number} {name}" for name, number in sorted(self.by_device.items()))
            wanted = f"; at least {self.least} were wanted" if self.least else ""
            terminalreporter.write_line(f"hypothesis examples run: {self.by_device.total()} ({parts}){wanted}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(ExampleCount(config.getoption("--least-examples")))


@pytest.fixture
def fresh_compiler():
    """torch.compile without what other tests left in it."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="session")
def tiny_results(tmp_path_factory):
    """A results file of benchmarks.speed."""
    from benchmark_results import measure_tiny

    path = tmp_path_factory.mktemp("results") / "tiny.json"
    measure_tiny(path)
    return path
