"""The differentiable functions over the operators of `cas_ext.ops`.

`CASLossFunction` is Eq. 1; its backward, `CASGradientFunction`, is Eq. 2, a linear operator in `input`, so that its own
backward is itself applied to the tangent. `RegionMomentsFunction` and `RegionAffineFunction` are each other's adjoint in the
same way. Every backward is written in terms of these functions, so derivatives of any order are exact (docs/maths.md).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import ops


class Options(NamedTuple):
    """What a loss is computed with, besides its tensors; checked in functional.py."""

    alpha: float
    num_regions: int
    ignore_index: int
    pairs: int
    reduction: str
    return_terms: bool
    validate: bool


def call(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply`, which PyTorch leaves untyped."""
    return function.apply(*arguments)


def _wide(input: Tensor) -> bool:
    return input.dtype == torch.float64


def _reduce(per_image: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return per_image
    if reduction == "mean" and per_image.shape[0] > 0:
        return per_image.mean()
    return per_image.sum()


def _apply(input: Tensor, target: Tensor, weight: Tensor, coefficients: tuple[Tensor, ...], options: Options) -> Tensor:
    """`ops.apply` with the gradient of the reduced loss, (), or of each image's, (B,)."""
    B = input.shape[0]
    weight = weight if options.reduction == "none" else weight.expand(B)
    gradient: Tensor = ops.apply(
        input, target, weight, options.reduction == "mean", *coefficients, options.ignore_index
    )
    return gradient


class CASLossFunction(torch.autograd.Function):
    """(input, target) -> loss, or (loss, uniformer, discriminator); then what backward needs, without gradient."""

    @staticmethod
    def forward(input: Tensor, target: Tensor, options: Options) -> tuple[Tensor, ...]:
        moments = ops.accumulate(input, target, options.num_regions, options.ignore_index, options.validate)
        results = ops.finalise(*moments, options.alpha, options.pairs, _wide(input))
        terms = results[: 3 if options.return_terms else 1]
        return *(_reduce(term, options.reduction) for term in terms), *moments, *results[3:]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        input, target, ctx.options = inputs
        tables = output[-6:]
        ctx.mark_non_differentiable(*tables)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, target, *tables)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        input, target, count, mean, scatter, *coefficients = ctx.saved_tensors
        of_loss, of_uniformer, of_discriminator = (
            gradients[:3] if ctx.options.return_terms else (gradients[0], None, None)
        )
        total = None
        if of_loss is not None:
            total = call(CASGradientFunction, input, target, of_loss, *coefficients, ctx.options)
        # Each term is the loss for another alpha: uniformer = loss at 1, discriminator = -loss at 0.
        for weight, alpha, sign in ((of_uniformer, 1.0, 1), (of_discriminator, 0.0, -1)):
            if weight is None:
                continue
            options = ctx.options._replace(alpha=alpha)
            term = ops.finalise(count, mean, scatter, alpha, options.pairs, _wide(input))[3:]
            gradient = call(CASGradientFunction, input, target, sign * weight, *term, options)
            total = gradient if total is None else total + gradient
        return total, None, None


