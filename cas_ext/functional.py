"""The public functions: argument checks, then the functions of autograd.py, moments.py and distances.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from . import checks, ops
from .autograd import CASLossFunction, Options
from .distances import moment_loss
from .moments import RegionMomentsFunction, Regions
from .transforms import call

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class RegionMoments(NamedTuple):
    """Moments of every region of every image; zeros where a region is absent.

    count: (B, N) int64, pixels. mean: (B, N, M). scatter: (B, N), the sum over pixels of |s(x) - mean|^2.
    """

    count: Tensor  # type: ignore[assignment]  # a field named like a method of tuple
    mean: Tensor
    scatter: Tensor


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
    process_group: ProcessGroup | None = None,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Class-agnostic segmentation loss, Eq. 1 of Sharma et al. (2021).

    For one image with regions r_i, their means m_i and sizes n_i::

        loss = alpha * sum_i (1/n_i) sum_{x in r_i} |s(x) - m_i|^2  -  (1 - alpha) * sum_{i != j} |m_i - m_j|^2
                       (uniformer: low variance in a region)                 (discriminator: distant means)

    Only regions that are present count, so a permutation of the labels changes nothing. Differentiable in `input` to
    any order, in reverse and forward mode; the gradient is Eq. 2. Results are bitwise reproducible on one device.

    Args:
        input: (B, M, *spatial) descriptors s, e.g. softmax outputs, or logits (see `activation`); float16, bfloat16,
            float32 or float64, CPU or CUDA. The batch dimension B is required: a single image is `input[None]`. There
            may be any number of spatial dimensions. Contiguous and channels_last(_3d) tensors are read in place, other
            strides are copied once. Of unbounded descriptors the loss with the squared distance falls without limit as
            they grow: take a softmax, or another distance.
        target: (B, *spatial) region labels in [0, num_regions) or `ignore_index`, without a channel dimension; bool,
            uint8, int8, int16, int32 or int64, on the device of `input`. Small types are faster: labels are read as
            they are.
        alpha: weight of the uniformer, a real number in [0, 1]; the discriminator has 1 - alpha.
        num_regions: a bound N on the labels, in [1, 2**31 - 1]; memory is O(B N M). None takes max label + 1: it reads one
            number back from a GPU and breaks the graph of torch.compile. It is an error where no label can be read (under
            vmap, for meta tensors, in torch.export and torch.compile(fullgraph=True)), and where N would exceed both the
            number of pixels and 2**20: such labels are ids, which `cas_ext.compact_regions` renumbers.
        ignore_index: pixels with this label take no part and get gradient 0.
        pairs: "ordered" sums over i != j (Eq. 1), "unordered" counts each pair once, "mean" divides by the number of
            regions - 1, so that the term does not grow with the square of the number of regions.
        distance: between the means in the discriminator: "sqeuclidean" |m_i - m_j|^2 (Eq. 1), "euclidean"
            |m_i - m_j|, or "log" log(1 + |m_i - m_j|). The last two push regions of nearly one code apart, where the
            square hardly does; means that coincide exactly contribute no gradient.
        activation: None, or "softmax": `input` holds logits, and s is their softmax over channels, computed within the
            passes in float32 (float64 for float64 input). The gradient is that of the logits.
        reduction: over images: "mean", "sum" or "none".
        return_terms: return (loss, uniformer, discriminator), all reduced alike and all differentiable; the terms are
            not multiplied by their weights.
        validate: whether a label out of range on CUDA raises, which costs a host sync, instead of making the loss of
            its image NaN. None: as the environment variable CAS_EXT_VALIDATE says (0, 1, false, true, no or yes; unset or
            empty: no). On the CPU it always raises.
        process_group: the torch.distributed group over whose processes the pixels of the same B images are split; each
            process passes its part, of any size. Every process gets the loss of the whole images, and the gradient of
            that loss by its own pixels: the parameter gradients of the processes are to be summed.
            DistributedDataParallel averages them, so multiply the loss by the size of the group there. Needs
            num_regions; not for torch.compile.

    Returns:
        A scalar, or (B,) for reduction "none", float32 (float64 for float64 input). The uniformer is in squared units of
        s, the discriminator in those of `distance`.

    Raises:
        TypeError: for a wrong type or dtype.
        ValueError: for wrong shapes, devices, values, or labels out of range.
    """
    checks.check_tensors("cas_loss", input, target)
    alpha = checks.check_loss_options("cas_loss", alpha, pairs, distance, reduction, return_terms)
    num_regions, ignore_index = checks.check_region_options(
        "cas_loss", num_regions, ignore_index, activation, validate, process_group
    )
    if num_regions is None:
        num_regions = checks.infer_num_regions(target, ignore_index)
    validate = checks.resolve_validate(validate)
    regions = Regions(num_regions, ignore_index, validate, ops.ACTIVATIONS[activation], process_group)
    options = Options(alpha, ops.PAIRS[pairs], reduction, return_terms)
    if distance == "sqeuclidean":
        results: tuple[Tensor, ...] = call(CASLossFunction, input, target, regions, options)
    else:
        results = moment_loss(input, target, regions, options, distance)
    if return_terms:
        loss, uniformer, discriminator = results[:3]
        return loss, uniformer, discriminator
    return results[0]


def region_moments(
    input: Tensor,
    target: Tensor,
    num_regions: int,
    *,
    ignore_index: int = -100,
    activation: str | None = None,
    validate: bool | None = None,
    process_group: ProcessGroup | None = None,
) -> RegionMoments:
    """Count, mean and scatter of every region, in one pass; for losses of your own on region statistics.

    Differentiable in `mean` and `scatter` to any order, each derivative again in one pass over the pixels.

    Args:
        input: (B, M, *spatial) descriptors, as for `cas_loss`.
        target: (B, *spatial) region labels in [0, num_regions) or `ignore_index`, as for `cas_loss`.
        num_regions: the bound N on the labels.
        ignore_index: pixels with this label take no part.
        activation: as for `cas_loss`: with "softmax", the moments are those of the softmax of `input`.
        validate: as for `cas_loss`.
        process_group: as for `cas_loss`: every process gets the moments of the whole images. The gradient is that of a
            function of the moments which every process computes alike.

    Returns:
        RegionMoments: count (B, N) int64, mean (B, N, M) and scatter (B, N), float32, or float64 for float64 input.

    Raises:
        TypeError, ValueError: as `cas_loss`.
    """
    checks.check_tensors("region_moments", input, target)
    bound, ignore_index = checks.check_region_options(
        "region_moments", num_regions, ignore_index, activation, validate, process_group
    )
    if bound is None:
        raise TypeError("region_moments: num_regions must be an int, got None")
    validate = checks.resolve_validate(validate)
    regions = Regions(bound, ignore_index, validate, ops.ACTIVATIONS[activation], process_group)
    count, mean, scatter = call(RegionMomentsFunction, input, target, regions)
    if input.dtype == torch.float64:
        return RegionMoments(count, mean, scatter)
    return RegionMoments(count, mean.float(), scatter.float())
