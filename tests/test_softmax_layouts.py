"""activation="softmax" for any number of channels, wherever they lie in memory, and for logits of any size."""

from __future__ import annotations

import math

import pytest
import torch
from devices import on_devices, on_every_device

import cas_ext

CHANNELS = (1, 2, 3, 4, 7, 8, 9, 16, 21, 40, 65)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SOFTMAX = {"activation": "softmax"}
LAYOUTS = ("contiguous", "channels_last", "channels of more")


def laid_out(logits, layout):
    """The same values: contiguous, channels_last, or channels_last with a channel more that takes no part."""
    if layout == "channels of more":
        wider = torch.cat([logits, torch.full_like(logits[:, :1], 1e4)], 1)
        return wider.contiguous(memory_format=torch.channels_last)[:, :-1].detach().requires_grad_()
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    return logits.contiguous(memory_format=memory).detach().requires_grad_()


def steep(channels, pixels):
    """Logits that every dtype holds; from one channel to the next they differ by up to a hundred, some are infinite."""
    generator = torch.Generator().manual_seed(channels)
    size = torch.tensor([0.1, 3.0, 30.0, 100.0])[torch.arange(pixels) % 4]
    logits = (torch.randn(channels, pixels, generator=generator) * size).bfloat16()
    some = torch.rand(channels, pixels, generator=generator) < 0.3
    some[:8, ::7] |= channels > 8  # the eight that the CPU kernels take at a time
    some[torch.arange(pixels) % channels, torch.arange(pixels)] = False
    return torch.where(some & (torch.arange(pixels) % 3 == 0), -math.inf, logits)[None, :, :, None]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", CHANNELS)
@on_every_device
def test_probabilities_are_right_to_the_last_digit(device, channels, layout):
    """Every pixel a region of its own, whose mean is the pixel's softmax."""
    logits, target = steep(channels, 299), torch.arange(299)[None, :, None]
    expected = logits.double().softmax(1)[0, :, :, 0].T
    for dtype in DTYPES:
        stored = laid_out(logits.to(device.torch_device, dtype), layout)
        mean = cas_ext.region_moments(stored, target.to(device.torch_device), 299, **SOFTMAX).mean[0].cpu().double()
        error = 1e-14 if dtype == torch.float64 else 4 * 2.0**-24
        torch.testing.assert_close(mean, expected, rtol=0, atol=error)
        assert not mean[expected == 0].any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 2, 3, 8, 9, 21])
@on_every_device
def test_a_pixel_is_nan_where_that_of_torch_is(device, channels, layout):
    values = torch.tensor([-2.0, 0.0, 3.0, -math.inf, math.inf, math.nan])
    generator = torch.Generator().manual_seed(channels)
    logits = values[torch.randint(6, (channels, 299), generator=generator)]
    calm = torch.arange(299) % 2 == 0
    logits[:, calm] = values[torch.randint(4, (channels, int(calm.sum())), generator=generator)]
    logits[:, 0] = -math.inf
    expected = logits.double().softmax(0).T
    target = torch.arange(299)[None, :, None]
    for dtype in DTYPES:
        stored = laid_out(logits[None, :, :, None].to(device.torch_device, dtype), layout)
        mean = cas_ext.region_moments(stored, target.to(device.torch_device), 299, **SOFTMAX).mean[0].cpu().double()
        assert torch.equal(mean.isnan(), expected.isnan())
        torch.testing.assert_close(mean, expected, rtol=0, atol=4 * 2.0**-24, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", CHANNELS)
@on_devices("cpu", "cuda")
def test_gradients_of_several_tiles(device, channels, layout):
    """Two images of more pixels than a tile of the CPU kernels has, and a part of one; a tenth of them ignored."""
    pixels = 4096 + 131
    generator = torch.Generator().manual_seed(1)
    logits = steep(channels, 2 * pixels).reshape(channels, 2, pixels).transpose(0, 1)[..., None]
    target = torch.randint(3, (2, pixels // 20 + 1, 1), generator=generator).repeat_interleave(20, 1)[:, :pixels]
    target[torch.rand(2, pixels, 1, generator=generator) < 0.1] = -100
    wide = logits.double().requires_grad_()
    expected = cas_ext.reference.region_moments(wide, target, 3, **SOFTMAX)
    upstream = [torch.rand(like.shape, generator=generator, dtype=torch.float64) for like in expected[1:]]
    (gradient,) = torch.autograd.grad(expected[1:], wide, upstream)
    for dtype in DTYPES:
        stored = laid_out(logits.to(device.torch_device, dtype), layout)
        found = cas_ext.region_moments(stored, target.to(device.torch_device), 3, **SOFTMAX)
        given = [u.to(device.torch_device, f.dtype) for u, f in zip(upstream, found[1:], strict=True)]
        (actual,) = torch.autograd.grad(found[1:], stored, given)
        assert torch.equal(found.count.cpu(), expected.count.long())
        rounding = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}.get(dtype, 0.0)
        torch.testing.assert_close(actual.cpu().double(), gradient, rtol=rounding, atol=1e-6)
        assert not actual.cpu()[(target == -100)[:, None].expand_as(gradient)].any()
