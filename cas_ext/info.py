"""What is installed here: `cas_ext.info()`, or `python -m cas_ext.info` to paste into a bug report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

from . import ops


def info() -> dict[str, str]:
    """Versions and what was found, as name -> text."""
    found = {
        "cas_ext": version("cas_ext"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu threads": str(torch.get_num_threads()),
        "cpu kernels": os.environ.get("CAS_EXT_CPU_ISA") or "best for this processor",
        "cuda kernels": ops.cuda_status,
        "torch's cuda": torch.version.cuda or "none",
    }
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        found[f"gpu {index}"] = f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"
    return found


if __name__ == "__main__":
    for name, text in info().items():
        print(f"{name:14} {text}")
