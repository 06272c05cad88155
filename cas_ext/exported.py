"""Derivatives of the operators themselves, for graphs that hold them without the autograd functions: exported programs.

Within cas_ext the operators are called below autograd (`ops.below_autograd`), so nothing here runs but in such a graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .autograd import Options, terms
from .moments import RegionAffineFunction, Regions
from .transforms import call


def _keep_moments(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, target, num_regions, ignore_index, validate, activation = inputs
    count, mean, _ = output
    ctx.regions = Regions(num_regions, ignore_index, validate, activation, None)
    ctx.mark_non_differentiable(count)
    ctx.save_for_backward(input, target, count, mean)


def _accumulate_backward(ctx: Any, _: Any, of_mean: Tensor, of_scatter: Tensor) -> tuple[Tensor | None, ...]:
    input, target, count, mean = ctx.saved_tensors
    return call(RegionAffineFunction, input, target, of_mean, of_scatter, count, mean, ctx.regions), *(None,) * 5


def _keep_coefficients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    count, mean, scatter, alpha, pairs, _ = inputs
    ctx.options = Options(alpha, pairs, "none", return_terms=True)
    ctx.mark_non_differentiable(*output[3:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[3:], count, mean, scatter)


def _finalise_backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """By the chain rule, from the coefficients: scale_i (s - center_i) + offset_i is dCAS/ds, 2 dCAS/dscatter_i (s - mean_i)
    + dCAS/dmean_i / n_i too.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "cas_ext: an exported program has first derivatives only; for others call cas_ext.cas_loss itself"
        )
    *tables, scatter = ctx.saved_tensors
    count, mean = tables[3:]
    of_mean, of_scatter = torch.zeros_like(mean), torch.zeros_like(scatter)
    for weight, (sign, coefficients, _) in zip(gradients, terms([*tables, scatter], ctx.options), strict=False):
        if weight is None:
            continue
        scale, center, offset = (table.double() for table in coefficients)
        factor = sign * weight.double()[:, None]
        of_mean += factor[:, :, None] * count[:, :, None] * (offset + scale[:, :, None] * (mean - center))
        of_scatter += factor * scale / 2
    return None, of_mean, of_scatter, None, None, None


torch.library.register_autograd("cas_ext::accumulate", _accumulate_backward, setup_context=_keep_moments)
torch.library.register_autograd("cas_ext::finalise", _finalise_backward, setup_context=_keep_coefficients)
