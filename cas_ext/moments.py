"""Region moments and their adjoint, each one pass over the pixels.

`RegionMomentsFunction` and `RegionAffineFunction` are each other's adjoint, and their derivatives are written in terms
of each other, so derivatives of any order are exact (docs/maths.md).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import distributed, ops
from .softmax import SoftmaxTangent, accumulation_dtype
from .transforms import call, save, transformable


class Regions(NamedTuple):
    """How pixels become moments; checked in checks.py."""

    num_regions: int
    ignore_index: int
    validate: bool
    activation: int  # ops.ACTIVATIONS
    group: Any  # torch.distributed.ProcessGroup or None

    def of_descriptors(self) -> Regions:
        """The same for descriptors in place of logits."""
        return self._replace(activation=0)


def accumulate(input: Tensor, target: Tensor, regions: Regions) -> tuple[Tensor, Tensor, Tensor]:
    num_regions, ignore_index, validate, activation, group = regions
    if group is None:
        moments: tuple[Tensor, Tensor, Tensor] = ops.accumulate(
            input, target, num_regions, ignore_index, validate, activation
        )
        return moments
    return distributed.accumulate(input, target, num_regions, ignore_index, validate, activation, group)


def inner(a: Tensor, b: Tensor, dtype: torch.dtype, group: Any) -> Tensor:
    """<a, b> image by image, (B,), over the pixels of all processes."""
    product = (a.to(dtype) * b.to(dtype)).flatten(1).sum(1)
    return product if group is None else distributed.total(product, group)


@transformable
class RegionMomentsFunction(torch.autograd.Function):
    """(input, target) -> count (B,N) int64, mean (B,N,M) float64, scatter (B,N) float64."""

    @staticmethod
    def forward(input: Tensor, target: Tensor, regions: Regions) -> tuple[Tensor, Tensor, Tensor]:
        return accumulate(input, target, regions)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        input, target, ctx.regions = inputs
        count, mean, _ = output
        ctx.mark_non_differentiable(count)
        ctx.set_materialize_grads(False)
        save(ctx, input, target, count, mean)

    @staticmethod
    def backward(ctx: Any, _: None, of_mean: Tensor | None, of_scatter: Tensor | None) -> tuple[Any, ...]:
        if of_mean is None and of_scatter is None:
            return None, None, None
        input, target, count, mean = ctx.saved_tensors
        of_mean = torch.zeros_like(mean) if of_mean is None else of_mean
        of_scatter = torch.zeros_like(count, dtype=mean.dtype) if of_scatter is None else of_scatter
        return call(RegionAffineFunction, input, target, of_mean, of_scatter, count, mean, ctx.regions), None, None

    @staticmethod
    def push(ctx: Any, tangent: Tensor | None, *_: Any) -> tuple[None, Tensor | None, Tensor | None]:
        if tangent is None:
            return None, None, None
        return None, *_moment_tangents(tangent, ctx.regions, *ctx.saved_tensors)


@transformable
class RegionAffineFunction(torch.autograd.Function):
    """2 of_scatter_i (s(x) - mean_i) + of_mean_i / count_i, the adjoint of `RegionMomentsFunction`; through the softmax, if any.

    `count` and `mean` are the moments of `input`; they take no gradient, the derivatives go through them.
    """

    @staticmethod
    def forward(
        input: Tensor,
        target: Tensor,
        of_mean: Tensor,
        of_scatter: Tensor,
        count: Tensor,
        mean: Tensor,
        regions: Regions,
    ) -> Tensor:
        acc = accumulation_dtype(input.dtype)
        scale = 2 * of_scatter
        center = mean.to(acc)
        offset = of_mean / count.clamp(min=1).unsqueeze(2) + scale.unsqueeze(2) * (center - mean)
        coefficients = (table.to(acc).contiguous() for table in (scale, center, offset))
        one = torch.ones(1, dtype=acc, device=input.device).expand(input.shape[0])
        gradient: Tensor = ops.apply(input, target, one, False, *coefficients, regions.ignore_index, regions.activation)
        return gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.regions = inputs
        ctx.set_materialize_grads(False)
        save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor | None) -> tuple[Any, ...]:
        if tangent is None:
            return (None,) * 7
        to_input = to_mean = to_scatter = None
        if ctx.needs_input_grad[0]:
            to_input = _affine_tangent(tangent, ctx.regions, *ctx.saved_tensors)
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            input, target, _, _, count, mean = ctx.saved_tensors
            to_mean, to_scatter = _moment_tangents(tangent, ctx.regions, input, target, count, mean)
        return to_input, None, to_mean, to_scatter, None, None, None

    @staticmethod
    def push(
        ctx: Any, of_input: Tensor | None, _: Any, of_mean: Tensor | None, of_scatter: Tensor | None, *__: Any
    ) -> Any:
        input, target, at_mean, at_scatter, count, mean = ctx.saved_tensors
        total = None
        if of_input is not None:  # the function is a gradient: its derivative along `of_input` is symmetric
            total = _affine_tangent(of_input, ctx.regions, *ctx.saved_tensors)
        if of_mean is not None or of_scatter is not None:
            of_mean = torch.zeros_like(at_mean) if of_mean is None else of_mean
            of_scatter = torch.zeros_like(at_scatter) if of_scatter is None else of_scatter
            part = call(RegionAffineFunction, input, target, of_mean, of_scatter, count, mean, ctx.regions)
            total = part if total is None else total + part
        return total


def _moment_tangents(
    tangent: Tensor, regions: Regions, input: Tensor, target: Tensor, count: Tensor, mean: Tensor
) -> tuple[Tensor, Tensor]:
    """What a tangent t of the input is to the means, and to the scatters: 2 sum_{x in r_i} <t(x), s(x) - m_i>."""
    if regions.activation:
        softmax = SoftmaxTangent(input, target, tangent, regions.ignore_index)
        input, tangent, regions = softmax.descriptors, softmax.pushed, regions.of_descriptors()
    _, tangent_mean, _ = call(RegionMomentsFunction, tangent, target, regions)
    zero, one = torch.zeros_like(mean), torch.ones_like(count, dtype=mean.dtype)
    centered = call(RegionAffineFunction, input, target, zero, one, count, mean, regions)
    acc = accumulation_dtype(input.dtype)
    product = (tangent.to(acc) * centered.to(acc)).sum(1, keepdim=True)  # a one-channel image, summed per region
    _, product_mean, _ = call(RegionMomentsFunction, product, target, regions)
    return tangent_mean, product_mean.squeeze(2) * count


def _affine_tangent(
    tangent: Tensor,
    regions: Regions,
    input: Tensor,
    target: Tensor,
    of_mean: Tensor,
    of_scatter: Tensor,
    count: Tensor,
    mean: Tensor,
) -> Tensor:
    """The derivative of `RegionAffineFunction` along a tangent of the input: 2 of_scatter_i (t(x) - tbar_i)."""
    softmax = None
    if regions.activation:
        softmax = SoftmaxTangent(input, target, tangent, regions.ignore_index)
        input, tangent, regions = softmax.descriptors, softmax.pushed, regions.of_descriptors()
    _, tangent_mean, _ = call(RegionMomentsFunction, tangent, target, regions)
    zero = torch.zeros_like(of_mean)
    result: Tensor = call(RegionAffineFunction, tangent, target, zero, of_scatter, count, tangent_mean, regions)
    if softmax is None:
        return result
    gradient = call(RegionAffineFunction, input, target, of_mean, of_scatter, count, mean, regions)
    return softmax.pull(result, gradient)
