"""The CPU kernels read nothing beyond their tensors, whatever the mask: every instruction set, beside forbidden pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cas_ext.ops

SCRIPT = Path(__file__).with_name("memory_bounds.py")


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
@pytest.mark.parametrize("side", ["first", "last"])
@pytest.mark.parametrize("instruction_set", cas_ext.ops.INSTRUCTION_SETS)
def test_kernels_read_nothing_beyond_their_tensors(instruction_set, side):
    environment = {**os.environ, "CAS_EXT_CPU_ISA": instruction_set, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, SCRIPT, side], env=environment, capture_output=True, text=True, timeout=600)
    if "CAS_EXT_CPU_ISA" in found.stderr:
        pytest.skip(f"this processor has no {instruction_set}")
    assert found.returncode == 0, f"ended by signal {-found.returncode}: {found.stderr}"
