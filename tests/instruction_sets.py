"""Python in a process of its own, where cas_ext chooses its CPU kernels anew."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CALL = "import torch, cas_ext; cas_ext.cas_loss(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))"


def run(isa: str, *arguments: str, tuning: str = "") -> subprocess.CompletedProcess:
    path = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"CAS_EXT_CPU_ISA": isa, "CAS_EXT_CPU_TUNING": tuning, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def skip_unless_supported(isa: str) -> None:
    if isa != "baseline" and run(isa, "-c", CALL).returncode != 0:
        pytest.skip(f"this processor has no {isa}")
