"""Analytic first and second derivatives agree with finite differences: torch.autograd.gradcheck and gradgradcheck."""

from __future__ import annotations

import pytest
import torch
from devices import on_devices, on_every_device
from strategies import PAIRS, REDUCTIONS, Case
from torch.autograd import gradcheck, gradgradcheck

import cas_ext

# Three regions, one of them absent from the second image, ignored pixels, two images.
CASE = Case(batch=2, channels=2, spatial=(6,), regions=4, mask="half absent", ignored=0.2, dtype=torch.float64, seed=5)


def tensors(device, case=CASE):
    input, target = case.tensors(device.torch_device)
    assert (target == -100).any() and (target >= 0).any()
    return input, target


@on_every_device
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_derivatives_of_the_loss(device, check, pairs, reduction):
    input, target = tensors(device)
    options = dict(alpha=0.3, num_regions=4, pairs=pairs, reduction=reduction)
    assert check(lambda input: cas_ext.cas_loss(input, target, **options), (input,))


@on_devices("cpu", "cuda")  # the same kernels again, several times: minutes of emulation
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_derivatives_of_the_loss_and_its_terms(device, check, pairs, reduction):
    input, target = tensors(device)
    options = dict(alpha=0.3, num_regions=4, pairs=pairs, reduction=reduction, return_terms=True)
    assert check(lambda input: cas_ext.cas_loss(input, target, **options), (input,))


@on_every_device
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "channel slice"])
def test_derivatives_of_the_loss_in_other_layouts(device, check, layout):
    case = Case(batch=2, channels=2, spatial=(2, 3), ignored=0.2, dtype=torch.float64, layout=layout, seed=1)
    input, target = tensors(device, case)
    assert check(lambda input: cas_ext.cas_loss(input, target, num_regions=3), (input,))


@on_every_device
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
def test_derivatives_of_the_moments(device, check):
    input, target = tensors(device)
    assert check(lambda input: cas_ext.region_moments(input, target, 4)[1:], (input,))


@on_every_device
def test_third_derivatives_of_the_moments(device):
    input, target = tensors(device, Case(batch=1, channels=2, spatial=(5,), ignored=0.2, dtype=torch.float64, seed=2))

    def gradient(input):
        moments = cas_ext.region_moments(input, target, 3)
        value = moments.mean.pow(3).sum() + moments.scatter.square().sum()
        return torch.autograd.grad(value, input, create_graph=True)[0]

    assert gradgradcheck(gradient, (input,))
