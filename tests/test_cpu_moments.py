"""Moments on the CPU, of every type of 32 bits or fewer: as exact as those of the float64 reference, wherever values
nearly cancel.

Short runs, long ones, masks of two regions, one region and labels in no order take kernels of their own; so do few
channels, and bfloat16, whose values and squares some processors sum as they are, without a value to be about.
"""

from __future__ import annotations

import pytest
import torch

import cas_ext
from cas_ext import reference

PIXELS = 40_011  # a whole tile, whole blocks, whole vectors, and a rest
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


def outlier_first(channels: int) -> torch.Tensor:
    """Its square is what the scatter of its region is made of; about it, all others would be as far off."""
    values = 1e-2 * random(channels)
    values[:, :, 0] = 1e4
    return values


def far_later(channels: int) -> torch.Tensor:
    """What comes first says nothing of what follows."""
    return random(channels) + 1000 * (torch.arange(PIXELS) > 12_000)


INPUTS = [neighbours_of_one, constant_beside_small, confident, far_from_zero, random, outlier_first, far_later]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 13])
@pytest.mark.parametrize("mask", TARGETS)
@pytest.mark.parametrize("values", INPUTS)
def test_moments_are_those_of_the_reference(values, mask, channels, dtype):
    input, target = values(channels).to(dtype), TARGETS[mask].expand(1, -1)
    regions = int(target.max()) + 1
    moments = cas_ext.region_moments(input, target, regions)
    expected = reference.region_moments(input.double(), target, regions)
    # The contract is 1e-6. bfloat16, whose squares are exact, does better, but where a mean follows values far away; and
    # a mean is as good as its values are near each other.
    far = values in (outlier_first, far_later)
    scatter = 5e-7 if dtype == torch.bfloat16 and not far else 1e-6
    spread = 1e4 if values is outlier_first else 0.0
    torch.testing.assert_close(moments.mean.double(), expected.mean, rtol=2e-7, atol=5e-9 * spread)
    torch.testing.assert_close(moments.scatter.double(), expected.scatter, rtol=scatter, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 2, 4, 8, 13])
@pytest.mark.parametrize("mask", TARGETS)
def test_values_whose_square_no_float_holds_keep_their_mean(mask, channels, dtype):
    input, target = random(channels).to(dtype), TARGETS[mask].expand(1, -1)
    regions = int(target.max()) + 1
    plain = cas_ext.region_moments(input, target, regions)
    input[:, -1] = large = 2.0**100
    moments = cas_ext.region_moments(input, target, regions)
    assert (moments.mean[:, :, -1] == large).all()
    torch.testing.assert_close(moments.mean[:, :, :-1], plain.mean[:, :, :-1], rtol=2e-7, atol=0)
    assert (moments.scatter <= plain.scatter + 1e-25 * large**2).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("mask", TARGETS)
def test_a_region_that_is_not_finite_leaves_the_others_as_they_were(mask, channels, dtype):
    input, target = random(channels).to(dtype), TARGETS[mask].expand(1, -1)
    regions = int(target.max()) + 1
    expected = cas_ext.region_moments(input, target, regions)
    input[0, 3, 10_000] = torch.inf
    moments = cas_ext.region_moments(input, target, regions)
    hit = torch.arange(regions) == target[0, 10_000]
    assert torch.isinf(moments.mean[0, hit, 3]).all() and not torch.isfinite(moments.scatter[0, hit]).any()
    assert torch.equal(moments.mean[0, ~hit], expected.mean[0, ~hit])
    torch.testing.assert_close(moments.scatter[0, ~hit], expected.scatter[0, ~hit], rtol=2e-7, atol=0)