class CASGradientFunction(torch.autograd.Function):
    """weight * dCAS/dinput (Eq. 2), given the coefficients that `finalise` made for this input.

    The coefficients are functions of `input`, but take no gradient: backward differentiates through them.
    """

    @staticmethod
    def forward(
        input: Tensor, target: Tensor, weight: Tensor, scale: Tensor, center: Tensor, offset: Tensor, options: Options
    ) -> Tensor:
        return _apply(input, target, weight, (scale, center, offset), options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        input, target, weight, *coefficients = ctx.saved_tensors
        options = ctx.options
        to_input = to_weight = None
        if ctx.needs_input_grad[0]:  # the operator is symmetric: apply it to the tangent
            moments = ops.accumulate(
                tangent.detach(), target, options.num_regions, options.ignore_index, options.validate
            )
            of_tangent = ops.finalise(*moments, options.alpha, options.pairs, _wide(input))[3:]
            to_input = call(CASGradientFunction, tangent, target, weight, *of_tangent, options)
        if ctx.needs_input_grad[2]:
            unit = call(CASGradientFunction, input, target, torch.ones_like(weight), *coefficients, options)
            product = (tangent.to(weight.dtype) * unit.to(weight.dtype)).flatten(1).sum(1)
            to_weight = product if options.reduction == "none" else product.sum()
        return to_input, None, to_weight, None, None, None, None


class RegionMomentsFunction(torch.autograd.Function):
    """(input, target) -> count (B,N) int64, mean (B,N,M), scatter (B,N) in the result dtype, and mean in float64."""

    @staticmethod
    def forward(
        input: Tensor, target: Tensor, num_regions: int, ignore_index: int, validate: bool
    ) -> tuple[Tensor, ...]:
        count, mean, scatter = ops.accumulate(input, target, num_regions, ignore_index, validate)
        if _wide(input):
            return count, mean, scatter, mean.clone()
        return count, mean.float(), scatter.float(), mean

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        input, target, *ctx.arguments = inputs
        count, _, _, wide_mean = output
        ctx.mark_non_differentiable(count, wide_mean)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, target, count, wide_mean)

    @staticmethod
    def backward(ctx: Any, _: None, of_mean: Tensor | None, of_scatter: Tensor | None, __: None) -> tuple[Any, ...]:
        input, target, count, wide_mean = ctx.saved_tensors
        if of_mean is None and of_scatter is None:
            return None, None, None, None, None
        acc = torch.float64 if _wide(input) else torch.float32
        if of_mean is None:
            of_mean = torch.zeros(wide_mean.shape, dtype=acc, device=input.device)
        if of_scatter is None:
            of_scatter = torch.zeros(count.shape, dtype=acc, device=input.device)
        gradient = call(RegionAffineFunction, input, target, of_mean, of_scatter, count, wide_mean, *ctx.arguments)
        return gradient, None, None, None, None


class RegionAffineFunction(torch.autograd.Function):
    """2 of_scatter_i (s(x) - mean_i) + of_mean_i / count_i: the adjoint of `RegionMomentsFunction`.

    `count` and `wide_mean` are the moments of `input`; backward differentiates through them.
    """

    @staticmethod
    def forward(
        input: Tensor,
        target: Tensor,
        of_mean: Tensor,
        of_scatter: Tensor,
        count: Tensor,
        wide_mean: Tensor,
        num_regions: int,
        ignore_index: int,
        validate: bool,
    ) -> Tensor:
        acc = of_scatter.dtype
        scale = 2 * of_scatter.contiguous()
        center = wide_mean.to(acc)
        shift = of_mean / count.clamp(min=1).unsqueeze(2)
        offset = (shift + scale.unsqueeze(2) * (center - wide_mean)).to(acc)
        one = torch.ones(1, dtype=acc, device=input.device).expand(input.shape[0])
        gradient: Tensor = ops.apply(input, target, one, False, scale, center, offset.contiguous(), ignore_index)
        return gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, num_regions, ignore_index, validate = inputs
        ctx.arguments = (num_regions, ignore_index, validate)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Any, ...]:
        input, target, of_mean, of_scatter, count, wide_mean = ctx.saved_tensors
        to_input = to_mean = to_scatter = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
            _, tangent_mean, _, wide_tangent_mean = call(RegionMomentsFunction, tangent, target, *ctx.arguments)
            to_mean = tangent_mean
            if ctx.needs_input_grad[0]:
                to_input = call(
                    RegionAffineFunction,
                    tangent,
                    target,
                    torch.zeros_like(of_mean),
                    of_scatter,
                    count,
                    wide_tangent_mean,
                    *ctx.arguments,
                )
        if ctx.needs_input_grad[3]:  # 2 sum_x <tangent, s - mean> per region: a one-channel image, summed
            centered = call(
                RegionAffineFunction,
                input,
                target,
                torch.zeros_like(of_mean),
                torch.ones_like(of_scatter),
                count,
                wide_mean,
                *ctx.arguments,
            )
            product = (tangent.to(of_scatter.dtype) * centered.to(of_scatter.dtype)).sum(1, keepdim=True)
            _, product_mean, _, _ = call(RegionMomentsFunction, product, target, *ctx.arguments)
            to_scatter = product_mean.squeeze(2) * count
        return to_input, None, to_mean, to_scatter, None, None, None, None, None
