"""Autocast and GradScaler: half logits are taken as they are, the loss is float32, and training goes on."""

from __future__ import annotations

import pytest
import torch
from devices import on_devices, on_every_device
from strategies import Case

import cas_ext

on_real_devices = on_devices("cpu", "cuda")
HALVES = [torch.float16, torch.bfloat16]


def network_and_batch(device):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1))
    _, target = Case(spatial=(12, 10), regions=2, mask="runs").tensors(device.torch_device)
    images = torch.randn(2, 3, 12, 10) + target.cpu()[:, None]
    return network.to(device.torch_device), images.to(device.torch_device), target


@on_real_devices
@pytest.mark.parametrize("dtype", HALVES)
def test_loss_inside_autocast_reads_half_logits_as_they_are(device, dtype, monkeypatch):
    network, images, target = network_and_batch(device)
    seen, forward = [], cas_ext.ops.forward
    monkeypatch.setattr(cas_ext.ops, "forward", lambda input, *rest: seen.append(input) or forward(input, *rest))
    with torch.autocast(device.torch_device, dtype):
        logits = network(images)
        loss = cas_ext.cas_loss(logits, target, num_regions=2)
    assert logits.dtype == dtype and loss.dtype == torch.float32
    assert [input.dtype for input in seen] == [dtype] and seen[0].data_ptr() == logits.data_ptr()
    # Accumulation is not in half precision: the loss is that of the rounded logits, right to float32.
    expected = cas_ext.reference.cas_loss(logits.detach().double(), target, num_regions=2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in network.parameters())


@on_every_device
@pytest.mark.parametrize("dtype", HALVES)
def test_gradient_of_half_logits_is_half_and_of_the_rounded_values(device, dtype):
    input, target = Case(spatial=(12, 10), dtype=dtype).tensors(device.torch_device)
    (actual,) = torch.autograd.grad(cas_ext.cas_loss(input, target), input)
    wide = input.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(cas_ext.reference.cas_loss(wide, target), wide)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@on_real_devices
def test_autocast_does_not_change_a_float32_loss(device):
    input, target = Case(spatial=(12, 10)).tensors(device.torch_device)
    expected = cas_ext.cas_loss(input, target)
    for dtype in HALVES:
        with torch.autocast(device.torch_device, dtype):
            assert torch.equal(cas_ext.cas_loss(input, target), expected)


@on_real_devices
@pytest.mark.parametrize("dtype", HALVES)
def test_grad_scaler_trains_and_its_scale_does_not_show(device, dtype):
    def step(init_scale, enabled):
        network, images, target = network_and_batch(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler(device.torch_device, init_scale=init_scale, enabled=enabled)
        with torch.autocast(device.torch_device, dtype):
            loss = cas_ext.cas_loss(network(images).softmax(1), target, num_regions=2)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return [parameter.detach() for parameter in network.parameters()]

    start = [parameter.detach() for parameter in network_and_batch(device)[0].parameters()]
    plain, scaled = step(1.0, enabled=False), step(2.0**10, enabled=True)
    for before, a, b in zip(start, plain, scaled, strict=True):
        assert not torch.equal(before, a)
        # The scale is a power of two: only what was subnormal in half precision differs.
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@on_real_devices
def test_grad_scaler_skips_a_step_whose_gradient_overflows(device):
    network, images, target = network_and_batch(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device.torch_device, init_scale=2.0**20)
    start = [parameter.detach().clone() for parameter in network.parameters()]
    with torch.autocast(device.torch_device, torch.float16):
        logits = network(images)
    loss = cas_ext.cas_loss(1e4 * logits, target, num_regions=2)
    assert loss.dtype == torch.float32 and loss.isfinite()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**19
    assert all(torch.equal(a, b) for a, b in zip(start, network.parameters(), strict=True))
