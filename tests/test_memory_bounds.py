"""The CPU kernels read nothing beyond their tensors, whatever the mask: every instruction set, beside forbidden pages."""

import sys
from pathlib import Path

import pytest
from instruction_sets import run, skip_unless_supported

import cas_ext.ops

SCRIPT = Path(__file__).with_name("memory_bounds.py")


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
@pytest.mark.parametrize("side", ["first", "last"])
@pytest.mark.parametrize("isa", cas_ext.ops.INSTRUCTION_SETS)
def test_kernels_read_nothing_beyond_their_tensors(isa, side):
    skip_unless_supported(isa)
    found = run(isa, str(SCRIPT), side)
    assert found.returncode == 0, f"exit status {found.returncode} (negative: a signal): {found.stderr}"
