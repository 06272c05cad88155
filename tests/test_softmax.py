"""activation="softmax": logits in, the softmax fused; loss and derivatives are those of the softmax by hand, any order."""

from __future__ import annotations

import math

import pytest
import torch
from devices import for_all_cases, on_devices, on_every_device
from oracle import double_leaf, expected_terms, random_like
from strategies import DISTANCES, DTYPES, PAIRS, REDUCTIONS, Case
from tolerances import TOLERANCE, assert_gradient_close, result_dtype
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import cas_ext
from cas_ext import reference

SOFTMAX = {"activation": "softmax"}
VALUES = ("normal", "softmax", "offset", "constant")

# How far a descriptor in [0, 1] may be from the softmax of the logits: a few roundings of the type it is computed in.
DESCRIPTOR_ERROR = {dtype: 1e-14 if dtype == torch.float64 else 4 * 2.0**-24 for dtype in DTYPES}


def slack_of(case):
    """What that error makes of a gradient times the size of its region, at most."""
    pull = {"ordered": 4, "unordered": 2, "mean": 8}[case.pairs] * case.regions
    return DESCRIPTOR_ERROR[case.dtype] * (2 * case.alpha + pull * (1 - case.alpha))


def descriptor_gradient(input, target, upstream, **options):
    """The largest |dL/ds| of each pixel, twice, in float64: a gradient s (g - <s, g>) of the logits is a difference of two."""
    s = double_leaf(input).detach().softmax(1).requires_grad_()
    loss = reference.cas_loss(s, target.cpu(), **options | {"activation": None})
    (gradient,) = torch.autograd.grad(loss, s, upstream)
    return 2 * gradient.abs().amax(1, keepdim=True).expand_as(gradient)


@for_all_cases(examples=1000, values=VALUES, activations=("softmax",))
def test_loss_and_terms_equal_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    options = case.options | {"reduction": "none"}
    actual = cas_ext.cas_loss(input, target, return_terms=True, **options)
    _, expected = expected_terms(input, target, **options)

    loss, uniformer, discriminator = (term.detach() for term in expected)
    # A descriptor off by e changes a square v^2 by 2 v e: Cauchy-Schwarz over the N regions, or N^2 pairs.
    tolerance, e = TOLERANCE[case.dtype].loss, DESCRIPTOR_ERROR[case.dtype]
    regions = case.regions * case.channels
    of_uniformer = tolerance * uniformer + 2 * e * (regions * uniformer).sqrt() + regions * e**2
    of_discriminator = tolerance * discriminator + 4 * e * regions * discriminator.sqrt() + 4 * (regions * e) ** 2
    bounds = (case.alpha * of_uniformer + (1 - case.alpha) * of_discriminator, of_uniformer, of_discriminator)
    for got, want, bound in zip(actual, (loss, uniformer, discriminator), bounds, strict=True):
        assert got.dtype == result_dtype(case.dtype) and got.shape == want.shape
        assert bool(((got.detach().cpu().double() - want).abs() <= bound).all()), (got, want, bound)


@for_all_cases(examples=1000, values=VALUES, activations=("softmax",))
def test_gradient_of_the_logits_equals_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    loss = cas_ext.cas_loss(input, target, **case.options)
    upstream = random_like(loss, case.seed + 1)
    (actual,) = torch.autograd.grad(loss, input, upstream)

    leaf, (loss, _, _) = expected_terms(input, target, **case.options)
    wide_upstream = upstream.cpu().double()
    (expected,) = torch.autograd.grad(loss, leaf, wide_upstream)
    scale = descriptor_gradient(input, target, wide_upstream, **case.options)
    slack = slack_of(case) * float(wide_upstream.abs().max()) if upstream.numel() else 0.0
    assert actual.stride() == torch.empty_like(input).stride()
    assert_gradient_close(actual, expected, input, target, ignore_index=case.ignore_index, scale=scale, slack=slack)


