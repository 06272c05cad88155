"""The equations in plain PyTorch: the oracle of tests, benchmarks and documentation.

Nothing here is fast. Every operation is an ordinary differentiable PyTorch operation, so any order of derivative
follows from autograd. Run it in float64 to judge something else. It shares the checks of arguments with the rest of cas_ext, and
nothing else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checks


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
        input: (B, M, *spatial) descriptors, or logits for activation "softmax"; float16, bfloat16, float32 or float64, any
            device.
        target: (B, *spatial) labels in [0, num_regions) or `ignore_index`; bool, uint8, int8, int16, int32 or int64.
        num_regions: the bound N on the labels.
        ignore_index: pixels with this label take no part.
        activation: None, or "softmax" over channels.
        validate: as for `cas_ext.cas_loss`: whether a label out of range raises anywhere but on the CPU, where it always
            does. Otherwise, and where no label can be read (torch.func, torch.compile), the moments of its image are NaN.
        process_group: None: the reference sees whole images.

    Returns:
        Moments: count (B, N), mean (B, N, M) and scatter (B, N), all of `input.dtype`.

    Raises:
        TypeError, ValueError: as `cas_ext.region_moments`.
    """
    bound, ignore_index = _check(
        "reference.region_moments", input, target, num_regions, ignore_index, activation, validate, process_group
    )
    if bound is None:
        raise TypeError("reference.region_moments: num_regions must be an int, got None")
    _check_labels("reference.region_moments", target, bound, ignore_index, validate)
    return _moments(input, target, bound, ignore_index, activation)


def _check(
    function: str,
    input: Tensor,
    target: Tensor,
    num_regions: int | None,
    ignore_index: int,
    activation: str | None,
    validate: bool | None,
    process_group: object,
) -> tuple[int | None, int]:
    """The checks of cas_ext's own functions, but for those of kernels; num_regions and ignore_index as Python's ints."""
    checks.check_tensors(function, input, target, kernels=False)
    checked = checks.check_region_options(function, num_regions, ignore_index, activation, validate, process_group)
    if process_group is not None:
        raise ValueError(f"{function}: process_group must be None, where images are whole, got a group")
    return checked


def _check_labels(function: str, target: Tensor, num_regions: int, ignore_index: int, validate: bool | None) -> None:
    """As the kernels check them: on the CPU always, elsewhere if asked to."""
    asked = checks.resolve_validate(validate)
    if not asked and (target.device.type != "cpu" or torch.compiler.is_compiling()):
        return
    outside = _outside(target, num_regions, ignore_index)
    try:
        images = outside.nonzero()[:, 0].tolist()
    except RuntimeError:  # no label can be read: under vmap, in a trace
        if asked:
            raise
        return
    if images:
        raise ValueError(
            f"{function}: target must lie in [0, num_regions) = [0, {num_regions}) or be ignore_index = {ignore_index}, "
            f"got others in images {images}"
        )


def _outside(target: Tensor, num_regions: int, ignore_index: int) -> Tensor:
    """(B,) bool: images with a label out of range."""
    labels = target.reshape(target.shape[0], target.shape[1:].numel()).to(torch.int64)
    return ((labels != ignore_index) & ((labels < 0) | (labels >= num_regions))).any(1)


def _moments(input: Tensor, target: Tensor, num_regions: int, ignore_index: int, activation: str | None) -> Moments:
    """`region_moments` without its checks: a label out of range makes the moments of its image NaN."""
    s = input.flatten(2) if input.dim() > 2 else input.unsqueeze(2)  # (B, M, P)
    labels = target.reshape(target.shape[0], 1, s.shape[2]).to(torch.int64)
    inside = labels == torch.arange(num_regions, device=target.device).reshape(1, -1, 1)
    inside = inside & (labels != ignore_index)
    s = torch.where(inside.any(1, keepdim=True), s, torch.zeros_like(s))  # whatever ignored pixels hold
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
    poison = torch.where(_outside(target, num_regions, ignore_index), torch.nan, 0.0).to(s.dtype)
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

    Args:
        input: (B, M, *spatial) descriptors or logits, target: (B, *spatial) labels; dtypes as for `cas_ext.cas_loss`, any
            device.
        validate, process_group: those of `region_moments` above. The other options are those of `cas_ext.cas_loss`.

    Returns:
        A scalar, or (B,) for reduction "none", of `input.dtype`; three of them with `return_terms`.

    Raises:
        TypeError, ValueError: as `cas_ext.cas_loss`.
    """
    function = "reference.cas_loss"
    alpha = checks.check_loss_options(function, alpha, pairs, distance, reduction, return_terms)
    bound, ignore_index = _check(
        function, input, target, num_regions, ignore_index, activation, validate, process_group
    )
    if bound is None:
        bound = _infer_num_regions(function, target, ignore_index)
    _check_labels(function, target, bound, ignore_index, validate)
    return unchecked_loss(
        input,
        target,
        bound,
        alpha=alpha,
        ignore_index=ignore_index,
        pairs=pairs,
        distance=distance,
        activation=activation,
        reduction=reduction,
        return_terms=return_terms,
    )


def _infer_num_regions(function: str, target: Tensor, ignore_index: int) -> int:
    if target.numel() == 0:
        return 1
    labels = target.to(torch.int64)  # a comparison in uint8 would wrap the ignore_index
    highest = torch.where(labels == ignore_index, 0, labels).max()
    return max(checks.read_highest(function, highest, target.numel()), 0) + 1


def unchecked_loss(
    input: Tensor,
    target: Tensor,
    num_regions: int,
    *,
    alpha: float = 0.5,
    ignore_index: int = -100,
    pairs: str = "ordered",
    distance: str = "sqeuclidean",
    activation: str | None = None,
    reduction: str = "mean",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """`cas_loss` without its checks, to be timed or compiled; a label out of range makes the loss of its image NaN."""
    moments = _moments(input, target, num_regions, ignore_index, activation)
    uniformer, discriminator = loss_terms(moments, pairs=pairs, distance=distance)
    loss = alpha * uniformer - (1 - alpha) * discriminator
    loss, uniformer, discriminator = (_reduce(term, reduction) for term in (loss, uniformer, discriminator))
    return (loss, uniformer, discriminator) if return_terms else loss
