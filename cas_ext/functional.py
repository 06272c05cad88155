"""The public functions: argument checks, then the functions of autograd.py."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import autograd, ops

INPUT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TARGET_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
REDUCTIONS = ("mean", "sum", "none")
MAX_REGIONS = 2**31 - 1  # kernels keep a region in 32 bits


class RegionMoments(NamedTuple):
    """Moments of every region of every image; zeros where a region is absent.

    count: (B, N) int64, pixels. mean: (B, N, M). scatter: (B, N), the sum over pixels of |s(x) - mean|^2.
    """

    count: Tensor  # type: ignore[assignment]  # a field named like a method of tuple
    mean: Tensor
    scatter: Tensor


def _names(values: tuple[Any, ...]) -> str:
    return ", ".join(str(v).removeprefix("torch.") for v in values)


def _is_int(value: object) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def check_options(
    alpha: object,
    num_regions: object,
    ignore_index: object,
    pairs: object,
    reduction: object,
    return_terms: object,
    validate: object,
) -> None:
    """Raises TypeError or ValueError for an option that `cas_loss` cannot use."""
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        raise TypeError(f"cas_loss: alpha must be a number in [0, 1], got {type(alpha).__name__}")
    if not 0 <= alpha <= 1:  # NaN, too
        raise ValueError(f"cas_loss: alpha must be a number in [0, 1], got {alpha}")
    if not isinstance(pairs, str):
        raise TypeError(f"cas_loss: pairs must be a string, got {type(pairs).__name__}")
    if pairs not in ops.PAIRS:
        raise ValueError(f"cas_loss: pairs must be one of {_names(tuple(ops.PAIRS))}, got {pairs!r}")
    if not isinstance(reduction, str):
        raise TypeError(f"cas_loss: reduction must be a string, got {type(reduction).__name__}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"cas_loss: reduction must be one of {_names(REDUCTIONS)}, got {reduction!r}")
    if not isinstance(return_terms, bool):
        raise TypeError(f"cas_loss: return_terms must be True or False, got {return_terms!r}")
    if num_regions is not None:
        _check_num_regions("cas_loss", num_regions)
    _check_labels("cas_loss", ignore_index, validate)


def _check_num_regions(function: str, num_regions: object) -> None:
    if not _is_int(num_regions):
        raise TypeError(f"{function}: num_regions must be an int, got {type(num_regions).__name__}")
    if not 1 <= num_regions <= MAX_REGIONS:  # type: ignore[operator]
        raise ValueError(f"{function}: num_regions must lie in [1, 2**31 - 1], got {num_regions}")


def _check_labels(function: str, ignore_index: object, validate: object) -> None:
    if not _is_int(ignore_index):
        raise TypeError(f"{function}: ignore_index must be an int, got {type(ignore_index).__name__}")
    if not -(2**63) <= ignore_index < 2**63:  # type: ignore[operator]
        raise ValueError(f"{function}: ignore_index must fit 64 bits, got {ignore_index}")
    if validate is not None and not isinstance(validate, bool):
        raise TypeError(f"{function}: validate must be None, True or False, got {validate!r}")


def _check_tensors(function: str, input: object, target: object) -> None:
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
    if input.dim() < 2:
        raise ValueError(f"{function}: input must have shape (B, M, *spatial), got {tuple(input.shape)}")
    if input.shape[1] == 0:
        raise ValueError(f"{function}: input must have at least one channel, got shape {tuple(input.shape)}")
    expected = (input.shape[0], *input.shape[2:])
    if target.shape != expected:
        raise ValueError(
            f"{function}: target must have shape (B, *spatial) = {tuple(expected)}, got {tuple(target.shape)}"
        )
    if target.device != input.device:
        raise ValueError(f"{function}: target must be on the device of input, {input.device}, got {target.device}")
    if input.device.type == "cuda" and ops.cuda_status != "loaded":
        raise ValueError(
            f"{function}: input is on {input.device}, but the CUDA kernels are {ops.cuda_status}. Install cas_ext where "
            "nvcc and a CUDA build of torch are found (python -m cas_ext.info tells what is there)."
        )
    if input.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{function}: input must be on a CPU or CUDA device, got {input.device}")


def _resolve_validate(validate: bool | None) -> bool:
    if validate is None:
        return os.environ.get("CAS_EXT_VALIDATE", "0") not in ("", "0")
    return validate


def _infer_num_regions(target: Tensor, ignore_index: int) -> int:
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
        raise ValueError(f"cas_loss: target must hold labels below 2**31 - 1, got {highest}")
    return max(highest, 0) + 1


def cas_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    num_regions: int | None = None,
    ignore_index: int = -100,
    pairs: str = "ordered",
    reduction: str = "mean",
    return_terms: bool = False,
    validate: bool | None = None,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Class-agnostic segmentation loss, Eq. 1 of Sharma et al. (2021).

    For one image with regions r_i, their means m_i and sizes n_i::

        loss = alpha * sum_i (1/n_i) sum_{x in r_i} |s(x) - m_i|^2  -  (1 - alpha) * sum_{i != j} |m_i - m_j|^2
                       (uniformer: low variance in a region)                 (discriminator: distant means)

    Only regions that are present count, so a permutation of the labels changes nothing. Differentiable in `input` to
    any order; the gradient is Eq. 2. Results are bitwise reproducible on one device.

    Args:
        input: (B, M, *spatial) descriptors s, e.g. softmax outputs; float16, bfloat16, float32 or float64, CPU or CUDA.
            Contiguous and channels_last(_3d) tensors are read in place, other strides are copied once.
        target: (B, *spatial) region labels in [0, num_regions) or `ignore_index`; bool, uint8, int8, int16, int32 or
            int64, on the device of `input`. Small types are faster: labels are read as they are.
        alpha: weight of the uniformer, in [0, 1]; the discriminator has 1 - alpha.
        num_regions: a bound N on the labels. None takes max label + 1, which reads one number back from a GPU.
        ignore_index: pixels with this label take no part and get gradient 0.
        pairs: "ordered" sums over i != j (Eq. 1), "unordered" counts each pair once, "mean" divides by the number of
            regions - 1, so that the term does not grow with the square of the number of regions.
        reduction: over images: "mean", "sum" or "none".
        return_terms: return (loss, uniformer, discriminator), all reduced alike and all differentiable; the terms are
            not multiplied by their weights.
        validate: whether a label out of range on CUDA raises, which costs a host sync, instead of making the loss of
            its image NaN. None: as the environment variable CAS_EXT_VALIDATE says. On the CPU it always raises.

    Returns:
        A scalar, or (B,) for reduction "none", float32 (float64 for float64 input), in squared units of `input`.

    Raises:
        TypeError: for a wrong type or dtype.
        ValueError: for wrong shapes, devices, values, or labels out of range.
    """
    _check_tensors("cas_loss", input, target)
    check_options(alpha, num_regions, ignore_index, pairs, reduction, return_terms, validate)
    if num_regions is None:
        num_regions = _infer_num_regions(target, ignore_index)
    options = autograd.Options(
        float(alpha), num_regions, ignore_index, ops.PAIRS[pairs], reduction, return_terms, _resolve_validate(validate)
    )
    results: tuple[Tensor, ...] = autograd.call(autograd.CASLossFunction, input, target, options)
    if return_terms:
        loss, uniformer, discriminator = results[:3]
        return loss, uniformer, discriminator
    loss = results[0]
    return loss


def region_moments(
    input: Tensor,
    target: Tensor,
    num_regions: int,
    *,
    ignore_index: int = -100,
    validate: bool | None = None,
) -> RegionMoments:
    """Count, mean and scatter of every region, in one pass; for losses of your own on region statistics.

    Differentiable in `mean` and `scatter` to any order, each derivative again in one pass over the pixels.

    Args:
        input: (B, M, *spatial) descriptors, as for `cas_loss`.
        target: (B, *spatial) region labels in [0, num_regions) or `ignore_index`, as for `cas_loss`.
        num_regions: the bound N on the labels.
        ignore_index: pixels with this label take no part.
        validate: as for `cas_loss`.

    Returns:
        RegionMoments: count (B, N) int64, mean (B, N, M) and scatter (B, N), float32, or float64 for float64 input.

    Raises:
        TypeError, ValueError: as `cas_loss`.
    """
    _check_tensors("region_moments", input, target)
    _check_num_regions("region_moments", num_regions)
    _check_labels("region_moments", ignore_index, validate)
    count, mean, scatter, _ = autograd.call(
        autograd.RegionMomentsFunction, input, target, num_regions, ignore_index, _resolve_validate(validate)
    )
    return RegionMoments(count, mean, scatter)
