"""NaN and infinite descriptors reach the loss of their image, visibly, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from devices import on_every_device
from strategies import DTYPES, Case

import cas_ext

NONFINITE = [math.nan, math.inf, -math.inf]


def run(input, target, **options):
    loss = cas_ext.cas_loss(input, target, reduction="none", **options)
    (gradient,) = torch.autograd.grad(loss.sum(), input)
    return loss.detach(), gradient


@on_every_device
@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [1, 9])
def test_nonfinite_descriptor_makes_the_loss_of_its_image_nonfinite_and_no_other(
    device, value, dtype, layout, channels
):
    case = Case(batch=3, channels=channels, spatial=(17, 15), dtype=dtype, layout=layout)
    input, target = case.tensors(device.torch_device)
    clean_loss, clean_gradient = run(input, target)
    with torch.no_grad():
        input[1, channels // 2, 7, 11] = value
    loss, gradient = run(input, target)
    assert torch.isfinite(loss).tolist() == [True, False, True]
    assert torch.equal(loss[::2], clean_loss[::2])
    assert torch.equal(gradient[::2], clean_gradient[::2])
    assert not torch.isfinite(gradient[1]).all()


@on_every_device
@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("place", [0, 16, 254])
def test_nonfinite_descriptor_is_seen_wherever_it_stands(device, value, place):
    input, target = Case(batch=1, spatial=(255,)).tensors(device.torch_device)
    with torch.no_grad():
        input[0, 1, place] = value
    assert not torch.isfinite(run(input, target)[0]).any()


@on_every_device
@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("spatial", [(17, 15), (16, 16)])
def test_nonfinite_descriptor_of_an_ignored_pixel_is_ignored(device, value, layout, spatial):
    input, target = Case(batch=2, channels=9, spatial=spatial, layout=layout).tensors(device.torch_device)
    target[1, 7, 11] = target[0, 0, 0] = -100
    clean = run(input, target)
    with torch.no_grad():
        input[1, :, 7, 11] = value
        input[0, :, 0, 0] = value
    actual = run(input, target)
    assert torch.equal(actual[0], clean[0])
    assert torch.equal(actual[1], clean[1])
    assert not actual[1][1, :, 7, 11].any()


@on_every_device
@pytest.mark.parametrize("value", NONFINITE)
def test_ignored_pixels_get_zero_gradient_also_in_a_nonfinite_image(device, value):
    input, target = Case(batch=1, spatial=(60,)).tensors(device.torch_device)
    target[0, 5:9] = -100
    with torch.no_grad():
        input[0, 1, 30] = value
    _, gradient = run(input, target)
    assert not gradient[0, :, 5:9].any()


@on_every_device
def test_large_finite_float16_descriptors_do_not_overflow(device):
    # 60000^2 is infinite in float16; the loss is float32.
    input = torch.tensor([[[60000.0, -60000.0, 60000.0, 60000.0]]], dtype=torch.float16, device=device.torch_device)
    target = torch.tensor([[0, 0, 1, 1]], device=device.torch_device)
    # uniformer 3.6e9, discriminator 2 * 60000^2 = 7.2e9
    assert cas_ext.cas_loss(input, target).item() == pytest.approx(0.5 * 3.6e9 - 0.5 * 7.2e9, rel=1e-6)
