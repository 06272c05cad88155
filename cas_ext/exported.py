"""Derivatives of the operators themselves, for graphs that hold them without the autograd functions: exported programs.

Within cas_ext the operators are called below autograd (`ops.below_autograd`), so nothing here runs but in such a graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import ops
from .autograd import CASLossFunction, Options
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


def _keep_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, target, num_regions, ignore_index, validate, activation, alpha, pairs, reduction = inputs
    ctx.regions = Regions(num_regions, ignore_index, validate, activation, None)
    names = {number: name for name, number in ops.REDUCTIONS.items()}
    ctx.options = Options(alpha, pairs, names[reduction], return_terms=True)
    ctx.mark_non_differentiable(*output[3:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(input, target, *output[3:])


def _forward_backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    return CASLossFunction.backward(ctx, *gradients)[0], *(None,) * 8


torch.library.register_autograd("cas_ext::accumulate", _accumulate_backward, setup_context=_keep_moments)
torch.library.register_autograd("cas_ext::forward", _forward_backward, setup_context=_keep_loss)
