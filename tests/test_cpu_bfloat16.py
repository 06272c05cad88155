"""bfloat16 on the CPU, where some processors sum values and squares as they are, without a value to be about.

What is asked: moments as exact as those of the float64 reference, wherever values nearly cancel, and where a square is
more than a float holds. Runs, masks of two regions, and one region take kernels of their own; so do few planes.
"""

from __future__ import annotations

import pytest
import torch

import cas_ext
from cas_ext import reference

PIXELS = 20_011  # whole vectors, whole blocks, and a rest
TARGETS = {
    "runs": torch.arange(PIXELS) // 41 % 7,
    "short runs": torch.arange(PIXELS) // 13 % 7,
    "long runs": torch.arange(PIXELS) // 700 % 3,
    "seven, at random": torch.randint(0, 7, (PIXELS,), generator=torch.Generator().manual_seed(0)),
    "400, at random": torch.randint(0, 400, (PIXELS,), generator=torch.Generator().manual_seed(0)),
    "two, in runs": torch.arange(PIXELS) // 31 % 2,
    "two, at random": torch.randint(0, 2, (PIXELS,), generator=torch.Generator().manual_seed(0)),
    "one": torch.zeros(PIXELS, dtype=torch.long),
}


def random(channels: int) -> torch.Tensor:
    return torch.rand((1, channels, PIXELS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def neighbours_of_one(channels: int) -> torch.Tensor:
    """Below 1 a bfloat16 is half as far from the next as above."""
    return torch.tensor([0.99609375, 1.0, 1.0078125], dtype=torch.float64)[(3 * random(channels)).long()]


def constant_beside_small(channels: int) -> torch.Tensor:
    """The squares of channel 0 are 13 orders of magnitude above the scatter of the others."""
    values = 1e-4 * neighbours_of_one(channels)
    values[:, 0] = 1
    return values


def confident(channels: int) -> torch.Tensor:
    """Probabilities near 0 and 1."""
    u = random(channels)
    return torch.where(u < 0.5, 1 - 1e-3 * u, 1e-3 * u)


def far_from_zero(channels: int) -> torch.Tensor:
    return 100 + random(channels)


INPUTS = [neighbours_of_one, constant_beside_small, confident, far_from_zero, random]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 13])
@pytest.mark.parametrize("mask", TARGETS)
@pytest.mark.parametrize("values", INPUTS)
def test_moments_are_those_of_the_reference(values, mask, channels):
    input, target = values(channels).bfloat16(), TARGETS[mask].expand(1, -1)
    regions = int(target.max()) + 1
    moments = cas_ext.region_moments(input, target, regions)
    expected = reference.region_moments(input.double(), target, regions)
    torch.testing.assert_close(moments.mean.double(), expected.mean, rtol=2e-7, atol=0)
    torch.testing.assert_close(moments.scatter.double(), expected.scatter, rtol=5e-7, atol=0)


@pytest.mark.parametrize("channels", [1, 2, 4, 8, 13])
@pytest.mark.parametrize("mask", TARGETS)
def test_values_whose_square_no_float_holds_keep_their_mean(mask, channels):
    input, target = random(channels).bfloat16(), TARGETS[mask].expand(1, -1)
    regions = int(target.max()) + 1
    plain = cas_ext.region_moments(input, target, regions)
    input[:, -1] = large = 2.0**100
    moments = cas_ext.region_moments(input, target, regions)
    assert (moments.mean[:, :, -1] == large).all()
    torch.testing.assert_close(moments.mean[:, :, :-1], plain.mean[:, :, :-1], rtol=2e-7, atol=0)
    assert (moments.scatter <= plain.scatter + 1e-25 * large**2).all()


@pytest.mark.parametrize("mask", TARGETS)
def test_a_region_that_is_not_finite_leaves_the_others_as_they_were(mask):
    input, target = random(8).bfloat16(), TARGETS[mask].expand(1, -1)
    regions = int(target.max()) + 1
    expected = cas_ext.region_moments(input, target, regions)
    input[0, 3, 10_000] = torch.inf
    moments = cas_ext.region_moments(input, target, regions)
    hit = torch.arange(regions) == target[0, 10_000]
    assert torch.isinf(moments.mean[0, hit, 3]).all() and not torch.isfinite(moments.scatter[0, hit]).any()
    assert torch.equal(moments.mean[0, ~hit], expected.mean[0, ~hit])
    torch.testing.assert_close(moments.scatter[0, ~hit], expected.scatter[0, ~hit], rtol=2e-7, atol=0)
