"""The loss and its gradient as differentiable functions over the operators of `cas_ext.ops`.

`CASLossFunction` is Eq. 1; its backward, `CASGradientFunction`, is Eq. 2, a linear operator in the descriptors, so that its own
derivative is itself applied to the tangent. All is written in terms of these functions, so derivatives of any order
are exact (docs/maths.md).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import ops
from .moments import Regions, accumulate, inner
from .softmax import SoftmaxTangent, accumulation_dtype
from .transforms import call, fold, save, transformable, unfold


class Options(NamedTuple):
    """What a loss is made of, besides its regions; checked in checks.py."""

    alpha: float
    pairs: int  # ops.PAIRS
    reduction: str
    return_terms: bool

    @property
    def terms(self) -> int:
        """How many of loss, uniformer, discriminator are returned."""
        return 3 if self.return_terms else 1

    def per_image(self) -> Options:
        return self._replace(reduction="none", return_terms=False)


def reduce(per_image: Tensor, reduction: str) -> Tensor:
    """(..., B) -> (...), or as it is for "none"."""
    if reduction == "none":
        return per_image
    if reduction == "mean" and per_image.shape[-1] > 0:
        return per_image.mean(-1)
    return per_image.sum(-1)


@transformable
class FinaliseFunction(torch.autograd.Function):
    """The coefficients (scale, center, offset) that moments give, without gradient."""

    @staticmethod
    def forward(count: Tensor, mean: Tensor, scatter: Tensor, alpha: float, pairs: int, wide: bool) -> Any:
        return ops.finalise(count, mean, scatter, alpha, pairs, wide)[3:]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        return (None,) * 6

    @staticmethod
    def push(ctx: Any, *_: Any) -> tuple[None, ...]:
        return None, None, None


@transformable
class CASLossFunction(torch.autograd.Function):
    """(input, target) -> loss, scale, center, offset; or loss, uniformer, discriminator, scale, center, offset and the moments.

    Only the loss and its terms have a gradient.
    """

    @staticmethod
    def forward(input: Tensor, target: Tensor, regions: Regions, options: Options) -> tuple[Tensor, ...]:
        results = _forward(input, target, regions, options)
        return results if options.return_terms else (results[0], *results[3:6])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        input, target, ctx.regions, ctx.options = inputs
        tables = output[ctx.options.terms :]
        ctx.mark_non_differentiable(*tables)
        ctx.set_materialize_grads(False)
        save(ctx, input, target, *tables)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        input, target, *tables = ctx.saved_tensors
        total = None
        for k, weight in enumerate(gradients[: ctx.options.terms]):
            if weight is None:
                continue
            sign, coefficients, options = term(k, tables, ctx.options)
            weight = weight if sign > 0 else -weight
            part = call(CASGradientFunction, input, target, weight, *coefficients, ctx.regions, options)
            total = part if total is None else total + part
        return total, None, None, None

    @staticmethod
    def push(ctx: Any, tangent: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        outputs = 9 if ctx.options.return_terms else 4
        if tangent is None:
            return (None,) * outputs
        input, target, *tables = ctx.saved_tensors
        acc = accumulation_dtype(input.dtype)
        one = torch.ones(1, dtype=acc, device=input.device).expand(input.shape[0])
        pushed = []
        for k in range(ctx.options.terms):
            sign, coefficients, options = term(k, tables, ctx.options)
            unit = call(CASGradientFunction, input, target, one, *coefficients, ctx.regions, options.per_image())
            pushed.append(sign * reduce(inner(unit, tangent, acc, ctx.regions.group), options.reduction))
        return *pushed, *(None,) * (outputs - len(pushed))

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, target: Tensor, regions: Regions, options: Options) -> Any:
        images, (input, target) = fold(info.batch_size, in_dims, input, target)
        results = call(CASLossFunction, input, target, regions, options._replace(reduction="none"))
        results = [unfold(info.batch_size, images, result) for result in results]
        reduced = (reduce(term, options.reduction) for term in results[: options.terms])
        return (*reduced, *results[options.terms :]), (0,) * len(results)


def _forward(input: Tensor, target: Tensor, regions: Regions, options: Options) -> tuple[Tensor, ...]:
    """loss, uniformer, discriminator, scale, center, offset, count, mean, scatter; what operator `forward` returns."""
    if regions.group is None:
        *how, _ = regions
        reduction = ops.REDUCTIONS[options.reduction]
        results: tuple[Tensor, ...] = ops.forward(input, target, *how, options.alpha, options.pairs, reduction)
        return results
    moments = accumulate(input, target, regions)
    wide = input.dtype == torch.float64
    *terms, scale, center, offset = ops.finalise(*moments, options.alpha, options.pairs, wide)
    return *(reduce(term, options.reduction) for term in terms), scale, center, offset, *moments


def term(k: int, tables: list[Tensor], options: Options) -> tuple[int, list[Tensor], Options]:
    """(sign, coefficients, options) of the loss, the uniformer or the discriminator.

    A term is the loss for another alpha: uniformer = loss at 1, discriminator = -loss at 0.
    """
    if k == 0:
        return 1, tables[:3], options
    sign, alpha = ((1, 1.0), (-1, 0.0))[k - 1]
    wide = tables[0].dtype == torch.float64
    return sign, call(FinaliseFunction, *tables[3:], alpha, options.pairs, wide), options._replace(alpha=alpha)


@transformable
class CASGradientFunction(torch.autograd.Function):
    """weight * dCAS/dinput (Eq. 2), given the coefficients that `finalise` made for this input.

    `weight` is the gradient of the reduced loss, (), or of each image's, (B,). The coefficients are functions of `input`,
    but take no gradient: the derivatives go through them.
    """

    @staticmethod
    def forward(
        input: Tensor,
        target: Tensor,
        weight: Tensor,
        scale: Tensor,
        center: Tensor,
        offset: Tensor,
        regions: Regions,
        options: Options,
    ) -> Tensor:
        reduction = options.reduction
        weight = weight if reduction == "none" else weight.expand(input.shape[0])
        average = reduction == "mean"
        gradient: Tensor = ops.apply(
            input, target, weight, average, scale, center, offset, regions.ignore_index, regions.activation
        )
        return gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.regions, ctx.options = inputs
        ctx.set_materialize_grads(False)
        save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor | None) -> tuple[Tensor | None, ...]:
        to_input = to_weight = None
        if tangent is not None and ctx.needs_input_grad[0]:
            to_input = _gradient_tangent(tangent, ctx.regions, ctx.options, *ctx.saved_tensors)
        if tangent is not None and ctx.needs_input_grad[2]:
            input, target, weight, *coefficients = ctx.saved_tensors
            one = torch.ones_like(weight)
            unit = call(CASGradientFunction, input, target, one, *coefficients, ctx.regions, ctx.options)
            product = inner(tangent, unit, weight.dtype, ctx.regions.group)
            to_weight = product if ctx.options.reduction == "none" else product.sum()
        return to_input, None, to_weight, None, None, None, None, None

    @staticmethod
    def push(ctx: Any, of_input: Tensor | None, _: Any, of_weight: Tensor | None, *__: Any) -> Tensor | None:
        total = None
        if of_input is not None:
            total = _gradient_tangent(of_input, ctx.regions, ctx.options, *ctx.saved_tensors)
        if of_weight is not None:
            input, target, _, *coefficients = ctx.saved_tensors
            part: Tensor = call(CASGradientFunction, input, target, of_weight, *coefficients, ctx.regions, ctx.options)
            total = part if total is None else total + part
        return total

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, input: Tensor, target: Tensor, weight: Tensor, *arguments: Any
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        *coefficients, regions, options = arguments
        images, (input, target, *coefficients) = fold(size, (*in_dims[:2], *in_dims[3:]), input, target, *coefficients)
        if options.reduction == "none":
            _, (weight,) = fold(size, in_dims[2:], weight)
        else:  # the images of one call are averaged, not those of all calls
            weight = weight / max(images, 1) if options.reduction == "mean" else weight
            weight = (weight.expand(size) if in_dims[2] is None else weight).repeat_interleave(images)
        options = options._replace(reduction="none")
        gradient = call(CASGradientFunction, input, target, weight, *coefficients, regions, options)
        return unfold(size, images, gradient), 0


def _gradient_tangent(
    tangent: Tensor,
    regions: Regions,
    options: Options,
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    scale: Tensor,
    center: Tensor,
    offset: Tensor,
) -> Tensor:
    """The Hessian of the weighted loss times `tangent`. For descriptors, the operator itself applied to the tangent."""
    softmax = None
    if regions.activation:
        softmax = SoftmaxTangent(input, target, tangent, regions.ignore_index)
        input, tangent, regions = softmax.descriptors, softmax.pushed, regions.of_descriptors()
    _, *of_tangent = call(CASLossFunction, tangent.detach(), target, regions, options.per_image())
    product: Tensor = call(CASGradientFunction, tangent, target, weight, *of_tangent, regions, options)
    if softmax is None:
        return product
    gradient = call(CASGradientFunction, input, target, weight, scale, center, offset, regions, options)
    return softmax.pull(product, gradient)
