"""cas_loss and its gradient equal the float64 reference, over shapes, dtypes, label types, layouts and options."""

from __future__ import annotations

import torch
from devices import for_all_cases
from oracle import expected_terms, random_like
from tolerances import assert_gradient_close, assert_losses_close

import cas_ext


@for_all_cases(examples=2000)
def test_loss_and_terms_equal_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    actual = cas_ext.cas_loss(input, target, return_terms=True, **case.options)
    _, expected = expected_terms(input, target, **case.options)
    assert_losses_close(actual, expected, input, alpha=case.alpha)


@for_all_cases(examples=200)
def test_loss_alone_is_bitwise_the_loss_returned_with_its_terms(device, case):
    input, target = case.tensors(device.torch_device)
    alone = cas_ext.cas_loss(input, target, **case.options)
    with_terms, _, _ = cas_ext.cas_loss(input, target, return_terms=True, **case.options)
    assert torch.equal(alone, with_terms)


@for_all_cases(examples=2000)
def test_gradient_equals_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    loss = cas_ext.cas_loss(input, target, **case.options)
    upstream = random_like(loss, case.seed + 1)
    (actual,) = torch.autograd.grad(loss, input, upstream)

    leaf, (loss, _, _) = expected_terms(input, target, **case.options)
    (expected,) = torch.autograd.grad(loss, leaf, upstream.cpu().double())
    assert_gradient_close(actual, expected, input, target, ignore_index=case.ignore_index)


@for_all_cases(examples=300)
def test_gradient_through_all_three_terms_equals_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    terms = cas_ext.cas_loss(input, target, return_terms=True, **case.options)
    upstream = [random_like(term, case.seed + k) for k, term in enumerate(terms)]
    (actual,) = torch.autograd.grad(terms, input, upstream)

    leaf, terms = expected_terms(input, target, **case.options)
    parts = [
        torch.autograd.grad(term, leaf, u.cpu().double(), retain_graph=True)[0]
        for term, u in zip(terms, upstream, strict=True)
    ]
    scale = sum(part.abs() for part in parts)  # the three may cancel, and may be summed in the stored type
    assert_gradient_close(actual, sum(parts), input, target, ignore_index=case.ignore_index, scale=scale, roundings=3)


@for_all_cases(examples=200)
def test_gradient_through_one_term_only_equals_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    which = case.seed % 3
    term = cas_ext.cas_loss(input, target, return_terms=True, **case.options)[which]
    upstream = random_like(term, case.seed + 1)
    (actual,) = torch.autograd.grad(term, input, upstream)

    leaf, terms = expected_terms(input, target, **case.options)
    (expected,) = torch.autograd.grad(terms[which], leaf, upstream.cpu().double())
    assert_gradient_close(actual, expected, input, target, ignore_index=case.ignore_index)
