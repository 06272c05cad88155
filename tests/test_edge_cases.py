"""Inputs at the edge of the definition: nothing ignored or everything, one region or none, no pixels, no images."""

from __future__ import annotations

import pytest
import torch
from devices import on_every_device
from strategies import LABEL_DTYPES, PAIRS, Case

import cas_ext


def loss_and_gradient(input, target, **options):
    loss = cas_ext.cas_loss(input, target, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), input)
    return loss, gradient


@on_every_device
@pytest.mark.parametrize("pairs", PAIRS)
def test_single_region_has_a_uniformer_only(device, pairs):
    input, _ = Case(batch=1, spatial=(50,)).tensors(device.torch_device)
    target = torch.full((1, 50), 4, device=device.torch_device)
    loss, uniformer, discriminator = cas_ext.cas_loss(input, target, pairs=pairs, return_terms=True)
    variance = input.double().var(dim=2, correction=0).sum().item()
    assert uniformer.item() == pytest.approx(variance, rel=1e-6)
    assert discriminator.item() == 0.0
    assert loss.item() == pytest.approx(0.5 * variance, rel=1e-6)


@on_every_device
@pytest.mark.parametrize("num_regions", [None, 3])
def test_image_without_valid_pixels_has_zero_loss_and_zero_gradient(device, num_regions):
    input, target = Case(batch=3, spatial=(30,)).tensors(device.torch_device)
    target[1] = -100
    loss, gradient = loss_and_gradient(input, target, num_regions=num_regions, reduction="none")
    assert loss[1].item() == 0.0 and loss[0].item() != 0.0 and loss[2].item() != 0.0
    assert not gradient[1].any() and gradient[0].any() and gradient[2].any()


@on_every_device
@pytest.mark.parametrize("num_regions", [None, 1, 5])
def test_batch_without_valid_pixels_has_zero_loss_and_zero_gradient(device, num_regions):
    input, target = Case(spatial=(30,)).tensors(device.torch_device)
    loss, gradient = loss_and_gradient(input, torch.full_like(target, -100), num_regions=num_regions)
    assert loss.item() == 0.0
    assert torch.equal(gradient, torch.zeros_like(input))


@on_every_device
@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
@pytest.mark.parametrize("num_regions", [None, 2])
@pytest.mark.parametrize("shape", [(2, 3, 0), (2, 3, 4, 0), (0, 3, 5), (0, 3, 4, 5), (0, 3)], ids=str)
def test_zero_pixels_and_zero_images(device, shape, num_regions, label_dtype):
    input = torch.empty(shape, device=device.torch_device, requires_grad=True)
    target = torch.empty(shape[:1] + shape[2:], dtype=label_dtype, device=device.torch_device)
    for reduction, expected in (("mean", 0.0), ("sum", 0.0), ("none", [0.0] * shape[0])):
        loss, gradient = loss_and_gradient(input, target, num_regions=num_regions, reduction=reduction)
        assert loss.tolist() == expected
        assert gradient.shape == shape


@on_every_device
def test_one_pixel_image_without_spatial_dimensions(device):
    input = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device.torch_device, requires_grad=True)
    target = torch.tensor([0, 1], device=device.torch_device)
    loss, gradient = loss_and_gradient(input, target, reduction="none")
    assert loss.tolist() == [0.0, 0.0]
    assert gradient.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@on_every_device
def test_images_of_a_batch_do_not_mix(device):
    case = Case(batch=5, channels=4, spatial=(23, 9), regions=6, num_regions=6, mask="runs")
    input, target = case.tensors(device.torch_device)
    loss, gradient = loss_and_gradient(input, target, num_regions=6, reduction="none")
    for b in range(5):
        alone = input[b : b + 1].detach().requires_grad_()
        loss_alone, gradient_alone = loss_and_gradient(alone, target[b : b + 1], num_regions=6)
        assert loss_alone.item() == pytest.approx(loss[b].item(), rel=1e-6)
        torch.testing.assert_close(gradient_alone[0], gradient[b], rtol=1e-6, atol=1e-9)


@on_every_device
def test_room_for_absent_labels_changes_no_result(device):
    input, target = Case(spatial=(300,), regions=4).tensors(device.torch_device)
    tight = loss_and_gradient(input, target, num_regions=4)
    for num_regions in (None, 5, 64, 1000):
        roomy = loss_and_gradient(input, target, num_regions=num_regions)
        torch.testing.assert_close(roomy, tight, rtol=1e-6, atol=1e-8)


@on_every_device
def test_missing_num_regions_is_one_more_than_the_largest_label(device):
    input, target = Case(spatial=(30,), regions=7, mask="one pixel", num_regions=7).tensors(device.torch_device)
    assert torch.equal(cas_ext.cas_loss(input, target), cas_ext.cas_loss(input, target, num_regions=7))


@on_every_device
@pytest.mark.parametrize("value", [255, 156])
def test_uint8_label_is_not_taken_for_a_negative_ignore_index(device, value):
    # In 8 bits 156 is -100, and 255 is -1: the comparison must be made in a wider type.
    input = torch.tensor([0.0, 2.0, 5.0, 9.0], device=device.torch_device).reshape(1, 1, 4)
    target = torch.tensor([[0, 0, value, value]], dtype=torch.uint8, device=device.torch_device)
    for num_regions in (None, 256):
        loss = cas_ext.cas_loss(input, target, num_regions=num_regions, ignore_index=value - 256)
        assert loss.item() == pytest.approx(-33.5, rel=1e-7)


@pytest.mark.parametrize("value", [255, 156])
def test_reference_does_not_take_a_uint8_label_for_a_negative_ignore_index_either(value):
    input = torch.tensor([0.0, 2.0, 5.0, 9.0], dtype=torch.float64).reshape(1, 1, 4)
    target = torch.tensor([[0, 0, value, value]], dtype=torch.uint8)
    assert cas_ext.reference.cas_loss(input, target, ignore_index=value - 256).item() == -33.5


@on_every_device
@pytest.mark.parametrize(
    ("label_dtype", "ignore_index"),
    [
        (torch.uint8, 257),
        (torch.int8, 257),
        (torch.int16, 65537),
        (torch.int32, 2**32 + 1),
        (torch.bool, 2),
        (torch.bool, -1),
    ],
)
def test_ignore_index_beyond_the_label_type_ignores_nothing(device, label_dtype, ignore_index):
    # Cut to the label type these are 1 (for bool: True).
    input = torch.tensor([0.0, 2.0, 5.0, 9.0], device=device.torch_device).reshape(1, 1, 4)
    target = torch.tensor([[0, 0, 1, 1]], device=device.torch_device).to(label_dtype)
    for num_regions in (None, 2):
        loss = cas_ext.cas_loss(input, target, num_regions=num_regions, ignore_index=ignore_index)
        assert loss.item() == pytest.approx(-33.5, rel=1e-7)


@on_every_device
@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
def test_label_dtypes_agree_bitwise(device, label_dtype):
    input, target = Case(spatial=(21, 19), regions=2, ignored=0.0, num_regions=2).tensors(device.torch_device)
    expected = loss_and_gradient(input, target, num_regions=2)
    actual = loss_and_gradient(input, target.to(label_dtype), num_regions=2)
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


@on_every_device
def test_arguments_are_not_modified(device):
    input, target = Case(spatial=(40,), ignored=0.3).tensors(device.torch_device)
    kept_input, kept_target = input.detach().clone(), target.clone()
    loss_and_gradient(input, target, num_regions=3)
    assert torch.equal(input, kept_input) and torch.equal(target, kept_target)
