"""The CPU kernels are compiled once per instruction set: each of them, not only this processor's best, is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from instruction_sets import CALL, run, skip_unless_supported

HERE = Path(__file__).parent
FILES = (
    "test_cpu_moments.py",
    "test_hand_computed.py",
    "test_large_cases.py",
    "test_label_patterns.py",
    "test_memory_formats.py",
    "test_nonfinite.py",
    "test_softmax_layouts.py",
)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])  # the suite itself runs on the best
def test_lesser_instruction_set_passes_the_tests_too(isa):
    skip_unless_supported(isa)
    files = [str(HERE / file) for file in FILES]
    tests = run(isa, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cpu", "--tb=short", *files)
    assert tests.returncode == 0, tests.stdout[-5000:]


def test_unknown_instruction_set_is_refused_by_name():
    refused = run("sse9", "-c", CALL)
    assert refused.returncode != 0
    assert "CAS_EXT_CPU_ISA must be" in refused.stderr and "got sse9" in refused.stderr
