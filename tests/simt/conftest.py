import pathlib

import pytest

from simt import build


@pytest.fixture(scope="session")
def toys():
    return build.load("toys", [pathlib.Path(__file__).with_name("toys.cpp")])


@pytest.fixture(autouse=True)
def natural_order(toys):
    toys.seed(0)
    toys.reset_counters()
    yield
    toys.seed(0)
