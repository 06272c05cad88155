"""The double backward is exact: Hessian-vector products and mixed derivatives equal the float64 reference."""

from __future__ import annotations

import pytest
import torch
from devices import for_all_cases, on_every_device
from oracle import expected_terms, random_like
from strategies import Case
from tolerances import TOLERANCE, assert_gradient_close, gradient_floor

import cas_ext


def second_derivatives(loss, input, upstream, tangent):
    """(d<g, v>/ds, d<g, v>/du) for the gradient g = d<u, loss>/ds."""
    (gradient,) = torch.autograd.grad(loss, input, upstream, create_graph=True)
    return torch.autograd.grad(gradient, (input, upstream), tangent, retain_graph=True)


@for_all_cases(examples=600)
def test_hessian_vector_product_and_mixed_derivative_equal_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    loss = cas_ext.cas_loss(input, target, **case.options)
    upstream = random_like(loss, case.seed + 1).requires_grad_()
    tangent = random_like(input, case.seed + 2)
    product, mixed = second_derivatives(loss, input, upstream, tangent)

    leaf, (loss, _, _) = expected_terms(input, target, **case.options)
    double_upstream = upstream.detach().cpu().double().requires_grad_()
    double_tangent = tangent.cpu().double()
    expected, expected_mixed = second_derivatives(loss, leaf, double_upstream, double_tangent)
    assert_gradient_close(product, expected, input, target, ignore_index=case.ignore_index, operand=tangent)

    # <dL/ds, v> sums numbers of both signs: it is measured against their magnitudes.
    (unit,) = torch.autograd.grad(loss, leaf, torch.ones_like(loss))
    products = (unit * double_tangent).abs().flatten(1).sum(1)
    scale = products if case.reduction == "none" else products.sum()
    tolerance = TOLERANCE[case.dtype]
    bound = (tolerance.gradient + tolerance.rounding) * scale + gradient_floor(input) * double_tangent.abs().sum()
    assert mixed.shape == upstream.shape
    assert bool(((mixed.cpu().double() - expected_mixed).abs() <= bound).all()), (mixed, expected_mixed, bound)


@for_all_cases(examples=200)
def test_hessian_vector_product_of_the_terms_equals_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    which = case.seed % 3
    term = cas_ext.cas_loss(input, target, return_terms=True, **case.options)[which]
    upstream = random_like(term, case.seed + 1).requires_grad_()
    tangent = random_like(input, case.seed + 2)
    product, _ = second_derivatives(term, input, upstream, tangent)

    leaf, terms = expected_terms(input, target, **case.options)
    double_upstream = upstream.detach().cpu().double().requires_grad_()
    expected, _ = second_derivatives(terms[which], leaf, double_upstream, tangent.cpu().double())
    assert_gradient_close(product, expected, input, target, ignore_index=case.ignore_index, operand=tangent)


@on_every_device
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "channel slice", "transposed"])
@pytest.mark.parametrize("tangent_layout", ["contiguous", "channels_last", "expanded batch"])
def test_tangent_may_have_another_layout_than_the_input(device, layout, tangent_layout):
    case = Case(spatial=(9, 13), channels=5, layout=layout)
    input, target = case.tensors(device.torch_device)
    tangent = Case(spatial=(9, 13), channels=5, layout=tangent_layout, seed=1).tensors(device.torch_device)[0].detach()
    upstream = torch.ones((), device=device.torch_device, requires_grad=True)
    product, _ = second_derivatives(cas_ext.cas_loss(input, target), input, upstream, tangent)

    leaf, (loss, _, _) = expected_terms(input, target)
    double_upstream = torch.ones((), dtype=torch.float64, requires_grad=True)
    expected, _ = second_derivatives(loss, leaf, double_upstream, tangent.cpu().double())
    assert_gradient_close(product, expected, input, target, operand=tangent)


@on_every_device
def test_hessian_is_symmetric_and_does_not_depend_on_the_descriptors(device):
    case = Case(spatial=(7, 11), channels=4, regions=5, num_regions=5, dtype=torch.float64)
    input, target = case.tensors(device.torch_device)
    u, v = random_like(input, 1), random_like(input, 2)

    def product(at, tangent):
        at = at.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cas_ext.cas_loss(at, target), at, create_graph=True)
        return torch.autograd.grad(gradient, at, tangent)[0]

    assert (u * product(input, v)).sum().item() == pytest.approx((v * product(input, u)).sum().item(), rel=1e-10)
    torch.testing.assert_close(product(input, v), product(3 * input - 1, v), rtol=1e-10, atol=1e-14)


@on_every_device
def test_gradient_penalty_can_be_trained_on(device):
    # A loss on the norm of the gradient: its own gradient is 2 H g.
    case = Case(spatial=(6, 7), channels=3, dtype=torch.float64)
    input, target = case.tensors(device.torch_device)
    (gradient,) = torch.autograd.grad(cas_ext.cas_loss(input, target), input, create_graph=True)
    gradient.square().sum().backward()

    leaf, (loss, _, _) = expected_terms(input, target)
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    gradient.square().sum().backward()
    assert_gradient_close(input.grad, leaf.grad, input, target)
