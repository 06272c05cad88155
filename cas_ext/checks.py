"""Checks of what a user passes, before any kernel runs: `function: argument must ..., got ...`.

TypeError for a wrong type or dtype, ValueError for a wrong value, shape or device. Messages are built on the way out only.
"""

from __future__ import annotations

import numbers
import operator
import os
from typing import Any

import torch
from torch import Tensor

from . import distributed, ops

INPUT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TARGET_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# What to convert labels to that came in types no kernel reads.
SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
DISTANCES = ("sqeuclidean", "euclidean", "log")
MAX_REGIONS = 2**31 - 1  # kernels keep a region in 32 bits
# What CAS_EXT_VALIDATE may say.
SWITCH = {"": False, "0": False, "1": True, "false": False, "true": True, "no": False, "yes": True}
UNREADABLE = (
    "num_regions must be given where no label can be read: under vmap, for meta tensors, in torch.export and "
    "torch.compile(fullgraph=True); got None"
)
ALWAYS_INFERRED = 2**20  # regions that are taken for meant, however few the pixels


def _names(values: Any) -> str:
    return ", ".join(str(v).removeprefix("torch.") for v in values)


def wrong_dtype(function: str, argument: str, dtypes: tuple[torch.dtype, ...], got: torch.dtype) -> TypeError:
    """What to raise for a dtype that is none of `dtypes`."""
    convert = ""
    if dtypes is TARGET_DTYPES and got in SIGNED:
        convert = f"; convert: {argument}.to({SIGNED[got]})"
    return TypeError(f"{function}: {argument} must have dtype {_names(dtypes)}, got {_names((got,))}{convert}")