@for_all_cases(examples=300, values=VALUES, activations=("softmax",), dtypes=(torch.float32, torch.float64))
def test_hessian_vector_product_equals_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    tangent = random_like(input, case.seed + 2)

    def product(loss, at, tangent):
        (gradient,) = torch.autograd.grad(loss.sum(), at, create_graph=True)
        return torch.autograd.grad(gradient, at, tangent)[0]

    actual = product(cas_ext.cas_loss(input, target, **case.options), input, tangent)
    leaf, (loss, _, _) = expected_terms(input, target, **case.options)
    expected = product(loss, leaf, tangent.cpu().double())
    # Every summand is a descriptor gradient, or a product of the operator, times a tangent.
    scale = tangent.abs().amax().item() * 10 * case.regions if tangent.numel() else 0.0
    slack = 50 * slack_of(case) * scale
    assert_gradient_close(actual, expected, input, target, ignore_index=case.ignore_index, slack=slack, operand=tangent)


@on_every_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("channels", [1, 2, 7, 40])
def test_equals_the_loss_of_the_softmax_by_hand(device, dtype, layout, channels):
    case = Case(channels=channels, spatial=(9, 13), dtype=dtype, layout=layout, ignored=0.1)
    input, target = case.tensors(device.torch_device)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    by_hand = cas_ext.cas_loss(input.to(wide).softmax(1), target)  # never rounded to half
    fused = cas_ext.cas_loss(input, target, **SOFTMAX)
    torch.testing.assert_close(fused, by_hand, rtol=1e-6, atol=1e-6)


@on_every_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_very_large_logits_neither_overflow_nor_vanish(device, dtype, size):
    input, target = Case(channels=3, spatial=(40,), dtype=torch.float64).tensors(device.torch_device)
    input = (size * input.detach().sign()).to(dtype).requires_grad_()
    loss = cas_ext.cas_loss(input, target, **SOFTMAX)
    (gradient,) = torch.autograd.grad(loss, input)
    _, (expected, _, _) = expected_terms(input, target, **SOFTMAX)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.isfinite(gradient).all()


