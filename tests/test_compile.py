"""cas_loss under torch.compile and torch.export, and the operators' own contract (schemas, fake kernels)."""

from __future__ import annotations

import pytest
import torch
from devices import on_devices
from strategies import Case
from torch._dynamo.testing import CompileCounterWithBackend

import cas_ext

on_real_devices = on_devices("cpu", "cuda")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function, **options):
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


def loss_and_gradient(function, input, target):
    input = input.detach().requires_grad_()
    loss = function(input, target)
    (gradient,) = torch.autograd.grad(loss.sum(), input)
    return loss.detach(), gradient


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype and a.stride() == b.stride()
        assert torch.equal(a, b)


@on_real_devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_compiled_loss_and_gradient_equal_eager(device, dtype, layout):
    case = Case(
        channels=5, spatial=(9, 11), dtype=dtype, layout=layout, label_dtype=torch.uint8, ignored=0.1, ignore_index=255
    )

    def function(input, target):
        return cas_ext.cas_loss(input, target, alpha=0.3, num_regions=3, ignore_index=255, pairs="mean")

    input, target = case.tensors(device.torch_device)
    assert_same(loss_and_gradient(compiled(function), input, target), loss_and_gradient(function, input, target))


@on_real_devices
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_compiled_terms_equal_eager(device, reduction):
    def function(input, target):
        loss, uniformer, discriminator = cas_ext.cas_loss(
            input, target, num_regions=3, reduction=reduction, return_terms=True
        )
        return loss + 2 * uniformer - 3 * discriminator

    input, target = Case(spatial=(9, 11)).tensors(device.torch_device)
    actual, expected = loss_and_gradient(compiled(function), input, target), loss_and_gradient(function, input, target)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # the sum of terms may be reassociated


@on_real_devices
def test_compiled_module_within_a_network_equals_eager(device):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Softmax(1)).to(device.torch_device)
    criterion = cas_ext.CASLoss(num_regions=3)
    images = torch.randn(2, 3, 11, 13, device=device.torch_device)
    target = torch.randint(3, (2, 9, 11), device=device.torch_device)

    def function(images, target):
        return criterion(network(images), target)

    actual, expected = (
        loss_and_gradient(compiled(function), images, target),
        loss_and_gradient(function, images, target),
    )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@on_real_devices
def test_compiled_function_serves_other_sizes_without_a_graph_per_size(device):
    def function(input, target):
        return cas_ext.cas_loss(input, target, num_regions=3)

    counted = CompileCounterWithBackend("aot_eager")
    dynamic = torch.compile(function, fullgraph=True, backend=counted, dynamic=True)
    counts = []
    for batch, spatial in ((2, (9, 11)), (3, (8, 13)), (4, (21, 6)), (5, (21, 6))):
        input, target = Case(batch=batch, spatial=spatial).tensors(device.torch_device)
        assert_same(loss_and_gradient(dynamic, input, target), loss_and_gradient(function, input, target))
        counts.append(counted.frame_count)
    assert len(set(counts)) == 1, f"graphs compiled after each size: {counts}"


@on_real_devices
def test_compiled_moments_equal_eager(device):
    def function(input, target):
        moments = cas_ext.region_moments(input, target, 3)
        return moments.mean.pow(3).sum() + moments.scatter.sum() + moments.count.sum()

    input, target = Case(spatial=(9, 11)).tensors(device.torch_device)
    actual, expected = loss_and_gradient(compiled(function), input, target), loss_and_gradient(function, input, target)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_compiled_function_refuses_a_bad_label_too():
    input, target = Case(spatial=(9, 11)).tensors()
    function = compiled(lambda s, t: cas_ext.cas_loss(s, t, num_regions=3))
    function(input, target)
    target[1, 2, 3] = 7
    with pytest.raises(ValueError, match=r"(?s)target must .*got 7"):
        function(input, target)


@on_real_devices
def test_exported_program_computes_the_same_loss(device):
    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.criterion = cas_ext.CASLoss(num_regions=3)

        def forward(self, input, target):
            return self.criterion(input, target)

    input, target = Case(spatial=(9, 11)).tensors(device.torch_device)
    input = input.detach()
    program = torch.export.export(Step(), (input, target))
    assert torch.equal(program.module()(input, target), cas_ext.cas_loss(input, target, num_regions=3))


def operator_arguments(device, dtype, layout):
    """Arguments of the three operators, in the order of the pipeline."""
    input, target = Case(channels=5, spatial=(6, 7), dtype=dtype, layout=layout).tensors(device.torch_device)
    input, wide = input.detach(), dtype == torch.float64
    moments = torch.ops.cas_ext.accumulate(input, target, 3, -100, False)
    loss, _, _, scale, center, offset = torch.ops.cas_ext.finalise(*moments, 0.5, 0, wide)
    weight = torch.ones_like(loss)
    return {
        "accumulate": (input, target, 3, -100, False),
        "finalise": (*moments, 0.5, 0, wide),
        "apply": (input, target, weight, 0.5, scale, center, offset, -100),
    }


@on_real_devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "channel slice", "transposed"])
@pytest.mark.parametrize("name", ["accumulate", "finalise", "apply"])
def test_operator_keeps_its_contract_with_pytorch(device, name, dtype, layout):
    operator = getattr(torch.ops.cas_ext, name).default
    torch.library.opcheck(operator, operator_arguments(device, dtype, layout)[name])


@on_real_devices
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)])
def test_operators_keep_their_contract_for_empty_inputs(device, shape):
    input = torch.zeros(shape, device=device.torch_device)
    target = torch.zeros(shape[0], shape[2], dtype=torch.uint8, device=device.torch_device)
    torch.library.opcheck(torch.ops.cas_ext.accumulate.default, (input, target, 3, -100, False))
