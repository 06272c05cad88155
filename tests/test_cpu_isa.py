"""The CPU kernels are compiled once per instruction set: each of them, not only this processor's best, is right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = (
    "test_hand_computed.py",
    "test_large_cases.py",
    "test_label_patterns.py",
    "test_memory_formats.py",
    "test_nonfinite.py",
    "test_softmax_layouts.py",
)


def run(isa: str, *arguments: str) -> subprocess.CompletedProcess:
    """Python in a process of its own, where cas_ext chooses anew."""
    path = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"CAS_EXT_CPU_ISA": isa, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


CALL = "import torch, cas_ext; cas_ext.cas_loss(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))"


@pytest.mark.parametrize("isa", ["baseline", "avx2"])  # the suite itself runs on the best, mostly avx512
def test_lesser_instruction_set_passes_the_tests_too(isa):
    if isa != "baseline" and run(isa, "-c", CALL).returncode != 0:
        pytest.skip(f"this processor has no {isa}")
    files = [str(HERE / file) for file in FILES]
    tests = run(isa, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cpu", "--tb=short", *files)
    assert tests.returncode == 0, tests.stdout[-5000:]


def test_unknown_instruction_set_is_refused_by_name():
    refused = run("sse9", "-c", CALL)
    assert refused.returncode != 0
    assert "CAS_EXT_CPU_ISA must be" in refused.stderr and "got sse9" in refused.stderr