@on_every_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_what_ignored_logits_hold_changes_nothing(device, dtype, junk):
    case = Case(channels=3, spatial=(40,), dtype=dtype, ignored=0.3, label_dtype=torch.uint8, ignore_index=255)
    input, target = case.tensors(device.torch_device)
    tangent = random_like(input, 1)

    def derivatives(logits):
        logits = logits.detach().requires_grad_()
        loss = cas_ext.cas_loss(logits, target, ignore_index=255, **SOFTMAX)
        (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
        (product,) = torch.autograd.grad(gradient, logits, tangent)
        return loss.detach(), gradient.detach(), product

    ignored = (target == 255)[:, None].expand_as(input)
    clean, spoiled = derivatives(input), derivatives(torch.where(ignored, junk, input))
    for a, b in zip(clean, spoiled, strict=True):
        assert torch.equal(a, b)
    for derivative in spoiled[1:]:
        assert not derivative[ignored].any()


@on_every_device
def test_adding_a_constant_to_the_logits_of_a_pixel_changes_nothing(device):
    input, target = Case(channels=4, spatial=(50,), dtype=torch.float64).tensors(device.torch_device)
    shifted = input.detach() + 7 * random_like(input[:, :1].detach(), 3)
    first, second = cas_ext.cas_loss(input, target, **SOFTMAX), cas_ext.cas_loss(shifted, target, **SOFTMAX)
    assert first.item() == pytest.approx(second.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(first, input)
    assert gradient.sum(1).abs().max().item() <= 1e-15


@on_every_device
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_forward_and_backward_take_one_pass_each(device, distance, reduction, monkeypatch):
    input, target = Case(spatial=(30,)).tensors(device.torch_device)
    calls = []

    def counted(name, operator):
        def run(*arguments):
            calls.append(name)
            return operator(*arguments)

        return run

    for name in ("accumulate", "finalise", "forward", "apply"):
        monkeypatch.setattr(cas_ext.ops, name, counted(name, getattr(cas_ext.ops, name)))
    first = "forward" if distance == "sqeuclidean" else "accumulate"
    for activation in (None, "softmax"):
        calls.clear()
        loss = cas_ext.cas_loss(input, target, activation=activation, distance=distance, reduction=reduction)
        assert calls == [first]
        loss.sum().backward()
        assert calls == [first, "apply"]


class LargeResults(TorchDispatchMode):
    """The operations whose result has at least as many elements as a given one, in order."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.found = elements, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() >= self.elements and not function.is_view:
            self.found.append(function.name())
        return result


@on_devices("cpu", "cuda")
@pytest.mark.parametrize("call", ["sqeuclidean", "log", "moments"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_of_the_size_of_the_logits_is_made_but_their_gradient(device, call, dtype):
    input, target = Case(channels=4, spatial=(1000,), dtype=dtype).tensors(device.torch_device)
    with LargeResults(input.numel() // 4) as large:
        if call == "moments":
            value = cas_ext.region_moments(input, target, 3, **SOFTMAX).scatter.sum()
        else:
            value = cas_ext.cas_loss(input, target, distance=call, num_regions=3, **SOFTMAX)
        torch.autograd.grad(value, input)
    assert large.found == ["cas_ext::apply"]


# Three regions, one of them absent from the second image, ignored pixels, two images.
SMALL = Case(batch=2, channels=2, spatial=(6,), regions=4, mask="half absent", ignored=0.2, dtype=torch.float64, seed=5)


@on_devices("cpu", "cuda")
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("return_terms", [False, True])
def test_derivatives_of_the_loss_and_its_terms(device, check, pairs, reduction, return_terms):
    input, target = SMALL.tensors(device.torch_device)
    options = dict(alpha=0.3, num_regions=4, pairs=pairs, reduction=reduction, return_terms=return_terms)
    assert check(lambda input: cas_ext.cas_loss(input, target, **options, **SOFTMAX), (input,))


@on_devices("cpu", "cuda")
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("distance", ["euclidean", "log"])
def test_derivatives_with_another_distance(device, check, distance):
    input, target = SMALL.tensors(device.torch_device)
    options = dict(alpha=0.3, num_regions=4, distance=distance, return_terms=True)
    assert check(lambda input: cas_ext.cas_loss(input, target, **options, **SOFTMAX), (input,))


@on_every_device
def test_third_derivative_equals_the_reference(device):
    input, target = SMALL.tensors(device.torch_device)

    def third(loss, at):
        for order in range(3):
            (derivative,) = torch.autograd.grad(loss, at, create_graph=True)
            loss = (derivative * random_like(derivative, order)).sum()
        return derivative

    leaf, (loss, _, _) = expected_terms(input, target, **SOFTMAX)
    actual = third(cas_ext.cas_loss(input, target, **SOFTMAX), input)
    torch.testing.assert_close(actual.detach().cpu(), third(loss, leaf).detach(), rtol=1e-9, atol=1e-11)


@for_all_cases(examples=300, values=VALUES, activations=("softmax",))
def test_moments_are_those_of_the_softmax(device, case):
    input, target = case.tensors(device.torch_device)
    N = case.num_regions or case.regions
    options = dict(ignore_index=case.ignore_index, activation="softmax")
    actual = cas_ext.region_moments(input, target, N, **options)
    leaf = double_leaf(input)
    expected = reference.region_moments(leaf, target.cpu(), N, **options)
    upstream = [random_like(moment, case.seed + k) for k, moment in enumerate(actual[1:])]
    (gradient,) = torch.autograd.grad(actual[1:], input, upstream)
    (wanted,) = torch.autograd.grad(expected[1:], leaf, [u.cpu().double() for u in upstream])

    e = DESCRIPTOR_ERROR[case.dtype]
    assert torch.equal(actual.count.cpu(), expected.count.long())
    bound = (
        TOLERANCE[case.dtype].loss * expected.scatter
        + 2 * e * (expected.count * expected.scatter).sqrt() * case.channels
    )
    bound = bound + expected.count * case.channels * e**2
    assert bool(((actual.mean.cpu().double() - expected.mean).abs() <= 2 * e).all())
    assert bool(((actual.scatter.cpu().double() - expected.scatter).abs() <= bound).all())
    largest = max((float(u.abs().max()) for u in upstream if u.numel()), default=0.0)
    slack = 8 * largest * e * (1 + expected.count.detach())
    scale = torch.full_like(wanted, 1.0) * largest
    assert_gradient_close(gradient, wanted, input, target, ignore_index=case.ignore_index, slack=slack, scale=scale)


@on_devices("cpu", "cuda")
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
def test_derivatives_of_the_moments(device, check):
    input, target = SMALL.tensors(device.torch_device)
    assert check(lambda input: cas_ext.region_moments(input, target, 4, **SOFTMAX)[1:], (input,))
