"""Strides change nothing but the strides: same loss, same gradient, which lies in memory as the input does."""

from __future__ import annotations

import pytest
import torch
from devices import on_every_device
from strategies import DTYPES, LAYOUTS, TARGET_LAYOUTS, Case, lay_out, lay_out_target
from tolerances import assert_gradient_close

import cas_ext


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
