"""What is installed here."""

from __future__ import annotations

import platform

import torch

from . import ops
from .version import __version__


def info() -> dict[str, str]:
    """Versions and what was found, as name -> text."""
    found = {
        "cas_ext": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu threads": str(torch.get_num_threads()),
        "cpu kernels": ops.cpu_kernels(),
        "cuda kernels": ops.cuda_status,
        "torch's cuda": torch.version.cuda or "none",
    }
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        found[f"gpu {index}"] = f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"
    return found
