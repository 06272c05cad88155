"""What is installed here."""

from __future__ import annotations

import platform

import torch

from . import ops
from .version import __version__


def _cpu_kernels() -> tuple[str, bool]:
    """Their instruction set and True; or what is wrong with an environment variable, and False."""
    try:
        return ops.cpu_kernels(), True
    except (RuntimeError, ValueError) as error:
        return f"error: {str(error).splitlines()[0]}", False


def info() -> dict[str, str]:
    """Versions and what was found, as name -> text.

    Returns:
        dict: what cannot be used has the reason for its text, as "cpu kernels" has with a wrong CAS_EXT_CPU_ISA.
    """
    return look()[0]


def look() -> tuple[dict[str, str], bool]:
    """`info`, and whether the CPU kernels can be used."""
    cpu_kernels, usable = _cpu_kernels()
    found = {
        "cas_ext": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu threads": str(torch.get_num_threads()),
        "cpu kernels": cpu_kernels,
        "cuda kernels": ops.cuda_status,
        "torch's cuda": torch.version.cuda or "none",
    }
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        found[f"gpu {index}"] = f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"
    return found, usable
