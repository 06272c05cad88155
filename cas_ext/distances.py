"""The loss with another distance between region means: a function of the region moments, on tables only.

`DistanceFunction` gives all distances of an image; its derivatives are written with `PullFunction` and `DotFunction`, whose
derivatives are written with each other, so every order is exact. All three take differences of means explicitly, a block of
regions at a time, so that nothing cancels and nothing of N^2 M elements is ever held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import ops
from .autograd import Options, reduce
from .moments import RegionMomentsFunction, Regions
from .softmax import accumulation_dtype
from .transforms import call, save, transformable

BLOCK = 1 << 21  # elements of a block of differences: 16 MB


def _by_rows(combine: Callable[[Tensor, Tensor], Tensor], rows: Tensor, points: Tensor) -> Tensor:
    """combine(rows, m_i - m_j): rows (B, N, ...), differences (B, N, N, M) of points (B, N, M), a block of i at a time."""
    B, N, M = points.shape
    if B * N * N * M <= BLOCK:
        return combine(rows, points.unsqueeze(2) - points.unsqueeze(1))
    size = max(1, BLOCK // (B * N * M))
    blocks = (slice(first, first + size) for first in range(0, N, size))
    return torch.cat([combine(rows[:, i], points[:, i].unsqueeze(2) - points.unsqueeze(1)) for i in blocks], 1)


@transformable
class PullFunction(torch.autograd.Function):
    """sum_j w_ij (m_i - m_j): (B,N,M) from weights (B,N,N) and points (B,N,M)."""

    @staticmethod
    def forward(weights: Tensor, points: Tensor) -> Tensor:
        return _by_rows(lambda w, differences: (w.unsqueeze(3) * differences).sum(2), weights, points)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor, Tensor]:
        weights, points = ctx.saved_tensors
        return call(DotFunction, tangent, points), _pull_back(weights, tangent)

    @staticmethod
    def push(ctx: Any, of_weights: Tensor | None, of_points: Tensor | None) -> Tensor | None:
        return _bilinear_push(PullFunction, ctx, of_weights, of_points)


@transformable
class DotFunction(torch.autograd.Function):
    """<v_i, m_i - m_j>: (B,N,N) from vectors and points (B,N,M)."""

    @staticmethod
    def forward(vectors: Tensor, points: Tensor) -> Tensor:
        return _by_rows(lambda v, differences: (v.unsqueeze(2) * differences).sum(3), vectors, points)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, Tensor]:
        vectors, points = ctx.saved_tensors
        return call(PullFunction, weights, points), _pull_back(weights, vectors)

    @staticmethod
    def push(ctx: Any, of_vectors: Tensor | None, of_points: Tensor | None) -> Tensor | None:
        return _bilinear_push(DotFunction, ctx, of_vectors, of_points)


def _pull_back(weights: Tensor, vectors: Tensor) -> Tensor:
    """sum_j (w_kj v_k - w_jk v_j), the gradient of sum_ij w_ij <v_i, m_i - m_j> by m_k."""
    transposed = weights.mT
    pulled: Tensor = call(PullFunction, transposed, vectors)
    return pulled + (weights - transposed).sum(2, keepdim=True) * vectors


def _bilinear_push(function: Any, ctx: Any, of_first: Tensor | None, of_second: Tensor | None) -> Tensor | None:
    first, second = ctx.saved_tensors
    parts = []
    if of_first is not None:
        parts.append(call(function, of_first, second))
    if of_second is not None:
        parts.append(call(function, first, of_second))
    return sum(parts[1:], parts[0]) if parts else None


@transformable
class DistanceFunction(torch.autograd.Function):
    """|m_i - m_j|: (B,N,N) from points (B,N,M). At distance 0 all derivatives are 0, a subgradient."""

    @staticmethod
    def forward(points: Tensor) -> Tensor:
        return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        save(ctx, *inputs, output)

    @staticmethod
    def backward(ctx: Any, of_distance: Tensor) -> Tensor:
        points, distance = ctx.saved_tensors
        pulled: Tensor = call(PullFunction, _over(of_distance + of_distance.mT, distance), points)
        return pulled

    @staticmethod
    def push(ctx: Any, tangent: Tensor) -> Tensor:
        points, distance = ctx.saved_tensors
        dot = call(DotFunction, tangent, points)
        return _over(dot + dot.mT, distance)


def _over(numerator: Tensor, distance: Tensor) -> Tensor:
    """numerator / distance; 0, as are its derivatives, at distance 0."""
    zero = distance == 0
    return torch.where(zero, 0, numerator / torch.where(zero, 1, distance))


def _discriminator(count: Tensor, mean: Tensor, pairs: int, distance: str) -> Tensor:
    """The sum of the distances between the means of regions present, (B,) float64."""
    present = count > 0
    both = present.unsqueeze(2) & present.unsqueeze(1)
    distances = torch.where(both, call(DistanceFunction, mean), 0)
    # Row by row: a sum to one number would be split over threads.
    total = (distances.log1p() if distance == "log" else distances).sum(2).sum(1)
    if pairs == ops.PAIRS["unordered"]:
        return total / 2
    if pairs == ops.PAIRS["mean"]:
        return total / (present.sum(1) - 1).clamp(min=1)
    return total


def moment_loss(input: Tensor, target: Tensor, regions: Regions, options: Options, distance: str) -> tuple[Tensor, ...]:
    """(loss,), or (loss, uniformer, discriminator), as `CASLossFunction` returns them."""
    count, mean, scatter = call(RegionMomentsFunction, input, target, regions)
    uniformer = (scatter / count.clamp(min=1)).sum(1)
    discriminator = _discriminator(count, mean, options.pairs, distance)
    loss = options.alpha * uniformer - (1 - options.alpha) * discriminator
    terms = (loss, uniformer, discriminator) if options.return_terms else (loss,)
    dtype = accumulation_dtype(input.dtype)
    return tuple(reduce(term.to(dtype), options.reduction) for term in terms)
