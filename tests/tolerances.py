"""How far a result may lie from the float64 reference: one table, and the two comparisons that read it.

Both comparisons scale with the problem, not with the result. A loss is a difference of two sums of squares and may
cancel, so it is measured against those sums. A gradient carries 1/n_i, so it is multiplied by the size of its region
first: otherwise the pixels of a large region would hide behind those of a small one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rounding of the float64 reference itself, relative to the largest descriptor: a few hundred additions.
REFERENCE_ROUNDING = 1e-14
MAX_REGIONS = 100  # in any test: the discriminator's gradient sums that many differences of means

# Kernels take deviations about a value rounded to float32: what is below the square of that rounding is noise to them.
PILOT_ROUNDING = 2.0**-24


@dataclass(frozen=True)
class Tolerance:
    loss: float  # loss, terms and moments, relative
    gradient: float  # relative to the largest element of the image
    rounding: float  # one rounding of a gradient element to the stored type, relative to the element
    subnormal: float  # half the spacing of the smallest numbers of that type


TOLERANCE = {
    # The input is exact in float32 and the loss is float32; only the gradient is rounded to 11 or 8 bits.
    torch.float16: Tolerance(loss=1e-6, gradient=1e-6, rounding=2.0**-11, subnormal=2.0**-25),
    torch.bfloat16: Tolerance(loss=1e-6, gradient=1e-6, rounding=2.0**-8, subnormal=0.0),
    # The accuracy performance.md demands: about 8 float32 roundings.
    torch.float32: Tolerance(loss=1e-6, gradient=1e-6, rounding=0.0, subnormal=0.0),
    # All double: what is left is the rounding of the reference at |s| = 100 times the spread.
    torch.float64: Tolerance(loss=1e-11, gradient=1e-11, rounding=0.0, subnormal=0.0),
}


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _assert_within(actual: Tensor, expected: Tensor, bound: Tensor, what: str) -> None:
    error = (actual - expected).abs()
    if bool((error <= bound).all()):
        return
    worst = (torch.nan_to_num(error, nan=float("inf")) - bound).flatten().argmax()
    raise AssertionError(
        f"{what} at flat index {int(worst)}: got {float(actual.flatten()[worst])!r}, reference "
        f"{float(expected.flatten()[worst])!r}, error {float(error.flatten()[worst]):.3g}, "
        f"allowed {float(bound.expand_as(error).flatten()[worst]):.3g}"
    )


def square_floor(input: Tensor) -> float:
    """The smallest mean square deviation of `input` that can be told from 0."""
    largest = float(input.detach().double().abs().max()) if input.numel() else 0.0
    by_kernel = 0.0 if input.dtype == torch.float64 else TOLERANCE[input.dtype].loss * (PILOT_ROUNDING * largest) ** 2
    return by_kernel + MAX_REGIONS * (REFERENCE_ROUNDING * largest) ** 2


def assert_losses_close(actual, expected, input: Tensor, *, alpha: float) -> None:
    """(loss, uniformer, discriminator) against the float64 reference, under any one reduction."""
    tolerance = TOLERANCE[input.dtype].loss
    loss, uniformer, discriminator = (term.detach().cpu() for term in expected)
    floor = MAX_REGIONS * square_floor(input)
    # A mean is only as good as the spread it averages, so the discriminator is also measured against the uniformer.
    bounds = (tolerance * uniformer + floor, tolerance * (discriminator + uniformer) + floor)
    bounds = (alpha * bounds[0] + (1 - alpha) * bounds[1], *bounds)
    for name, got, want, bound in zip(
        ("loss", "uniformer", "discriminator"), actual, (loss, uniformer, discriminator), bounds, strict=True
    ):
        assert got.dtype == result_dtype(input.dtype), f"{name} of {input.dtype} input is {got.dtype}"
        assert got.shape == want.shape, f"{name} has shape {tuple(got.shape)}, expected {tuple(want.shape)}"
        _assert_within(got.detach().cpu().double(), want, bound, name)


def region_sizes(target: Tensor, ignore_index: int) -> Tensor:
    """(B, *spatial) float64 on the CPU: the size of each pixel's region, 0 at ignored pixels."""
    labels = target.detach().cpu().long()
    sizes = torch.zeros(labels.shape, dtype=torch.float64)
    for image, out in zip(labels, sizes, strict=True):
        _, inverse, counts = image.unique(return_inverse=True, return_counts=True)
        out.copy_(counts[inverse])
    return torch.where(labels == ignore_index, 0.0, sizes)


def _spread(per_region: Tensor | float, target: Tensor) -> Tensor | float:
    """(B, N) as (B, 1, *spatial): every pixel's own region; a number as it is."""
    if not isinstance(per_region, Tensor):
        return per_region
    labels = target.detach().cpu().long().clamp(0, per_region.shape[1] - 1)
    return per_region.gather(1, labels.reshape(len(labels), -1)).reshape(labels.shape)[:, None]


def gradient_floor(operand: Tensor) -> float:
    """What rounding the means in double leaves in a gradient that should be 0, times the region size."""
    largest = float(operand.detach().double().abs().max()) if operand.numel() else 0.0
    return REFERENCE_ROUNDING * MAX_REGIONS * largest


def assert_gradient_close(
    actual: Tensor,
    expected: Tensor,
    input: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    scale: Tensor | None = None,
    operand: Tensor | None = None,
    roundings: int = 1,
    slack: Tensor | float = 0.0,
) -> None:
    """A gradient of `input` against the float64 one; exactly 0 at ignored pixels.

    `scale`: magnitudes to measure against where they are not those of `expected` itself. `operand`: what the gradient
    is linear in, where that is not `input` (the tangent of a Hessian-vector product). `roundings`: how often the
    result is rounded to the stored type on its way. `slack`: (B, N) or a number, by how much the problem's own
    condition lets a region's gradient, times its size, be off.
    """
    assert actual.dtype == input.dtype and actual.shape == input.shape
    if not actual.numel():
        return
    tolerance = TOLERANCE[input.dtype]
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    sizes = region_sizes(target, ignore_index)[:, None].expand_as(actual)
    assert bool((actual[sizes == 0] == 0).all()), "the gradient at ignored pixels is not exactly 0"
    magnitude = (expected if scale is None else scale.detach().cpu()).abs() * sizes
    largest = magnitude.flatten(1).amax(1).reshape(-1, *[1] * (actual.dim() - 1))
    floor = gradient_floor(input if operand is None else operand)
    stored = tolerance.rounding * magnitude + tolerance.subnormal * sizes
    bound = tolerance.gradient * largest + roundings * stored + floor + _spread(slack, target)
    _assert_within(actual * sizes, expected * sizes, bound, "gradient times region size")
