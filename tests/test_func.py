"""torch.func: grad, vmap, jacobians and Hessians, and forward mode, alone and one inside the other, equal the reference's."""

from __future__ import annotations

import pytest
import torch
from devices import DEVICES, on_devices, on_every_device
from strategies import DISTANCES, Case
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import cas_ext
from cas_ext import reference

OPTIONS = [dict(distance=distance, activation=activation) for distance in DISTANCES for activation in (None, "softmax")]
REDUCED = [
    dict(reduction=reduction, return_terms=terms) for reduction in ("mean", "sum", "none") for terms in (False, True)
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
each_reduction = pytest.mark.parametrize("reduced", REDUCED, ids=str)

B, M, PIXELS, CALLS = 2, 2, 5, 3


def problem(device, calls=CALLS, ignored=0.2):
    """(calls, B, M, PIXELS) descriptors and their labels; no leaf."""
    case = Case(batch=calls * B, channels=M, spatial=(PIXELS,), dtype=torch.float64, ignored=ignored, seed=11)
    input, target = case.tensors(device.torch_device)
    return input.detach().unflatten(0, (calls, B)), target.unflatten(0, (calls, B))


def ours(**options):
    return lambda s, t: cas_ext.cas_loss(s, t, alpha=0.3, num_regions=3, **options)


def oracle(**options):
    return lambda s, t: reference.cas_loss(s, t, alpha=0.3, num_regions=3, **options)


def scalar(function):
    """A number from whatever `function` returns, with every part of another weight."""

    def total(s, t):
        results = function(s, t)
        results = results if isinstance(results, tuple) else (results,)
        weights = torch.arange(1.0, B + 1, dtype=torch.float64, device=s.device)
        return sum((k + 1) * (result * weights).sum() for k, result in enumerate(results))

    return total


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)


@on_every_device
@each_option
@each_reduction
def test_vmap_equals_a_loop_of_calls(device, options, reduced):
    inputs, targets = problem(device)
    f = ours(**options, **reduced)
    batched = vmap(f)(inputs, targets)
    one_by_one = [f(s, t) for s, t in zip(inputs, targets, strict=True)]
    if reduced["return_terms"]:
        assert_same(batched, tuple(torch.stack(terms) for terms in zip(*one_by_one, strict=True)))
    else:
        assert_same(batched, torch.stack(one_by_one))


@on_every_device
@each_reduction
@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (3, 2), (1, 0), (-1, None)], ids=str)
def test_vmap_over_any_dimension_of_either_argument(device, reduced, in_dims):
    arguments = [x[0] if dim is None else x.movedim(0, dim) for x, dim in zip(problem(device), in_dims, strict=True)]
    f, r = ours(**reduced), oracle(**reduced)
    assert_same(vmap(f, in_dims=in_dims)(*arguments), vmap(r, in_dims=in_dims)(*arguments))


def test_missing_num_regions_is_named_where_targets_are_mapped():
    inputs, targets = problem(DEVICES["cpu"])
    with pytest.raises(ValueError, match=r"^cas_loss: num_regions must be given .* under vmap.*; got None"):
        vmap(cas_ext.cas_loss)(inputs, targets)
    assert_same(  # one target for all calls can be read
        vmap(cas_ext.cas_loss, in_dims=(0, None))(inputs, targets[0]),
        torch.stack([cas_ext.cas_loss(input, targets[0]) for input in inputs]),
    )


@on_every_device
@each_reduction
def test_nested_vmap(device, reduced):
    inputs, targets = problem(device, calls=6)
    inputs = inputs.unflatten(0, (2, 3))
    f, r = (vmap(vmap(h), in_dims=(0, None)) for h in (ours(**reduced), oracle(**reduced)))
    assert_same(f(inputs, targets[:3]), r(inputs, targets[:3]))


@on_every_device
def test_vmap_folds_the_calls_into_one_pass(device, monkeypatch):
    inputs, targets = problem(device)
    calls, forward = [], cas_ext.ops.forward

    def counted(input, *arguments):
        calls.append(tuple(input.shape))
        return forward(input, *arguments)

    monkeypatch.setattr(cas_ext.ops, "forward", counted)
    vmap(ours())(inputs, targets)
    assert calls == [(CALLS * B, M, PIXELS)]


@on_every_device
@each_option
@each_reduction
def test_gradient_of_a_call_and_of_each_call(device, options, reduced):
    inputs, targets = problem(device)
    f, r = (scalar(h(**options, **reduced)) for h in (ours, oracle))
    assert_same(grad(f)(inputs[0], targets[0]), grad(r)(inputs[0], targets[0]))
    assert_same(vmap(grad(f))(inputs, targets), vmap(grad(r))(inputs, targets))
    assert_same(
        vmap(grad(f), in_dims=(0, None))(inputs, targets[0]), vmap(grad(r), in_dims=(0, None))(inputs, targets[0])
    )
    assert_same(
        grad(lambda s: vmap(f)(s, targets).square().sum())(inputs),
        grad(lambda s: vmap(r)(s, targets).square().sum())(inputs),
    )


@on_every_device
def test_vmapped_loss_takes_part_in_ordinary_autograd(device):
    inputs, targets = problem(device)

    def gradients(f):
        leaf = inputs.clone().requires_grad_()
        (first,) = torch.autograd.grad(vmap(f)(leaf, targets).square().sum(), leaf, create_graph=True)
        return first.detach(), torch.autograd.grad(first.square().sum(), leaf)[0]

    assert_same(gradients(ours()), gradients(oracle()))