def as_int(function: str, argument: str, value: Any) -> int:
    """Any integer, NumPy's too, as Python's; a symbolic one of torch.compile as it is. A tensor is none: to read it may wait."""
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if not isinstance(value, (bool, Tensor)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{function}: {argument} must be an int, got {type(value).__name__}")


def _as_weight(function: str, alpha: Any) -> float:
    """Any real number, NumPy's too, as Python's."""
    if not isinstance(alpha, (int, numbers.Real)) or isinstance(alpha, bool):
        raise TypeError(f"{function}: alpha must be a number in [0, 1], got {type(alpha).__name__}")
    return float(alpha)


def _check_name(function: str, argument: str, value: object, names: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{function}: {argument} must be a string, one of {_names(names)}, got {type(value).__name__}")
    if value not in names:
        raise ValueError(f"{function}: {argument} must be one of {_names(names)}, got {value!r}")


def check_loss_options(
    function: str, alpha: Any, pairs: object, distance: object, reduction: object, return_terms: object
) -> float:
    """What only `cas_loss` has. Returns alpha as a float."""
    weight: float = alpha if type(alpha) is float else _as_weight(function, alpha)
    if not 0 <= weight <= 1:  # NaN, too
        raise ValueError(f"{function}: alpha must be a number in [0, 1], got {weight}")
    _check_name(function, "pairs", pairs, ops.PAIRS)
    _check_name(function, "distance", distance, DISTANCES)
    _check_name(function, "reduction", reduction, ops.REDUCTIONS)
    if not isinstance(return_terms, bool):
        raise TypeError(f"{function}: return_terms must be True or False, got {return_terms!r}")
    return weight


def check_region_options(
    function: str, num_regions: Any, ignore_index: Any, activation: object, validate: object, group: object
) -> tuple[int | None, int]:
    """What `cas_loss` and `region_moments` share; `num_regions` is None where it is to be inferred.

    Returns num_regions and ignore_index as Python's ints.
    """
    if num_regions is not None:
        if type(num_regions) is not int:
            num_regions = as_int(function, "num_regions", num_regions)
        if not 1 <= num_regions <= MAX_REGIONS:
            raise ValueError(f"{function}: num_regions must lie in [1, 2**31 - 1], got {num_regions}")
    if type(ignore_index) is not int:
        ignore_index = as_int(function, "ignore_index", ignore_index)
    if not -(2**63) <= ignore_index < 2**63:
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
    return num_regions, ignore_index


def check_tensors(function: str, input: object, target: object, *, kernels: bool = True) -> None:
    """`kernels`: whether they are to run on the tensors, so that the device must be one they know."""
    for name, value in (("input", input), ("target", target)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{function}: {name} must be a Tensor, got {type(value).__name__}")
        if value.layout != torch.strided:
            raise TypeError(f"{function}: {name} must be a dense tensor, got layout {value.layout}")
    assert isinstance(input, Tensor) and isinstance(target, Tensor)
    if input.dtype not in INPUT_DTYPES:
        raise wrong_dtype(function, "input", INPUT_DTYPES, input.dtype)
    if target.dtype not in TARGET_DTYPES:
        raise wrong_dtype(function, "target", TARGET_DTYPES, target.dtype)
    shape = input.shape
    if len(shape) < 2:
        raise ValueError(f"{function}: input must have shape (B, M, *spatial), got {tuple(shape)}")
    if shape[1] == 0:
        raise ValueError(f"{function}: input must have at least one channel, got shape {tuple(shape)}")
    if target.shape != shape[:1] + shape[2:]:
        expected, got = (shape[0], *shape[2:]), tuple(target.shape)
        drop = "; drop the channel: target.squeeze(1)" if got == (*expected[:1], 1, *expected[1:]) else ""
        raise ValueError(
            f"{function}: target must have shape (B, *spatial) = {expected} to go with input (B, M, *spatial) = "
            f"{tuple(shape)}, got {got}{drop}"
        )
    device = input.device
    if target.device != device:
        raise ValueError(f"{function}: target must be on the device of input, {device}, got {target.device}")
    if not kernels:
        return
    if device.type == "cuda" and ops.cuda_status != "loaded":
        raise ValueError(
            f"{function}: input is on {device}, but the CUDA kernels are {ops.cuda_status}. Install cas_ext where "
            "nvcc and a CUDA build of torch are found (python -m cas_ext.info tells what is there)."
        )
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{function}: input must be on a CPU or CUDA device, got {device}")


def resolve_validate(validate: bool | None) -> bool:
    """`validate`, or what the environment variable CAS_EXT_VALIDATE says."""
    if validate is None:
        text = os.environ.get("CAS_EXT_VALIDATE", "0")
        wanted = SWITCH.get(text.lower())
        if wanted is None:
            raise ValueError(
                f"cas_ext: the environment variable CAS_EXT_VALIDATE must be one of {', '.join(filter(None, SWITCH))} or "
                f"empty, got {text!r}"
            )
        return wanted
    return validate


def infer_num_regions(target: Tensor, ignore_index: int) -> int:
    """max label + 1 without the ignored ones, at least 1. Reads one number back: a host sync on CUDA, a graph break."""
    if target.numel() == 0:
        return 1
    if target.dtype == torch.bool:
        target = target.to(torch.uint8)
    bounds = torch.iinfo(target.dtype)
    if bounds.min <= ignore_index <= bounds.max:
        target = torch.where(target == ignore_index, torch.zeros_like(target), target)
    return max(read_highest("cas_loss", target.max(), target.numel()), 0) + 1


def read_highest(function: str, label: Tensor, pixels: int) -> int:
    """The highest label of so many pixels, which is to size the table.

    An id that is no label would ask for a table as long as itself, so the label must be one that a mask can need.
    """
    if torch.compiler.is_compiling():
        torch._dynamo.graph_break(
            msg=f"{function}: {UNREADABLE}"
        )  # the message is for fullgraph=True: there it is an error
    try:
        highest = int(label.item())
    except torch.AcceleratorError:  # of an earlier kernel
        raise
    except RuntimeError as error:
        raise ValueError(f"{function}: {UNREADABLE}") from error
    bound = min(max(pixels, ALWAYS_INFERRED), MAX_REGIONS)
    if highest >= bound:
        forced = f", and num_regions={highest + 1} forces a table as long as that" if highest < MAX_REGIONS else ""
        raise ValueError(
            f"{function}: target must hold labels below {bound} (its number of pixels, or {ALWAYS_INFERRED} if that is more) "
            f"where num_regions is None, got {highest}; cas_ext.compact_regions renumbers arbitrary ids{forced}"
        )
    return highest
