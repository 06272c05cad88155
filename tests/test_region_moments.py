"""region_moments equals the float64 reference: counts, means and scatter, and their derivatives of any order."""

from __future__ import annotations

import pytest
import torch
from devices import for_all_cases, on_every_device
from oracle import double_leaf, random_like
from strategies import Case, lay_out, representable
from tolerances import TOLERANCE, assert_gradient_close, result_dtype, square_floor

import cas_ext
from cas_ext import reference


def moments_of(case, device):
    input, target = case.tensors(device.torch_device)
    num_regions = case.num_regions or case.regions
    actual = cas_ext.region_moments(input, target, num_regions, ignore_index=case.ignore_index)
    leaf = double_leaf(input)
    expected = reference.region_moments(leaf, target.cpu(), num_regions, ignore_index=case.ignore_index)
    return input, target, actual, leaf, expected


@for_all_cases(examples=600)
def test_moments_equal_the_reference(device, case):
    input, _, actual, _, expected = moments_of(case, device)
    tolerance = TOLERANCE[case.dtype].loss
    largest = float(input.detach().double().abs().max()) if input.numel() else 0.0

    assert actual.count.dtype == torch.int64
    assert torch.equal(actual.count.cpu(), expected.count.long())
    for name in ("mean", "scatter"):
        got, want = getattr(actual, name), getattr(expected, name).detach()
        assert got.dtype == result_dtype(case.dtype)
        assert got.shape == want.shape
        pixels = input.numel() // max(1, input.shape[0] * input.shape[1])
        floor = tolerance * largest if name == "mean" else pixels * case.channels * square_floor(input)
        error = (got.detach().cpu().double() - want).abs()
        assert bool((error <= tolerance * want.abs() + floor).all()), f"{name} is off by up to {float(error.max()):.3g}"


@for_all_cases(examples=400)
def test_gradient_of_the_moments_equals_the_reference(device, case):
    input, target, actual, leaf, expected = moments_of(case, device)
    upstream = [random_like(moment, case.seed + k) for k, moment in enumerate(actual[1:])]
    (gradient,) = torch.autograd.grad(actual[1:], input, upstream)
    parts = [
        torch.autograd.grad(moment, leaf, u.cpu().double(), retain_graph=True)[0]
        for moment, u in zip(expected[1:], upstream, strict=True)
    ]
    scale = sum(part.abs() for part in parts)
    assert_gradient_close(gradient, sum(parts), input, target, ignore_index=case.ignore_index, scale=scale)


@on_every_device
@pytest.mark.parametrize("which", ["mean", "scatter"])
def test_gradient_may_flow_through_one_moment_only(device, which):
    input, target, actual, leaf, expected = moments_of(Case(spatial=(6, 7), regions=4, num_regions=5), device)
    (gradient,) = torch.autograd.grad(getattr(actual, which).square().sum(), input)
    (wanted,) = torch.autograd.grad(getattr(expected, which).square().sum(), leaf)
    assert_gradient_close(gradient, wanted, input, target)


@on_every_device
def test_third_derivative_equals_the_reference(device):
    # Cubic in the means, quartic in the descriptors through the scatter: nothing vanishes before the third order.
    input, target, actual, leaf, expected = moments_of(Case(spatial=(9,), dtype=torch.float64, ignored=0.2), device)

    def third(moments, at):
        value = moments.mean.pow(3).sum() + moments.scatter.square().sum()
        for order in range(3):
            (derivative,) = torch.autograd.grad(value, at, create_graph=True)
            value = (derivative * random_like(derivative, order)).sum()
        return derivative

    assert_gradient_close(third(actual, input), third(expected, leaf), input, target)


@on_every_device
def test_loss_built_from_the_moments_by_hand_equals_cas_loss(device):
    # What region_moments is public for: any function of the moments, here Eq. 1 itself.
    case = Case(spatial=(12, 17), channels=4, regions=5, num_regions=5, dtype=torch.float64)
    input, target = case.tensors(device.torch_device)
    moments = cas_ext.region_moments(input, target, 5)
    uniformer = (moments.scatter / moments.count).sum(1)
    discriminator = torch.cdist(moments.mean, moments.mean).square().sum((1, 2))
    by_hand = (0.5 * uniformer - 0.5 * discriminator).mean()
    assert by_hand.item() == pytest.approx(cas_ext.cas_loss(input, target).item(), rel=1e-10)


@on_every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("channels", "regions"), [(1, 1), (3, 4), (1, 5), (9, 7)])
def test_scatter_of_pure_regions_is_never_negative(device, dtype, layout, channels, regions):
    # Users take its square root: one rounding below 0 would be NaN.
    case = Case(channels=channels, spatial=(7, 31), regions=regions, dtype=dtype, layout=layout)
    _, target = case.tensors(device.torch_device)
    codes = torch.randn(regions, channels, generator=torch.Generator().manual_seed(3)).to(device.torch_device)
    input = lay_out(codes[target].movedim(-1, 1).to(dtype), layout)
    moments = cas_ext.region_moments(input, target, regions)
    assert moments.scatter.min().item() >= 0
    assert moments.scatter.max().item() <= 1e-12


@on_every_device
def test_counts_carry_no_gradient(device):
    input, target = Case().tensors(device.torch_device)
    moments = cas_ext.region_moments(input, target, 3)
    assert not moments.count.requires_grad
    assert moments.mean.requires_grad and moments.scatter.requires_grad


@on_every_device
def test_counts_above_the_integers_of_half_precision_are_exact(device):
    # 5001 is no float16, and 16777217 pixels no float32: counts are integers.
    target = torch.zeros(1, 5001, dtype=torch.uint8, device=device.torch_device)
    input = torch.ones(1, 1, 5001, dtype=torch.float16, device=device.torch_device)
    moments = cas_ext.region_moments(input, target, 1)
    assert moments.count.item() == 5001 and moments.mean.item() == 1.0 and moments.scatter.item() == 0.0


@on_every_device
@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_ignore_index_inside_the_range_empties_that_region(device, label_dtype):
    input, target = Case(spatial=(50,), label_dtype=label_dtype).tensors(device.torch_device)
    assert representable(1, label_dtype)
    moments = cas_ext.region_moments(input, target, 3, ignore_index=1)
    everything = cas_ext.region_moments(input, target, 3)
    assert moments.count[:, 1].tolist() == [0, 0]
    assert torch.equal(moments.mean[:, 1], torch.zeros_like(moments.mean[:, 1]))
    assert torch.equal(moments.mean[:, ::2], everything.mean[:, ::2])
    assert torch.equal(moments.scatter[:, ::2], everything.scatter[:, ::2])
