"""From the channels of a trained network to masks, and a look at what the channels mean.

The CAS loss leaves open which channel shows what: `select_channel` finds the salient one on a validation set,
`adaptive_threshold` makes its map a mask, `code_usage` shows which channel each region uses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import INPUT_DTYPES, TARGET_DTYPES, wrong_dtype
from .functional import region_moments

VARIANTS = ("paper", "capped")


class CodeUsage(NamedTuple):
    """Which channel each region uses: its code, the channel with the region's largest mean.

    code: (B, N) int64, that channel, the lowest of equal ones; -1 where the region is absent or its mean is NaN.
    regions: (B, M) int64, how many regions of the image have this channel as their code.
    collapsed: (B,) int64, how many regions of the image share their code with another region of it.
    """

    code: Tensor
    regions: Tensor
    collapsed: Tensor


def _check_tensor(function: str, name: str, value: object, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {name} must be a Tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        raise wrong_dtype(function, name, dtypes, value.dtype)


@torch.no_grad()
def select_channel(probabilities: Tensor, masks: Tensor) -> int:
    """The channel whose values correlate most with the clean masks: the salient one, for all images alike.

    Pearson's correlation over all pixels of all images, so give it the whole validation set. In float64: about 24 bytes of
    memory a value. The correlation has a sign: a channel that shows the background well is the last to be selected.

    Args:
        probabilities: (B, M, *spatial) channels of B images; float16, bfloat16, float32 or float64, any device.
        masks: (B, *spatial) clean masks, nonzero on the object; bool, uint8, int8, int16, int32 or int64, same device.

    Returns:
        int in [0, M): the lowest of equally correlated channels. A channel that is constant has no correlation and is
        selected only if all are: then 0.

    Raises:
        TypeError: for a wrong type or dtype.
        ValueError: for wrong shapes or devices, NaN or infinite values, or masks that are all object or all background,
            with which nothing correlates.
    """
    _check_tensor("select_channel", "probabilities", probabilities, INPUT_DTYPES)
    _check_tensor("select_channel", "masks", masks, TARGET_DTYPES)
    if probabilities.dim() < 2 or probabilities.shape[1] == 0:
        raise ValueError(
            f"select_channel: probabilities must have shape (B, M, *spatial), got {tuple(probabilities.shape)}"
        )
    expected = (probabilities.shape[0], *probabilities.shape[2:])
    if masks.shape != expected:
        raise ValueError(f"select_channel: masks must have shape (B, *spatial) = {expected}, got {tuple(masks.shape)}")
    if masks.device != probabilities.device:
        raise ValueError(
            f"select_channel: masks must be on the device of probabilities, {probabilities.device}, got {masks.device}"
        )
    objects = (masks != 0).flatten()
    if bool(objects.all()) or not bool(objects.any()):  # both for no pixels at all
        shown = "object only" if objects.any() else "background only" if objects.numel() else "no pixels"
        raise ValueError(f"select_channel: masks must hold object and background, got {shown}")
    # The mean of a constant is rounded, so "constant" is decided by the values themselves.
    values = probabilities.transpose(0, 1).flatten(1).double()  # (M, pixels of all images)
    constant = (values.amin(1) == values.amax(1)) & values[:, 0].isfinite()
    values = values - values.mean(1, keepdim=True)
    truth = objects.double() - objects.double().mean()
    correlation = (values * truth).sum(1) / (values.norm(dim=1) * truth.norm())
    correlation = torch.where(constant, -torch.inf, correlation)
    if bool(correlation.isnan().any()):
        raise ValueError("select_channel: probabilities must have finite values and variances, got others")
    return int(correlation.argmax().item())


def adaptive_threshold(saliency: Tensor, *, variant: str = "paper") -> Tensor:
    """Makes each map S a mask, by a threshold of twice its mean.

    "paper": S > 2 mean(S), as Sharma et al. (2021) write it. The mask is empty wherever mean(S) >= 0.5, since S <= 1: in
    particular for a map that is sure of a large object.
    "capped": S >= min(2 mean(S), 1), as the field's toolkits do it. Where mean(S) >= 0.5, what is left are the pixels of
    value 1. A map of zeros is all object.

    Args:
        saliency: (B, H, W) or (B, D, H, W) maps in [0, 1], or of more dimensions; float16, bfloat16, float32 or float64,
            any device. The first dimension is the batch: a single map (H, W) is `saliency[None]`, flat ones (B, P) are
            `saliency[:, None]`.
        variant: "paper" or "capped".

    Returns:
        bool, of the shape of `saliency`, True on the object. The mean is taken in float64. A map that holds a NaN gives an
        empty mask.

    Raises:
        TypeError: for a wrong type or dtype.
        ValueError: for fewer than three dimensions, where the rows of one map could be taken for maps, or an unknown
            variant.
    """
    _check_tensor("adaptive_threshold", "saliency", saliency, INPUT_DTYPES)
    if saliency.dim() < 3:
        raise ValueError(
            f"adaptive_threshold: saliency must have shape (B, H, W) or more dimensions, of a single map saliency[None], "
            f"got {tuple(saliency.shape)}"
        )
    if not isinstance(variant, str):
        raise TypeError(f"adaptive_threshold: variant must be a string, got {type(variant).__name__}")
    if variant not in VARIANTS:
        raise ValueError(f"adaptive_threshold: variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    values = saliency.detach().double()
    threshold = 2 * values.mean(tuple(range(1, values.dim())), keepdim=True)
    if variant == "paper":
        return values > threshold
    return values >= threshold.clamp(max=1)


@torch.no_grad()
def code_usage(
    input: Tensor, target: Tensor, num_regions: int, *, ignore_index: int = -100, activation: str | None = None
) -> CodeUsage:
    """Which channel each region of a batch uses, and which regions share one: the diagnostic for collapsed codes.

    How to read it: `collapsed` should fall to 0 in training. Regions that keep sharing a code cannot be told apart, and the
    squared distance hardly parts them, since its push vanishes where two means coincide. If N regions are more than M
    channels, at least N - M + 1 must share. `regions.sum(0) == 0` marks channels that no region of the batch uses.

    Args:
        input: (B, M, *spatial) softmax outputs (or other descriptors, where the largest channel is the code), or logits (see
            `activation`); dtypes and devices as for `region_moments`, which does the work in one pass.
        target: (B, *spatial) region labels in [0, num_regions) or `ignore_index`; dtypes as for `region_moments`.
        num_regions: the bound N on the labels.
        ignore_index: pixels with this label take no part.
        activation: as for `cas_loss`: with "softmax" `input` holds logits. The mean of logits may have its maximum in
            another channel than the mean of their softmax, which is the code.

    Returns:
        CodeUsage: code (B, N), regions (B, M) and collapsed (B,), int64, without gradient.

    Raises:
        TypeError, ValueError: as `region_moments`.
    """
    count, mean, _ = region_moments(input, target, num_regions, ignore_index=ignore_index, activation=activation)
    usable = (count > 0) & ~mean.isnan().any(2)
    code = torch.where(usable, mean.argmax(2), -1)
    regions = (code.unsqueeze(2) == torch.arange(mean.shape[2], device=mean.device)).sum(1)
    collapsed = torch.where(regions > 1, regions, 0).sum(1)
    return CodeUsage(code, regions, collapsed)
