import pathlib

import pytest

from simt import build, emulated


@pytest.fixture(scope="session")
def toys():
    return build.load("toys", [pathlib.Path(__file__).with_name("toys.cpp")])


@pytest.fixture(autouse=True)
def natural_order(toys):
    toys.seed(0)
    toys.reset_counters()
    yield
    toys.seed(0)


@pytest.fixture
def fresh_counters():
    emulated.kernels().seed(0)
    emulated.kernels().reset_counters()
    yield
    emulated.kernels().seed(0)


def pytest_terminal_summary(terminalreporter):
    """Prints what was counted: how often every kernel reads and writes each element."""
    lines = sorted(
        text
        for report in terminalreporter.getreports("passed")
        for name, text in report.user_properties
        if name == "simt_counts"
    )
    if lines:
        terminalreporter.section("loads and stores of the emulated CUDA kernels, accumulate + apply")
        for line in lines:
            terminalreporter.write_line(line)