@on_devices("cpu", "cuda")
def test_per_sample_gradients_of_the_parameters_of_a_network(device):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv1d(4, M, 1))
    network.to(device.torch_device, torch.float64)
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    images = torch.randn(CALLS, 1, PIXELS, dtype=torch.float64, device=device.torch_device)
    targets = problem(device)[1][:, 0]

    def loss(parameters, image, target, f):
        return f(functional_call(network, parameters, image[None]).softmax(1), target[None])

    actual, expected = (
        vmap(grad(loss), in_dims=(None, 0, 0, None))(parameters, images, targets, f) for f in (ours(), oracle())
    )
    for name in parameters:
        assert_same(actual[name], expected[name])


@on_devices("cpu", "cuda")
@each_option
@each_reduction
def test_jacobians_in_both_modes(device, options, reduced):
    inputs, targets = problem(device)
    f, r = ours(**options, **reduced), oracle(**options, **reduced)
    expected = jacrev(r)(inputs[0], targets[0])
    assert_same(jacrev(f)(inputs[0], targets[0]), expected)
    assert_same(jacfwd(f)(inputs[0], targets[0]), expected)


@on_devices("cpu", "cuda")
@each_option
@pytest.mark.parametrize("terms", [False, True])
@pytest.mark.parametrize(
    "second", [lambda f: jacrev(jacrev(f)), hessian, lambda f: jacrev(jacfwd(f))], ids=["rev-rev", "fwd-rev", "rev-fwd"]
)
def test_hessians(device, options, terms, second):
    inputs, targets = problem(device)
    f, r = (scalar(h(**options, reduction="none", return_terms=terms)) for h in (ours, oracle))
    assert_same(second(f)(inputs[0], targets[0]), second(r)(inputs[0], targets[0]))
    assert_same(vmap(second(f))(inputs, targets), vmap(second(r))(inputs, targets))


@on_every_device
@each_option
@each_reduction
def test_forward_mode(device, options, reduced):
    inputs, targets = problem(device)
    tangent = inputs[1]
    f, r = ours(**options, **reduced), oracle(**options, **reduced)
    actual, expected = (jvp(lambda s, h=h: h(s, targets[0]), (inputs[0],), (tangent,)) for h in (f, r))
    assert_same(actual, expected)
    with forward_ad.dual_level():
        dual = f(forward_ad.make_dual(inputs[0], tangent), targets[0])
        terms = dual if isinstance(dual, tuple) else (dual,)
        tangents = tuple(forward_ad.unpack_dual(term).tangent for term in terms)
    assert_same(tangents, expected[1] if isinstance(expected[1], tuple) else (expected[1],))


@on_every_device
def test_forward_mode_over_forward_mode_is_refused(device):
    # PyTorch runs an autograd function's forward derivative with forward mode off, so that the outer one would be 0.
    inputs, targets = problem(device)
    f = ours(distance="log")
    with pytest.raises(RuntimeError, match=r"cas_ext: forward-mode AD over forward-mode AD .* reverse mode"):
        jacfwd(jacfwd(f))(inputs[0], targets[0])


@on_every_device
def test_pullback_may_be_used_after_the_transform_ended(device):
    inputs, targets = problem(device)
    seed = torch.tensor(2.0, dtype=torch.float64, device=device.torch_device, requires_grad=True)

    def pulled(f):
        _, pull = vjp(lambda s: f(s, targets[0]), inputs[0])
        return pull(seed)[0]

    assert_same(pulled(ours()), pulled(oracle()))


@on_devices("cpu", "cuda")
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_moments_under_every_transform(device, activation):
    inputs, targets = problem(device)

    def moments_of(module):
        return lambda s, t: tuple(module.region_moments(s, t, 3, activation=activation)[1:])

    def cubic(module):
        return lambda s, t: sum(moment.pow(3).sum() for moment in moments_of(module)(s, t))

    f, r = moments_of(cas_ext), moments_of(reference)
    assert_same(vmap(f)(inputs, targets), vmap(r)(inputs, targets))
    expected = jacrev(r)(inputs[0], targets[0])
    assert_same(jacrev(f)(inputs[0], targets[0]), expected)
    assert_same(jacfwd(f)(inputs[0], targets[0]), expected)
    expected = vmap(jacrev(jacrev(cubic(reference))))(inputs, targets)
    for second in (lambda h: jacrev(jacrev(h)), hessian, lambda h: jacrev(jacfwd(h))):
        assert_same(vmap(second(cubic(cas_ext)))(inputs, targets), expected)


@on_devices("cpu", "cuda")
@pytest.mark.parametrize("shape", [(3, 0, 2, 4), (3, 2, 2, 0), (0, 2, 2, 4)], ids=str)
def test_empty_images_batches_and_vmaps(device, shape):
    inputs = torch.zeros(shape, device=device.torch_device)
    targets = torch.zeros(shape[:2] + shape[3:], dtype=torch.uint8, device=device.torch_device)
    assert vmap(ours())(inputs, targets).tolist() == [0.0] * shape[0]
    assert vmap(grad(ours()))(inputs, targets).shape == shape
