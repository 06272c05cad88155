"""The equations in plain PyTorch: the oracle of tests, benchmarks and documentation.

Nothing here is fast. Every operation is an ordinary differentiable PyTorch operation, so any order of derivative
follows from autograd. Run it in float64 to judge something else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Per-region moments: count (B, N), mean (B, N, M), scatter (B, N)."""

    count: Tensor  # type: ignore[assignment]  # a field named like a method of tuple
    mean: Tensor
    scatter: Tensor


def region_moments(
    input: Tensor,
    target: Tensor,
    num_regions: int,
    *,
    ignore_index: int = -100,
    activation: str | None = None,
    validate: bool | None = None,
    process_group: Any = None,
) -> Moments:
    """Count, mean and scatter (sum of squared deviations) of every region; zeros for absent regions.

    Args:
        input: (B, M, *spatial) floating-point descriptors, or logits for activation "softmax".
        target: (B, *spatial) labels in [0, num_regions) or `ignore_index`.
        validate: True raises ValueError for a label out of range; otherwise the moments of its image are NaN.
        process_group: None: the reference sees whole images.
    """
    if process_group is not None:
        raise ValueError("reference: process_group must be None, where images are whole, got a group")
    s = input.flatten(2) if input.dim() > 2 else input.unsqueeze(2)  # (B, M, P)
    labels = target.reshape(target.shape[0], 1, s.shape[2]).to(torch.int64)
    inside = labels == torch.arange(num_regions, device=target.device).reshape(1, -1, 1)
    inside = inside & (labels != ignore_index)
    used = inside.any(1, keepdim=True)
    outside = (~used & (labels != ignore_index)).flatten(1).any(1)  # (B,)
    if validate and bool(outside.any()):
        raise ValueError(
            f"reference: target must lie in [0, {num_regions}), got others in {outside.nonzero()[:, 0].tolist()}"
        )
    s = torch.where(used, s, torch.zeros_like(s))  # whatever ignored pixels hold
    if activation == "softmax":
        s = s.softmax(1)
    member = inside.to(s.dtype)  # (B, N, P), one-hot
    count = member.sum(2)
    size = count.clamp(min=1)[:, :, None]
    mean = torch.einsum("bnp,bmp->bnm", member, s) / size
    # What rounding took from a sum of many, alike pixels above all, is the mean of the deviations.
    mean = mean + torch.einsum("bnp,bmp->bnm", member, s - torch.einsum("bnp,bnm->bmp", member, mean)) / size
    deviation = s - torch.einsum("bnp,bnm->bmp", member, mean)
    scatter = torch.einsum("bnp,bp->bn", member, deviation.square().sum(1))
    poison = torch.where(outside, torch.nan, 0.0).to(s.dtype)
    return Moments(count, mean + poison[:, None, None], scatter + poison[:, None])


def pair_distances(mean: Tensor, distance: str = "sqeuclidean") -> Tensor:
    """The distances (B, N, N) between means (B, N, M). At distance 0 a root has no derivative: it contributes 0."""
    squared = (mean[:, :, None] - mean[:, None, :]).square().sum(3)
    if distance == "sqeuclidean":
        return squared
    zero = squared == 0
    distances = torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())
    return distances.log1p() if distance == "log" else distances


def loss_terms(moments: Moments, *, pairs: str = "ordered", distance: str = "sqeuclidean") -> tuple[Tensor, Tensor]:
    """The two terms of Eq. 1 per image: uniformer (B,) and discriminator (B,), without their weights."""
    count, mean, scatter = moments
    present = (count > 0).to(mean.dtype)  # (B, N)
    regions = present.sum(1)  # regions present in each image
    uniformer = (scatter / count.clamp(min=1).to(mean.dtype)).sum(1)
    both = present[:, :, None] * present[:, None, :]
    discriminator = (both * pair_distances(mean, distance)).sum((1, 2))
    if pairs == "unordered":
        discriminator = discriminator / 2
    elif pairs == "mean":
        discriminator = discriminator / (regions - 1).clamp(min=1)
    return uniformer, discriminator


def _reduce(per_image: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return per_image
    divisor = max(per_image.numel(), 1) if reduction == "mean" else 1
    return per_image.sum() / divisor


def cas_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    num_regions: int | None = None,
    ignore_index: int = -100,
    pairs: str = "ordered",
    distance: str = "sqeuclidean",
    activation: str | None = None,
    reduction: str = "mean",
    return_terms: bool = False,
    validate: bool | None = None,
    process_group: Any = None,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Eq. 1 of Sharma et al. (2021); the signature and meaning of `cas_ext.cas_loss`, computed in `input.dtype`.

    `validate` and `process_group` are those of `region_moments` above.
    """
    if num_regions is None:
        labels = target.to(torch.int64)  # a comparison in uint8 would wrap the ignore_index
        kept = labels[labels != ignore_index]
        num_regions = max(int(kept.max()), 0) + 1 if kept.numel() else 1
    moments = region_moments(
        input,
        target,
        num_regions,
        ignore_index=ignore_index,
        activation=activation,
        validate=validate,
        process_group=process_group,
    )
    uniformer, discriminator = loss_terms(moments, pairs=pairs, distance=distance)
    loss = alpha * uniformer - (1 - alpha) * discriminator
    loss, uniformer, discriminator = (_reduce(term, reduction) for term in (loss, uniformer, discriminator))
    return (loss, uniformer, discriminator) if return_terms else loss
