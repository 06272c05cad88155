"""cas_loss under torch.compile."""

from __future__ import annotations

import pytest
import torch
from devices import on_devices
from strategies import Case
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from training_steps import Module, loss_and_gradient, step_and_batches, train

import cas_ext

on_real_devices = on_devices("cpu", "cuda")
pytestmark = pytest.mark.usefixtures("fresh_compiler")


def compiled(function, **options):
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


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


def test_compiled_function_takes_options_that_change():
    def function(input, target, num_regions, ignore_index, alpha):
        return cas_ext.cas_loss(input, target, num_regions=num_regions, ignore_index=ignore_index, alpha=alpha)

    input, target = Case(spatial=(9, 11)).tensors()
    dynamic = compiled(function, dynamic=True)
    for options in ((3, 2, 0.25), (5, 1, 0.75), (8, 0, 0.5), (9, 0, 1)):
        torch.testing.assert_close(dynamic(input, target, *options), function(input, target, *options))


@on_real_devices
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_training_step_compiled_by_inductor_equals_eager(device, dynamic):
    step, batches = step_and_batches(device)
    if not dynamic:
        batches = [batches[0]] * 3
    expected = train(step, step, batches)
    step, _ = step_and_batches(device)
    actual = train(torch.compile(step, fullgraph=True, dynamic=dynamic), step, batches)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # inductor may reorder the softmax's sums


@on_real_devices
def test_compiled_moments_equal_eager(device):
    def function(input, target):
        moments = cas_ext.region_moments(input, target, 3)
        return moments.mean.pow(3).sum() + moments.scatter.sum() + moments.count.sum()

    input, target = Case(spatial=(9, 11)).tensors(device.torch_device)
    actual, expected = loss_and_gradient(compiled(function), input, target), loss_and_gradient(function, input, target)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


NO_LABEL_READ = "cas_loss: num_regions must be given where no label can be read"


def test_missing_num_regions_is_named_where_one_graph_is_asked_for():
    input, target = Case(spatial=(9, 11)).tensors()
    with pytest.raises(Exception, match=NO_LABEL_READ):  # of torch._dynamo, with this text
        compiled(cas_ext.cas_loss)(input, target)
    for strict in (True, False):
        with pytest.raises(Exception, match=NO_LABEL_READ):
            torch.export.export(Module(cas_ext.cas_loss), (input.detach(), target), strict=strict)


def test_missing_num_regions_breaks_the_graph_and_changes_nothing():
    input, target = Case(spatial=(9, 11)).tensors()
    function = torch.compile(cas_ext.cas_loss, backend="aot_eager")
    for labels in (target, 2 * target, 3 * target):
        expected = loss_and_gradient(cas_ext.cas_loss, input, labels)
        assert_same(loss_and_gradient(function, input, labels), expected)


def test_missing_num_regions_is_named_for_tensors_without_values():
    input, target = Case(spatial=(9, 11)).tensors("meta")
    with pytest.raises(ValueError, match=f"^{NO_LABEL_READ}"):
        cas_ext.cas_loss(input, target)
    assert cas_ext.cas_loss(input, target, num_regions=3).is_meta
    with FakeTensorMode() as mode, pytest.raises(ValueError, match=f"^{NO_LABEL_READ}"):
        cas_ext.cas_loss(*(mode.from_tensor(t) for t in Case(spatial=(9, 11)).tensors()))


def test_compiled_function_refuses_a_bad_label_too():
    input, target = Case(spatial=(9, 11)).tensors()
    function = compiled(lambda s, t: cas_ext.cas_loss(s, t, num_regions=3))
    function(input, target)
    target[1, 2, 3] = 7
    with pytest.raises(ValueError, match=r"(?s)target must .*got 7"):
        function(input, target)
