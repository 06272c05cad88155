"""compact_regions: arbitrary region ids become the labels that the kernels index with."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import TARGET_DTYPES, as_int, wrong_dtype

IGNORED = -100  # in the result; the default ignore_index of cas_loss
# Not int8: some images of a data set would have it and others not, and a loader's worker stacks into the dtype of the first.
RESULT_DTYPES = (torch.int16, torch.int32, torch.int64)


def compact_regions(
    target: Tensor, *, ignore_index: int | tuple[int, ...] | list[int] | set[int] | frozenset[int] = IGNORED
) -> tuple[Tensor, int]:
    """Renumbers the regions of every image 0, 1, ..., for masks whose ids are not labels: 0/255, instances, negatives.

    Within an image, the ids that occur become 0..n-1 in ascending order; the next image starts at 0 again. Equal ids of two
    images need not get equal labels: the CAS loss compares regions of one image only. A pixel with an ignored id
    becomes -100, which `cas_loss` ignores by default, whichever of several ignored ids it had::

        target, num_regions = cas_ext.compact_regions(masks, ignore_index=255)
        loss = cas_ext.cas_loss(input, target, num_regions=num_regions)

    One sort of each image's pixels; memory is O(pixels), whatever the ids are. On CUDA the call waits for the GPU once, to
    read `num_regions`; under torch.compile that read is a graph break, so call it on the data, outside the compiled step.

    Args:
        target: (B, *spatial) region ids; bool, uint8, int8, int16, int32 or int64, any device, any strides.
        ignore_index: the id, or a tuple, list or set of ids, whose pixels take no part; an empty one ignores nothing. Ids
            that `target`'s dtype cannot hold ignore nothing either.

    Returns:
        target: (B, *spatial), contiguous, labels in [0, num_regions) or -100, on the same device. int16, since small labels
            are read faster; int32 beyond 32768 regions, int64 beyond 2**31. Where some images have more than 32768 regions
            the dtype thus depends on the image. If such images are compacted one by one, convert all of them
            (`target.to(torch.int32)`): a worker of a DataLoader stacks into the dtype of the first and wraps the labels
            of the others.
        num_regions: int, the largest number of regions of any image, at least 1; ready for `cas_loss(num_regions=...)`.

    Raises:
        TypeError: for a wrong type or dtype.
        ValueError: for a target without a batch dimension or without values, or an id beyond 64 bits.
    """
    _check_target(target)
    ignored_ids = _ignored_ids(ignore_index)
    B, shape = target.shape[0], target.shape
    ids = target.reshape(B, shape[1:].numel())
    if ids.numel() == 0:
        return torch.empty(shape, dtype=RESULT_DTYPES[0], device=target.device), 1
    if ids.dtype == torch.bool:
        ids = ids.view(torch.uint8)  # bool does not sort everywhere
    bounds = torch.iinfo(ids.dtype)

    # In ascending order a region starts where the id changes; its label is the number of starts before it.
    ids, place = ids.sort(dim=1)
    starts = torch.ones_like(ids, dtype=torch.bool)
    torch.ne(ids[:, 1:], ids[:, :-1], out=starts[:, 1:])
    ignored = torch.zeros_like(starts)
    for ignored_id in ignored_ids:
        if bounds.min <= ignored_id <= bounds.max:  # else the comparison would wrap
            ignored |= ids == ignored_id
    starts &= ~ignored
    labels = starts.cumsum(dim=1)
    num_regions = max(1, int(labels[:, -1].max().item()))
    dtype = next(d for d in RESULT_DTYPES if num_regions - 1 <= torch.iinfo(d).max)
    sorted_labels = (labels - 1).to(dtype).masked_fill_(ignored, IGNORED)
    return torch.empty_like(sorted_labels).scatter_(1, place, sorted_labels).reshape(shape), num_regions


def _check_target(target: object) -> None:
    if not isinstance(target, Tensor):
        raise TypeError(f"compact_regions: target must be a Tensor, got {type(target).__name__}")
    if target.layout != torch.strided:
        raise TypeError(f"compact_regions: target must be a dense tensor, got layout {target.layout}")
    if target.dtype not in TARGET_DTYPES:
        raise wrong_dtype("compact_regions", "target", TARGET_DTYPES, target.dtype)
    if target.dim() < 1:
        raise ValueError("compact_regions: target must have shape (B, *spatial), got ()")
    if target.device.type == "meta":
        raise ValueError("compact_regions: target must hold values, got a tensor on the meta device")


def _ignored_ids(ignore_index: object) -> set[int]:
    """The ids to ignore, checked."""
    given = ignore_index if isinstance(ignore_index, (tuple, list, set, frozenset)) else (ignore_index,)
    try:
        ids = {as_int("", "", value) for value in given}
    except TypeError:
        raise TypeError(
            f"compact_regions: ignore_index must be an int or a tuple, list or set of ints, got {ignore_index!r}"
        ) from None
    for value in ids:
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"compact_regions: ignore_index must fit 64 bits, got {value}")
    return ids
