"""How memory is read and written is chosen by the processor's maker. It changes the speed and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from instruction_sets import CALL, run, skip_unless_supported

GRADIENTS = Path(__file__).parent / "large_gradients.py"


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512_bf16"])
def test_gradients_have_the_same_bits_however_they_are_written(isa):
    skip_unless_supported(isa)
    of_amd, of_intel = (run(isa, str(GRADIENTS), tuning=tuning) for tuning in ("amd", "intel"))
    assert of_amd.returncode == of_intel.returncode == 0, of_amd.stderr + of_intel.stderr
    assert json.loads(of_intel.stdout) == json.loads(of_amd.stdout)


def test_unknown_tuning_is_refused_by_name():
    refused = run("", "-c", CALL, tuning="via")
    assert refused.returncode != 0
    assert "CAS_EXT_CPU_TUNING must be intel or amd" in refused.stderr and "got via" in refused.stderr
