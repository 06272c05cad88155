"""Moments by an emulated kernel beside those of the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from cas_ext import reference

from . import emulated
from .specialisations import IGNORED


def accumulate(kernel: str, input: Tensor, target: Tensor, regions: int, softmax: bool = False):
    """(count, mean, scatter) by the emulated kernel, which is this one, and by the reference."""
    before = emulated.kernels().kernels_run()
    found = emulated.accumulate(input, target, regions, IGNORED, False, int(softmax))
    ran = {name for name, times in emulated.kernels().kernels_run().items() if times > before.get(name, 0)}
    assert any(kernel in name for name in ran)
    descriptors = input.double().softmax(1) if softmax else input.double()
    return found, reference.region_moments(descriptors, target, regions, ignore_index=IGNORED)


def error(found: Tensor, expected: Tensor) -> float:
    """Of the largest element; or 0, but for rounding."""
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-20))


def assert_close(found, expected) -> None:
    count, mean, scatter = found
    assert torch.equal(count, expected.count.long())
    assert error(mean, expected.mean) < 3e-7
    assert error(scatter, expected.scatter) < 1e-6


def one_block(pixels: int, channels: int, regions: int = 6) -> tuple[Tensor, Tensor]:
    """An image of one block, as long as tables of so many images do not fit; labels 0, 2, 3, ... in runs of 50."""
    random = torch.Generator().manual_seed(pixels)
    input = torch.rand(1, channels, pixels, generator=random)
    target = (torch.arange(pixels) // 50 % (regions - 1))[None]
    return input, torch.where(target >= IGNORED, target + 1, target)
