"""The kernels behind a softmax: right for any number of channels, for huge and infinite logits and for confident pixels."""

import math

import pytest
import torch

from cas_ext import reference
from simt import emulated

from .specialisations import DTYPES, IGNORED

SOFTMAX = 1  # enum Activation
CHANNELS = (1, 2, 4, 5, 13, 21, 64, 100, 200)
LAYOUTS = pytest.mark.parametrize("interleaved", [False, True], ids=["planar", "interleaved"])
# Relative to the largest element. Probabilities carry two or three roundings of float32 (half types: the same; their
# gradient is rounded once more) or float64.
MOMENTS = {torch.float16: 1e-6, torch.bfloat16: 1e-6, torch.float32: 1e-6, torch.float64: 1e-13}
GRADIENT = {torch.float16: 1e-3, torch.bfloat16: 5e-3, torch.float32: 3e-6, torch.float64: 1e-13}

REFERENCE_ROUNDING = 1e-28  # of a scatter that should be 0: some hundred pixels, 2**-53 each, squared


@pytest.fixture(autouse=True)
def natural_order():
    emulated.kernels().seed(0)


def random_logits(channels, size, dtype=torch.float32, spread=3.0, interleaved=False):
    random = torch.Generator().manual_seed(channels)
    z = (spread * torch.randn(2, channels, *size, generator=random, dtype=torch.float64)).to(dtype)
    return z.to(memory_format=torch.channels_last) if interleaved else z


