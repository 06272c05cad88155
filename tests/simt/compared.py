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


def assert_differences_close(mean: Tensor, expected: Tensor) -> None:
    """Of the means of an image's regions, all of them present but IGNORED: from each other, not from 0."""
    present = [i for i in range(mean.shape[1]) if i != IGNORED]
    apart, wanted = (m[0, present] - m[0, present].mean(0) for m in (mean.double(), expected))
    assert float((apart.square().sum() - wanted.square().sum()).abs() / wanted.square().sum()) < 1e-6
    assert error(apart, wanted) < 1e-6


def one_block(pixels: int, channels: int, regions: int = 6) -> tuple[Tensor, Tensor]:
    """An image of one block, as long as tables of so many images do not fit; labels 0, 2, 3, ... in runs of 50."""
    random = torch.Generator().manual_seed(pixels)
    input = torch.rand(1, channels, pixels, generator=random)
    target = (torch.arange(pixels) // 50 % (regions - 1))[None]
    return input, torch.where(target >= IGNORED, target + 1, target)


def drifting(channels: int, shift: float) -> tuple[Tensor, Tensor]:
    """A region whose values rise from its first to its last pixel, far more than they scatter, and one that jumps."""
    pixels = 4096
    input = (
        1e-3 * torch.randn(1, channels, pixels, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + shift
    )
    target = torch.zeros(1, pixels, dtype=torch.uint8)
    target[0, 1000:3000:2] = 2
    input[0, :, :] += torch.linspace(0, 1, pixels)
    input[0, :, target[0] == 2] += torch.where(torch.arange(1000) < 40, 0.0, 7.0)
    return input, target
