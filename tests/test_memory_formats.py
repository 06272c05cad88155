"""Strides change nothing but the strides: same loss, same gradient, which lies in memory as the input does."""

from __future__ import annotations

import pytest
import torch
from devices import on_devices, on_every_device
from strategies import DTYPES, LAYOUTS, TARGET_LAYOUTS, Case, lay_out, lay_out_target
from tolerances import assert_gradient_close

import cas_ext
from benchmarks import memory


def loss_and_gradient(input, target):
    input = input.detach().requires_grad_()
    loss = cas_ext.cas_loss(input, target)
    return loss.detach(), torch.autograd.grad(loss, input)[0]


@on_every_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [
        ((2, 5, 6, 7), torch.contiguous_format),
        ((2, 5, 6, 7), torch.channels_last),
        ((2, 5, 3, 4, 6), torch.contiguous_format),
        ((2, 5, 3, 4, 6), torch.channels_last_3d),
    ],
    ids=["contiguous", "channels_last", "contiguous 3d", "channels_last_3d"],
)
def test_gradient_has_the_memory_format_of_the_input(device, dtype, shape, memory_format):
    input, target = Case(batch=2, channels=5, spatial=shape[2:], dtype=dtype).tensors(device.torch_device)
    input = input.detach().contiguous(memory_format=memory_format)
    _, gradient = loss_and_gradient(input, target)
    assert gradient.stride() == input.stride()
    assert gradient.is_contiguous(memory_format=memory_format)


@on_every_device
def test_hessian_vector_product_has_the_memory_format_of_input_and_tangent(device):
    input, target = Case(channels=5, spatial=(6, 7), layout="channels_last").tensors(device.torch_device)
    (gradient,) = torch.autograd.grad(cas_ext.cas_loss(input, target), input, create_graph=True)
    (product,) = torch.autograd.grad(gradient, input, torch.ones_like(input))
    assert product.is_contiguous(memory_format=torch.channels_last)


@on_every_device
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spatial", [(), (37,), (16, 16), (17, 13), (3, 5, 7)], ids=str)
def test_layout_of_the_input_does_not_change_the_result(device, layout, spatial):
    case = Case(channels=6, spatial=spatial)
    values, target = case.tensors(device.torch_device)
    input = lay_out(values.detach(), layout)
    expected = loss_and_gradient(input.contiguous(), target)
    actual = loss_and_gradient(input, target)
    assert actual[0].item() == pytest.approx(expected[0].item(), rel=1e-6, abs=1e-6)
    assert_gradient_close(actual[1], expected[1], input, target)


@on_every_device
@pytest.mark.parametrize("layout", TARGET_LAYOUTS)
@pytest.mark.parametrize("spatial", [(), (37,), (16, 16), (17, 13), (3, 5, 7)], ids=str)
@pytest.mark.parametrize("label_dtype", [torch.bool, torch.uint8, torch.int16, torch.int64])
def test_layout_of_the_target_does_not_change_a_bit(device, layout, spatial, label_dtype):
    case = Case(channels=6, spatial=spatial, regions=2, num_regions=2, label_dtype=label_dtype)
    input, labels = case.tensors(device.torch_device)
    target = lay_out_target(labels, layout)
    expected = loss_and_gradient(input, target.contiguous())
    actual = loss_and_gradient(input, target)
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


@on_every_device
@pytest.mark.parametrize("dims", [(0, 1, 3, 2), (1, 0, 2, 3), (3, 2, 1, 0), (2, 1, 0, 3), (0, 3, 2, 1)], ids=str)
def test_any_permutation_of_the_dimensions_in_memory_is_accepted(device, dims):
    values, target = Case(channels=5, spatial=(6, 7)).tensors(device.torch_device)
    inverse = [dims.index(d) for d in range(4)]
    permuted = values.detach().permute(dims).contiguous().permute(inverse)
    assert torch.equal(permuted, values)
    expected = loss_and_gradient(values, target)
    actual = loss_and_gradient(permuted, target)
    assert actual[0].item() == pytest.approx(expected[0].item(), rel=1e-6)
    assert_gradient_close(actual[1], expected[1], values, target)


@on_every_device
def test_upstream_gradient_may_be_expanded_or_strided(device):
    input, target = Case(batch=4, channels=5, spatial=(6, 7)).tensors(device.torch_device)
    loss = cas_ext.cas_loss(input, target, reduction="none")

    def gradient(upstream):
        return torch.autograd.grad(loss, input, upstream, retain_graph=True)[0]

    weights = torch.tensor([1.0, 9.0, 2.0, 9.0, 3.0, 9.0, 4.0, 9.0], device=device.torch_device)
    assert torch.equal(gradient(weights[::2]), gradient(weights[::2].contiguous()))
    assert torch.equal(gradient(weights[:1].expand(4)), gradient(torch.ones(4, device=device.torch_device)))


@on_every_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_number_of_spatial_dimensions_does_not_change_a_bit(device, dtype):
    values, target = Case(channels=5, spatial=(24 * 35,), dtype=dtype).tensors(device.torch_device)
    expected = loss_and_gradient(values, target)
    for spatial in ((24, 35), (4, 6, 35), (4, 6, 5, 7)):
        loss, gradient = loss_and_gradient(values.reshape(2, 5, *spatial), target.reshape(2, *spatial))
        assert torch.equal(loss, expected[0])
        assert gradient.shape == (2, 5, *spatial) and torch.equal(gradient.flatten(2), expected[1])


@on_every_device
def test_no_spatial_dimension_is_one_pixel(device):
    values, target = Case(batch=7, channels=5, spatial=()).tensors(device.torch_device)
    expected = loss_and_gradient(values[:, :, None], target[:, None])
    loss, gradient = loss_and_gradient(values, target)
    assert torch.equal(loss, expected[0]) and torch.equal(gradient, expected[1][:, :, 0])


@on_devices("cpu", "cuda")
@pytest.mark.parametrize(
    ("layout", "spatial", "copied"),
    [
        ("contiguous", (256, 257), False),
        ("contiguous", (32, 64, 33), False),
        ("channels_last", (256, 257), False),
        ("channels_last", (32, 64, 33), False),
        ("channel slice", (256, 257), False),
        ("channels_last slice", (256, 257), False),
        ("transposed", (256, 257), True),
    ],
)
def test_dense_formats_are_read_in_place(device, layout, spatial, copied):
    # Peak memory of a forward pass tells whether the input was copied; tables and scratch (up to 560 KB) are far smaller.
    if device.name == "cpu" and memory.counted_by("cpu") is None:
        pytest.skip(memory.MISSING)
    input, target = Case(channels=8, spatial=spatial, layout=layout).tensors(device.torch_device)
    peak = memory.cuda_peak if input.is_cuda else memory.cpu_peak
    held = peak(lambda: cas_ext.cas_loss(input, target, num_regions=3))
    bytes_of_input = input.numel() * input.element_size()
    if copied:
        assert held >= bytes_of_input
    else:
        assert held < bytes_of_input / 4


@on_every_device
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_one_channel_and_one_region(device, layout):
    input, target = Case(channels=1, regions=1, spatial=(13, 9), layout=layout, num_regions=1).tensors(
        device.torch_device
    )
    loss, gradient = loss_and_gradient(input, target)
    values = input.detach().double()
    variance = values.var(dim=(2, 3), correction=0).mean()
    assert loss.item() == pytest.approx(0.5 * variance.item(), rel=1e-6)
    expected = (values - values.mean((2, 3), keepdim=True)) / (13 * 9) / 2
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-8)