def random_target(regions, size):
    """Labels, about a fifth of them IGNORED where there are several."""
    labels = torch.randint(0, regions + regions // 4 + 1, (2, *size), generator=torch.Generator().manual_seed(regions))
    return torch.where(labels >= regions, IGNORED, labels).to(torch.int16)


def coefficients(z, target, regions):
    count, mean, scatter = emulated.accumulate(z, target, regions, IGNORED, False, SOFTMAX)
    return emulated.finalise(count, mean, scatter, 0.3, 0, z.dtype == torch.float64)


def apply(z, target, scale, center, offset):
    weight = torch.ones(2, dtype=scale.dtype)
    return emulated.apply(z, target, weight, False, scale, center, offset, IGNORED, SOFTMAX)


def gradient(z, target, regions):
    return apply(z, target, *coefficients(z, target, regions)[3:])


def expected_gradient(z, target, regions):
    leaf = z.double().requires_grad_()
    loss = reference.cas_loss(
        torch.softmax(leaf, 1), target, alpha=0.3, num_regions=regions, ignore_index=IGNORED, reduction="sum"
    )
    return torch.autograd.grad(loss, leaf)[0]


def assert_close(found, expected, tolerance, floor=0.0):
    error, largest = (found.double() - expected).abs().max(), expected.abs().max()
    assert error <= tolerance * largest + floor, f"error {float(error):.3g}, largest {float(largest):.3g}"


def assert_right(z, target, regions):
    """Moments, loss and the gradient of the logits against torch.softmax and the reference in float64."""
    s = torch.softmax(z.double(), 1)
    expected = reference.region_moments(s, target, regions, ignore_index=IGNORED)
    count, mean, scatter = emulated.accumulate(z, target, regions, IGNORED, False, SOFTMAX)
    assert torch.equal(count, expected.count.long())
    assert_close(mean, expected.mean, MOMENTS[z.dtype])
    assert_close(scatter, expected.scatter, MOMENTS[z.dtype], floor=REFERENCE_ROUNDING)
    found = gradient(z, target, regions)
    assert found.stride() == torch.empty_like(z).stride()
    assert_close(found, expected_gradient(z, target, regions), GRADIENT[z.dtype])
    assert (found[(target == IGNORED).unsqueeze(1).expand_as(found)] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@LAYOUTS
@pytest.mark.parametrize("channels", CHANNELS)
def test_any_number_of_channels_and_pixels(channels, interleaved, dtype):
    for size, regions in (((11, 13), 1), ((5, 3), 3), ((1, 2), 1), ((18, 16), 7)):
        assert_right(
            random_logits(channels, size, dtype, interleaved=interleaved), random_target(regions, size), regions
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [2, 9, 70])
def test_unaligned_memory_and_strided_channels(channels, dtype):
    padded = random_logits(channels + 1, (8, 8), dtype)
    target = random_target(3, (8, 8))
    assert_right(padded[:, 1:], target, 3)  # planar, images not adjacent
    offset = torch.empty(padded[:, 1:].numel() + 1, dtype=dtype)[1:].view(2, channels, 8, 8)
    assert_right(offset.copy_(padded[:, 1:]), target, 3)
    between = random_logits(channels + 1, (8, 8), dtype, interleaved=True)[:, 1:]  # interleaved, pixels not adjacent
    weight = coefficients(between, target, 3)[3:]
    assert_close(apply(between, target, *weight), expected_gradient(between, target, 3), GRADIENT[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@LAYOUTS
@pytest.mark.parametrize("channels", [2, 4, 9, 40, 70])
def test_logits_of_ten_thousand(channels, interleaved, dtype):
    size = (9, 8)
    spacing = 1e4 * torch.finfo(dtype).eps  # of half types at 10000: neighbours differ by it, or are equal
    z = random_logits(channels, size, dtype, spread=max(1.0, spacing), interleaved=interleaved)
    sign = torch.where(torch.arange(72).view(1, 1, *size) % 3 == 0, 1.0, -1.0)
    assert_right(z + (1e4 * sign).to(dtype), random_target(3, size), 3)
    z[:, channels // 2] = 1e4  # certain of one channel
    z[:, 0] = -1e4
    found = gradient(z, random_target(3, size), 3)
    assert found.isfinite().all()
    assert_close(found, torch.zeros_like(found.double()), 0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@LAYOUTS
@pytest.mark.parametrize("channels", [2, 4, 9, 40, 70])
def test_minus_infinity_is_probability_0(channels, interleaved, dtype):
    size = (9, 8)
    z = random_logits(channels, size, dtype, interleaved=interleaved)
    excluded = torch.rand(z.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    excluded[:, -1] = False
    excluded[:, : channels - 1, 0] = True  # one channel left
    z[excluded] = -math.inf
    target = random_target(3, size)
    assert_right(z, target, 3)
    found = gradient(z, target, 3)
    assert (found[excluded] == 0).all()
    assert (found[:, :, 0] == 0).all()


@pytest.mark.parametrize("channels", [1, 2, 4, 9, 40, 70])
@LAYOUTS
def test_a_pixel_is_nan_exactly_where_torch_softmax_is(channels, interleaved):
    size = (9, 8)
    z, target = random_logits(channels, size, interleaved=interleaved), random_target(3, size)
    target[target == IGNORED] = 0
    center = random_logits(channels, (3,)).transpose(1, 2).contiguous()
    table = (torch.tensor([[0.5, 2.0, 1.0]] * 2), center, center.flip(1).contiguous())
    finite = apply(z, target, *table)
    z[0, :, 0, 0] = -math.inf
    z[0, channels // 2, 1, 1] = math.inf
    z[1, channels - 1, 2, 2] = math.nan
    z[1, :, 3, 3] = math.nan
    found = apply(z, target, *table)
    expected = torch.softmax(z, 1).isnan()
    assert int(expected.sum()) == 4 * channels  # all channels of 4 pixels
    assert torch.equal(found.isnan(), expected)
    assert torch.equal(found[~expected], finite[~expected])
    _, mean, scatter = emulated.accumulate(z, target, 3, IGNORED, False, SOFTMAX)
    regions = torch.stack([(expected[:, 0] & (target == i)).flatten(1).any(1) for i in range(3)], 1)
    assert torch.equal(scatter.isnan(), regions)
    assert torch.equal(mean.isnan(), regions.unsqueeze(2).expand_as(mean))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@LAYOUTS
@pytest.mark.parametrize("channels", [2, 4, 9, 40, 70])
def test_ignored_pixels_may_hold_anything(channels, interleaved, dtype):
    size = (9, 8)
    z, target = random_logits(channels, size, dtype, interleaved=interleaved), random_target(3, size)
    clean = coefficients(z, target, 3), gradient(z, target, 3)
    ignored = (target == IGNORED).unsqueeze(1).expand_as(z)
    z[ignored] = torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype)[torch.arange(int(ignored.sum())) % 3]
    found = coefficients(z, target, 3), gradient(z, target, 3)
    assert all(torch.equal(a, b) for a, b in zip(found[0], clean[0], strict=True))
    assert torch.equal(found[1], clean[1])
    assert (found[1][ignored] == 0).all()


@pytest.mark.parametrize("channels", [1, 2, 9, 70])
@LAYOUTS
def test_label_out_of_range_makes_its_pixel_nan(channels, interleaved):
    size = (9, 8)
    z, target = random_logits(channels, size, interleaved=interleaved), random_target(3, size)
    table = coefficients(z, target, 3)[3:]
    clean = apply(z, target, *table)
    target[1, 2, 3] = 3
    found = apply(z, target, *table)
    assert found[1, :, 2, 3].isnan().all()
    found[1, :, 2, 3] = clean[1, :, 2, 3]
    assert torch.equal(found, clean)


@LAYOUTS
@pytest.mark.parametrize("channels", [2, 4, 9, 40, 70])
def test_confident_pixels_keep_their_digits(channels, interleaved):
    """Probabilities 1 - eps: every pixel is right to its own size, not to that of the largest gradient."""
    size = (9, 8)
    z, target = random_logits(channels, size, spread=0.5, interleaved=interleaved), random_target(3, size)
    sure = torch.randint(0, channels, (2, 1, *size), generator=torch.Generator().manual_seed(5))
    z.scatter_add_(1, sure, (4 + torch.arange(72.0) / 8).view(1, 1, *size).expand(2, 1, *size))
    found, expected = gradient(z, target, 3).double(), expected_gradient(z, target, 3)
    error = (found - expected).abs().amax(1) / expected.abs().amax(1).clamp(min=1e-300)
    assert error[target != IGNORED].max() < 2e-5
