"""cas_loss under torch.export and AOTInductor."""

from __future__ import annotations

import pytest
import torch
from devices import on_devices
from strategies import Case
from training_steps import Module, loss_and_gradient, step_and_batches, train

import cas_ext

on_real_devices = on_devices("cpu", "cuda")
pytestmark = pytest.mark.usefixtures("fresh_compiler")


def exported(step, images, target):
    """The step as an exported program for batches of any size."""
    B, H, W = (torch.export.Dim(name, min=2, max=64) for name in "BHW")
    return torch.export.export(step, (images.detach(), target), dynamic_shapes=({0: B, 2: H, 3: W}, {0: B, 1: H, 2: W}))


@on_real_devices
def test_exported_program_computes_the_same_loss_for_other_sizes_and_from_a_file(device, tmp_path):
    step, batches = step_and_batches(device)
    program = exported(step, *batches[0])
    torch.export.save(program, tmp_path / "step.pt2")
    loaded = torch.export.load(tmp_path / "step.pt2")
    for images, target in batches:
        expected = step(images.detach(), target)
        torch.testing.assert_close(program.module()(images.detach(), target), expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(loaded.module()(images.detach(), target), expected, rtol=1e-6, atol=0)


@on_real_devices
def test_exported_program_can_be_trained(device):
    step, batches = step_and_batches(device)
    expected = train(step, step, batches)
    step, _ = step_and_batches(device)
    module = exported(step, *batches[0]).module()
    for a, b in zip(train(module, module, batches), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def all_terms(input, target):
    terms = cas_ext.cas_loss(
        input, target, alpha=0.3, num_regions=3, ignore_index=2, pairs="mean", reduction="none", return_terms=True
    )
    return sum(weight * term for weight, term in zip((1, -0.7, 0.4), terms, strict=True))


def one_term(input, target):
    return cas_ext.cas_loss(input, target, num_regions=3, return_terms=True)[2]


def softmax_in_front(input, target):
    return cas_ext.cas_loss(30 * input, target, num_regions=3, activation="softmax")


def log_distance(input, target):
    return cas_ext.cas_loss(input, target, num_regions=3, distance="log")


def own_loss_on_moments(input, target):
    count, mean, scatter = cas_ext.region_moments(input, target, 3)
    return (mean.pow(3).sum(2) * count + scatter.square()).sum()


@on_real_devices
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "function", [all_terms, one_term, softmax_in_front, log_distance, own_loss_on_moments], ids=lambda f: f.__name__
)
def test_exported_program_has_the_gradient_of_the_function(device, function, dtype, strict):
    input, target = Case(channels=5, spatial=(9, 11), dtype=dtype).tensors(device.torch_device)
    program = torch.export.export(Module(function), (input.detach(), target), strict=strict).module()
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 8e-3}[dtype]
    actual, expected = loss_and_gradient(program, input, target), loss_and_gradient(function, input, target)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


@on_real_devices
@pytest.mark.parametrize("function", [all_terms, softmax_in_front, own_loss_on_moments], ids=lambda f: f.__name__)
def test_exported_program_has_the_second_derivative_of_the_function(device, function):
    input, target = Case(spatial=(9, 11), dtype=torch.float64).tensors(device.torch_device)
    program = torch.export.export(Module(function), (input.detach(), target)).module()
    tangent = torch.sin(torch.arange(input.numel(), device=input.device)).view_as(input).to(input.dtype)

    def hessian_vector_product(of):
        leaf = input.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(of(leaf, target).sum(), leaf, create_graph=True)
        return torch.autograd.grad((gradient * tangent).sum(), leaf)[0]

    expected = hessian_vector_product(function)
    torch.testing.assert_close(hessian_vector_product(program), expected, rtol=1e-10, atol=1e-12)
    assert expected.abs().max() > 0


@on_real_devices
def test_aot_inductor_package_computes_the_same_loss(device, tmp_path):
    step, batches = step_and_batches(device)
    with torch.no_grad():
        program = exported(step, *batches[0])
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "step.pt2"))
        packaged = torch._inductor.aoti_load_package(path)
        for images, target in batches:
            actual, expected = packaged(images.detach(), target), step(images.detach(), target)
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)
