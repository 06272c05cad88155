"""docs/features.md names tests that exist, and says truly on which devices they run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "features.md"
COLUMNS = ("cpu", "emulated", "cuda")

# Collects with pytest itself, so that parametrisations and marks count as they do in a run.
COLLECT = """
import json, sys, pytest

class Collector:
    def pytest_collection_finish(self, session):
        found = {}
        for item in session.items:
            device = getattr(item, "callspec", None) and item.callspec.params.get("device")
            name = device.name if device else "cuda" if item.get_closest_marker("cuda") else "cpu"
            found.setdefault(f"{item.path.name}::{item.originalname}", set()).add(name)
        print("found", json.dumps({test: sorted(devices) for test, devices in found.items()}))

arguments = ["--collect-only", "-qq", "-m", "", "-p", "no:cacheprovider", *sys.argv[1:]]
raise SystemExit(pytest.main(arguments, plugins=[Collector()]))
"""


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "Feature" and not row[0].startswith("---")]


@pytest.fixture(scope="module")
def collected() -> dict[str, list[str]]:
    """Test -> devices it is collected for."""
    files = sorted({str(TESTS / name) for name in re.findall(r"`(test_\w+\.py)::", PAGE.read_text())})
    run = subprocess.run(
        [sys.executable, "-c", COLLECT, *files], cwd=TESTS.parent, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("found "))
    return json.loads(line.removeprefix("found "))


def test_every_row_has_a_feature_a_test_and_three_devices():
    assert len(rows()) > 50
    for row in rows():
        assert len(row) == 5, row
        assert row[1] == "missing" or re.fullmatch(r"`test_\w+\.py::test_\w+`", row[1]), row
        for cell in row[2:]:
            assert cell in ("yes", "-") or re.match(r"missing\b", cell), row


def test_every_named_test_exists_and_runs_on_the_devices_it_is_said_to(collected):
    wrong = []
    for feature, test, *cells in rows():
        devices = [] if test == "missing" else collected.get(test.strip("`"), ["no such test"])
        said = [column for column, cell in zip(COLUMNS, cells, strict=True) if cell == "yes"]
        if sorted(said) != sorted(devices):
            wrong.append(f"{feature}: {test} is said to run on {said}, pytest collects {devices}")
    assert not wrong, "\n".join(wrong)


def test_a_feature_without_a_test_is_named_missing_everywhere():
    for row in rows():
        if row[1] == "missing":
            assert all(cell.startswith("missing") for cell in row[2:]), row
