"""Checks of what a user passes, before any kernel runs: `function: argument must ..., got ...`.

TypeError for a wrong type or dtype, ValueError for a wrong value, shape or device. Messages are built on the way out only.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from . import distributed, ops

INPUT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TARGET_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DISTANCES = ("sqeuclidean", "euclidean", "log")
MAX_REGIONS = 2**31 - 1  # kernels keep a region in 32 bits


def _names(values: Any) -> str:
    return ", ".join(str(v).removeprefix("torch.") for v in values)


def _is_int(value: object) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def _check_name(function: str, argument: str, value: object, names: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{function}: {argument} must be a string, one of {_names(names)}, got {type(value).__name__}")
    if value not in names:
        raise ValueError(f"{function}: {argument} must be one of {_names(names)}, got {value!r}")


def check_loss_options(alpha: object, pairs: object, distance: object, reduction: object, return_terms: object) -> None:
    """What only `cas_loss` has."""
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        raise TypeError(f"cas_loss: alpha must be a number in [0, 1], got {type(alpha).__name__}")
    if not 0 <= alpha <= 1:  # NaN, too
        raise ValueError(f"cas_loss: alpha must be a number in [0, 1], got {alpha}")
    _check_name("cas_loss", "pairs", pairs, ops.PAIRS)
    _check_name("cas_loss", "distance", distance, DISTANCES)
    _check_name("cas_loss", "reduction", reduction, ops.REDUCTIONS)
    if not isinstance(return_terms, bool):
        raise TypeError(f"cas_loss: return_terms must be True or False, got {return_terms!r}")


def check_region_options(
    function: str, num_regions: object, ignore_index: object, activation: object, validate: object, group: object
) -> None:
    """What `cas_loss` and `region_moments` share; `num_regions` is None where it is to be inferred."""
    if num_regions is not None:
        if not _is_int(num_regions):
            raise TypeError(f"{function}: num_regions must be an int, got {type(num_regions).__name__}")
        if not 1 <= num_regions <= MAX_REGIONS:  # type: ignore[operator]
            raise ValueError(f"{function}: num_regions must lie in [1, 2**31 - 1], got {num_regions}")
    if not _is_int(ignore_index):
        raise TypeError(f"{function}: ignore_index must be an int, got {type(ignore_index).__name__}")
    if not -(2**63) <= ignore_index < 2**63:  # type: ignore[operator]
        raise ValueError(f"{function}: ignore_index must fit 64 bits, got {ignore_index}")
    if activation is not None:
        if not isinstance(activation, str):
            raise TypeError(f"{function}: activation must be None or 'softmax', got {type(activation).__name__}")
        if activation not in ops.ACTIVATIONS:
            raise ValueError(f"{function}: activation must be None or 'softmax', got {activation!r}")
    if validate is not None and not isinstance(validate, bool):
        raise TypeError(f"{function}: validate must be None, True or False, got {validate!r}")
    if group is not None:
        if not distributed.is_group(group):
            raise TypeError(
                f"{function}: process_group must be None or a torch.distributed.ProcessGroup that this process is in, "
                f"got {type(group).__name__}"
            )
        if num_regions is None:
            raise ValueError(
                f"{function}: num_regions must be given with a process_group, where no process sees all labels, got None"
            )


def check_tensors(function: str, input: object, target: object) -> None:
    for name, value in (("input", input), ("target", target)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{function}: {name} must be a Tensor, got {type(value).__name__}")
        if value.layout != torch.strided:
            raise TypeError(f"{function}: {name} must be a dense tensor, got layout {value.layout}")
    assert isinstance(input, Tensor) and isinstance(target, Tensor)
    if input.dtype not in INPUT_DTYPES:
        raise TypeError(f"{function}: input must have dtype {_names(INPUT_DTYPES)}, got {_names((input.dtype,))}")
    if target.dtype not in TARGET_DTYPES:
        raise TypeError(f"{function}: target must have dtype {_names(TARGET_DTYPES)}, got {_names((target.dtype,))}")
    shape = input.shape
    if len(shape) < 2:
        raise ValueError(f"{function}: input must have shape (B, M, *spatial), got {tuple(shape)}")
    if shape[1] == 0:
        raise ValueError(f"{function}: input must have at least one channel, got shape {tuple(shape)}")
    if target.shape != shape[:1] + shape[2:]:
        expected = (shape[0], *shape[2:])
        raise ValueError(f"{function}: target must have shape (B, *spatial) = {expected}, got {tuple(target.shape)}")
    device = input.device
    if target.device != device:
        raise ValueError(f"{function}: target must be on the device of input, {device}, got {target.device}")
    if device.type == "cuda" and ops.cuda_status != "loaded":
        raise ValueError(
            f"{function}: input is on {device}, but the CUDA kernels are {ops.cuda_status}. Install cas_ext where "
            "nvcc and a CUDA build of torch are found (python -m cas_ext.info tells what is there)."
        )
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{function}: input must be on a CPU or CUDA device, got {device}")


def resolve_validate(validate: bool | None) -> bool:
    if validate is None:
        return os.environ.get("CAS_EXT_VALIDATE", "0") not in ("", "0")
    return validate


def infer_num_regions(target: Tensor, ignore_index: int) -> int:
    """max label + 1 without the ignored ones, at least 1. Reads one number back: a host sync on CUDA."""
    if target.numel() == 0:
        return 1
    if target.dtype == torch.bool:
        target = target.to(torch.uint8)
    bounds = torch.iinfo(target.dtype)
    if bounds.min <= ignore_index <= bounds.max:
        target = torch.where(target == ignore_index, torch.zeros_like(target), target)
    highest = int(target.max().item())
    if highest >= MAX_REGIONS:
        raise ValueError(
            f"cas_loss: target must hold labels below 2**31 - 1, got {highest}; cas_ext.compact_regions renumbers "
            "arbitrary ids"
        )
    return max(highest, 0) + 1
