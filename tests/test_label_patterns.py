"""Moments of masks whose runs of equal labels are short or long, of few regions or many: each way of summing pixels."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from devices import on_devices

import cas_ext

IGNORED = -100
PIXELS = 8192 + 517  # a whole tile of the CPU kernels where channels are many, and a part of one
LONG = 32768 + PIXELS  # a whole tile where they are few, and parts of one


def runs(length, regions, seed=0, pixels=PIXELS):
    """(pixels) labels in runs of `length` pixels on average, a tenth of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 2 * length, (pixels,), generator=generator)
    labels = torch.randint(regions, (pixels,), generator=generator)
    labels[torch.rand(pixels, generator=generator) < 0.1] = IGNORED
    return labels.repeat_interleave(lengths)[:pixels]


def few_then_many():
    """Ten labels in a stretch before 400 others: taken together, the former have too many pixels for sums of rows."""
    generator = torch.Generator().manual_seed(1)
    few = torch.randint(10, (512,), generator=generator)
    return torch.cat([few, torch.randperm(400, generator=generator), runs(1, 400)])[:PIXELS]


def one_often_others_once():
    labels = torch.arange(PIXELS) % 4096
    labels[torch.rand(PIXELS, generator=torch.Generator().manual_seed(2)) < 0.4] = 7
    return labels


def ever_new_regions():
    """As many parts of runs as there may be: the first pixels of a region are summed apart, and so are the next."""
    lengths = torch.tensor([5] * 13 + [21] * 3).repeat(PIXELS // 128 + 1)
    return torch.arange(len(lengths)).repeat_interleave(lengths)[:PIXELS]


def seven_pixels_of_each():
    """The same, of sorted pixels."""
    return (torch.arange(PIXELS) // 7)[torch.randperm(PIXELS, generator=torch.Generator().manual_seed(4))]


PATTERNS = {
    f"{n} regions, runs of {length}": runs(length, n)
    for n in (2, 3, 5, 20, 50, 100, 300, 3000)
    for length in (1, 4, 12, 22, 90)
}
PATTERNS |= {
    f"{n} regions, none ignored": torch.randint(n, (PIXELS,), generator=torch.Generator().manual_seed(n))
    for n in (32, 33, 64, 65, 128, 129)  # where the way of looking coefficients up changes
}
PATTERNS |= {"few, then many": few_then_many(), "one often, others once": one_often_others_once()}
PATTERNS |= {"ever new regions": ever_new_regions(), "seven pixels of each": seven_pixels_of_each()}
LONG_PATTERNS = {
    f"{n} regions, runs of {length}, long": runs(length, n, pixels=LONG)
    for n in (2, 60, 1000)
    for length in (1, 12, 90)
}
CASES = [(name, channels) for name in PATTERNS for channels in (1, 3, 5, 8, 9, 21, 40)]
CASES += [("20 regions, runs of 1", 300), ("few, then many", 300)]  # so many that sums of rows are merged more often
CASES += [(name, channels) for name in LONG_PATTERNS for channels in (1, 2, 9)]
PATTERNS |= LONG_PATTERNS


@cache
def case(name, channels):
    """Descriptors that every dtype holds exactly, labels, and the reference's moments."""
    labels = PATTERNS[name]
    generator = torch.Generator().manual_seed(3)
    input = torch.randn(1, channels, len(labels), 1, generator=generator).bfloat16()
    target = labels[None, :, None].to(torch.int32)
    regions = int(labels.max()) + 1
    return input, target, cas_ext.reference.region_moments(input.double(), target, regions, ignore_index=IGNORED)


def of_pixels(by_region, target):
    """(1, N, M) -> (1, M, P, 1): each pixel takes its region's row, 0 where it is ignored."""
    rows = by_region[0][target.flatten().clamp(min=0).long()]
    return torch.where(target == IGNORED, 0.0, rows.T[None, :, :, None])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("name", "channels"), CASES)
@on_devices("cpu", "cuda")
def test_moments_and_their_gradients(device, name, channels, layout):
    input, target, expected = case(name, channels)
    regions = expected.count.shape[1]
    generator = torch.Generator().manual_seed(4)
    upstream = [torch.rand(like.shape, generator=generator, dtype=torch.float64) for like in expected[1:]]
    centered = input - of_pixels(expected.mean, target)
    pull = of_pixels(upstream[0] / expected.count.clamp(min=1)[..., None], target)
    gradient = 2 * of_pixels(upstream[1][..., None], target) * centered + pull
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        stored = input.to(device.torch_device, dtype, copy=True).contiguous(memory_format=layout).requires_grad_()
        found = cas_ext.region_moments(stored, target.to(device.torch_device), regions, ignore_index=IGNORED)
        assert torch.equal(found.count.cpu(), expected.count)
        torch.testing.assert_close(found.mean.cpu().double(), expected.mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found.scatter.cpu().double(), expected.scatter, rtol=1e-6, atol=1e-7)
        by_found = [term.to(like) for term, like in zip(upstream, found[1:], strict=True)]
        (by_input,) = torch.autograd.grad(found[1:], stored, by_found)
        rounding = torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-6
        torch.testing.assert_close(by_input.cpu().double(), gradient, rtol=rounding, atol=2e-6)
