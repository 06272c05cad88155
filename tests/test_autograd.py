"""cas_loss behaves in PyTorch's autograd as a built-in loss does."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from devices import on_devices, on_every_device
from oracle import expected_terms
from strategies import DTYPES, PAIRS, Case
from tolerances import assert_gradient_close, result_dtype

import cas_ext


def problem(device, **changes):
    return Case(spatial=(6, 7), **changes).tensors(device.torch_device)


@on_every_device
@pytest.mark.parametrize("call", [cas_ext.cas_loss, lambda s, t: cas_ext.region_moments(s, t, 3).mean])
def test_no_graph_where_no_gradient_is_needed(device, call):
    input, target = problem(device)
    assert call(input, target).grad_fn is not None
    for quiet in (input.detach(), input.detach().clone()):
        result = call(quiet, target)
        assert not result.requires_grad and result.grad_fn is None
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            result = call(input, target)
        assert not result.requires_grad and result.grad_fn is None


@on_every_device
def test_same_loss_with_and_without_a_graph(device):
    input, target = problem(device)
    with_graph = cas_ext.cas_loss(input, target).detach()
    with torch.no_grad():
        assert torch.equal(cas_ext.cas_loss(input, target), with_graph)
    with torch.inference_mode():
        assert torch.equal(cas_ext.cas_loss(input, target), with_graph)


@on_every_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_dtypes_and_shapes_of_results(device, dtype, reduction):
    input, target = problem(device, dtype=dtype)
    terms = cas_ext.cas_loss(input, target, reduction=reduction, return_terms=True)
    assert isinstance(terms, tuple) and len(terms) == 3
    for term in terms:
        assert term.dtype == result_dtype(dtype)
        assert term.shape == (() if reduction == "mean" else (2,))
        assert term.device == input.device
    (gradient,) = torch.autograd.grad(terms[0].sum(), input)
    assert gradient.dtype == dtype and gradient.shape == input.shape and gradient.device == input.device


@on_every_device
def test_backward_twice_over_a_retained_graph_gives_the_same_gradient(device):
    input, target = problem(device)
    loss = cas_ext.cas_loss(input, target)
    (first,) = torch.autograd.grad(loss, input, retain_graph=True)
    (second,) = torch.autograd.grad(loss, input)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, input)


@on_every_device
def test_gradients_accumulate_over_calls(device):
    input, target = problem(device)
    cas_ext.cas_loss(input, target).backward()
    once = input.grad.clone()
    cas_ext.cas_loss(input, target).backward()
    assert torch.equal(input.grad, 2 * once)


@on_every_device
def test_gradient_flows_to_what_produced_the_input(device):
    logits, target = problem(device, channels=4, dtype=torch.float64)
    cas_ext.cas_loss(logits.softmax(1), target, alpha=0.3).backward()
    leaf = logits.detach().cpu().requires_grad_()
    cas_ext.reference.cas_loss(leaf.softmax(1), target.cpu(), alpha=0.3).backward()
    assert_gradient_close(logits.grad, leaf.grad, logits, target)


@on_every_device
def test_gradient_scales_with_the_upstream_gradient(device):
    input, target = problem(device)
    (one,) = torch.autograd.grad(cas_ext.cas_loss(input, target), input)
    (minus_four,) = torch.autograd.grad(-4 * cas_ext.cas_loss(input, target), input)
    assert torch.equal(minus_four, -4 * one)  # a power of two: exact
    (nothing,) = torch.autograd.grad(0 * cas_ext.cas_loss(input, target), input)
    assert not nothing.any()


@on_every_device
def test_changing_the_input_in_place_before_backward_is_detected(device):
    input, target = problem(device)
    descriptors = input * 1.0
    loss = cas_ext.cas_loss(descriptors, target)
    descriptors.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@on_every_device
def test_changing_the_target_in_place_before_backward_is_detected(device):
    input, target = problem(device)
    loss = cas_ext.cas_loss(input, target)
    target.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@on_every_device
def test_unused_terms_cost_no_gradient_and_raise_no_error(device):
    input, target = problem(device)
    _, uniformer, discriminator = cas_ext.cas_loss(input, target, alpha=0.3, return_terms=True)
    (g_uniformer,) = torch.autograd.grad(uniformer, input, retain_graph=True)
    (g_discriminator,) = torch.autograd.grad(discriminator, input)
    (g_loss,) = torch.autograd.grad(cas_ext.cas_loss(input, target, alpha=0.3), input)
    torch.testing.assert_close(0.3 * g_uniformer - 0.7 * g_discriminator, g_loss, rtol=1e-5, atol=1e-7)


@on_every_device
def test_two_losses_on_one_input_do_not_disturb_each_other(device):
    input, target = problem(device, regions=2, num_regions=2)
    other = 1 - target
    first, second = cas_ext.cas_loss(input, target, alpha=0.2), cas_ext.cas_loss(input, other, alpha=0.9)
    (both,) = torch.autograd.grad(first + second, input)
    parts = [
        torch.autograd.grad(cas_ext.cas_loss(input, labels, alpha=alpha), input)[0]
        for labels, alpha in ((target, 0.2), (other, 0.9))
    ]
    torch.testing.assert_close(both, sum(parts), rtol=1e-6, atol=1e-8)


@on_every_device
@pytest.mark.parametrize("pairs", PAIRS)
def test_descriptors_descend_to_pure_and_distinct_regions(device, pairs):
    # Plain SGD through a softmax: the loss falls at every step and nears its minimum.
    logits, target = problem(device, channels=2, regions=2, num_regions=2)
    optimiser = torch.optim.SGD([logits], lr=10.0)
    curve = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = cas_ext.cas_loss(logits.softmax(1), target, pairs=pairs)
        loss.backward()
        optimiser.step()
        curve.append(loss.item())
    assert all(later < earlier for earlier, later in itertools.pairwise(curve))
    assert curve[-1] < 0.85 * {"ordered": -2.0, "unordered": -1.0, "mean": -2.0}[pairs]


@on_devices("cpu", "cuda")
def test_network_learns_to_separate_regions_whose_ids_are_random(device):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1), torch.nn.Softmax(1)
    )
    network.to(device.torch_device)
    shape = torch.zeros(8, 16, 16, dtype=torch.int64)
    shape[:, 4:12, 3:9] = 1
    images = (shape[:, None] * 2.0 - 1 + 0.3 * torch.randn(8, 1, 16, 16)).to(device.torch_device)
    target = torch.where(torch.arange(8).view(8, 1, 1) % 2 == 0, shape, 1 - shape).to(
        device.torch_device
    )  # half are swapped
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        loss = cas_ext.cas_loss(network(images), target)
        loss.backward()
        optimiser.step()
    assert loss.item() < -1.8  # of at best -2


@on_devices("cpu", "cuda")
def test_autocast_leaves_the_loss_as_it_is(device):
    input, target = problem(device)
    expected = cas_ext.cas_loss(input, target)
    with torch.autocast(device.torch_device, torch.bfloat16):
        loss = cas_ext.cas_loss(input, target)
        half = cas_ext.cas_loss(input.bfloat16(), target)
    assert torch.equal(loss, expected) and loss.dtype == torch.float32
    assert half.dtype == torch.float32


@on_devices("cpu", "cuda")
def test_backward_from_another_thread(device):
    input, target = problem(device)

    def gradient(_):
        own = input.detach().clone().requires_grad_()
        cas_ext.cas_loss(own, target).backward()
        return own.grad

    with ThreadPoolExecutor(4) as pool:
        gradients = list(pool.map(gradient, range(16)))
    assert all(torch.equal(g, gradients[0]) for g in gradients)


@on_devices("cpu", "cuda")  # the emulator reads memory, which a transform's tensors do not have
def test_functional_gradient_transform_equals_the_reference(device):
    input, target = problem(device)
    gradient = torch.func.grad(lambda s: cas_ext.cas_loss(s, target))(input.detach())
    leaf, (loss, _, _) = expected_terms(input, target)
    assert_gradient_close(gradient, torch.autograd.grad(loss, leaf)[0], input, target)
