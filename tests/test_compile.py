"""cas_loss under torch.compile and torch.export, and the operators' own contract (schemas, fake kernels)."""

from __future__ import annotations

import itertools

import pytest
import torch
from devices import on_devices
from strategies import Case
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode

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


def test_compiled_function_takes_options_that_change():
    def function(input, target, num_regions, ignore_index, alpha):
        return cas_ext.cas_loss(input, target, num_regions=num_regions, ignore_index=ignore_index, alpha=alpha)

    input, target = Case(spatial=(9, 11)).tensors()
    dynamic = compiled(function, dynamic=True)
    for options in ((3, 2, 0.25), (5, 1, 0.75), (8, 0, 0.5), (9, 0, 1)):
        torch.testing.assert_close(dynamic(input, target, *options), function(input, target, *options))


class Step(torch.nn.Module):
    """A network that ends in its loss."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Softmax(1))
        self.criterion = cas_ext.CASLoss(num_regions=3)

    def forward(self, images, target):
        return self.criterion(self.network(images), target)


def step_and_batches(device):
    """The same network every time, and batches of three sizes."""
    torch.manual_seed(0)
    step = Step().to(device.torch_device)
    sizes = ((2, (9, 11)), (3, (8, 13)), (4, (21, 6)))
    return step, [Case(batch=batch, spatial=spatial).tensors(device.torch_device) for batch, spatial in sizes]


def train(forward, step, batches):
    """Losses and final weights of a few steps of SGD."""
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    losses = []
    for images, target in batches:
        optimizer.zero_grad()
        loss = forward(images.detach(), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [torch.stack(losses), *(parameter.detach() for parameter in step.parameters())]


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


class Module(torch.nn.Module):
    """A function as a module, which torch.export wants."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arguments):
        return self.function(*arguments)


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


def operator_arguments(device, dtype, layout, activation):
    """Arguments of every operator."""
    input, target = Case(channels=5, spatial=(6, 7), dtype=dtype, layout=layout).tensors(device.torch_device)
    input, wide = input.detach(), dtype == torch.float64
    moments = torch.ops.cas_ext.accumulate(input, target, 3, -100, False, activation)
    loss, _, _, scale, center, offset = torch.ops.cas_ext.finalise(*moments, 0.5, 0, wide)
    weight = torch.ones_like(loss)
    return {
        "accumulate": (input, target, 3, -100, False, activation),
        "finalise": (*moments, 0.5, 0, wide),
        "forward": (input, target, 3, -100, False, activation, 0.5, 0, 1),
        "apply": (input, target, weight, True, scale, center, offset, -100, activation),
    }


@on_real_devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "channel slice", "transposed"])
@pytest.mark.parametrize(
    ("name", "activation"),
    [("finalise", None), *itertools.product(["accumulate", "forward", "apply"], cas_ext.ops.ACTIVATIONS)],
    ids=str,
)
def test_operator_keeps_its_contract_with_pytorch(device, name, activation, dtype, layout):
    operator = getattr(torch.ops.cas_ext, name).default
    arguments = operator_arguments(device, dtype, layout, cas_ext.ops.ACTIVATIONS[activation])
    torch.library.opcheck(operator, arguments[name])


@on_real_devices
@pytest.mark.parametrize("name", ["accumulate", "forward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operator_keeps_its_contract_with_a_gradient(device, name, dtype):
    input, *others = operator_arguments(device, dtype, "contiguous", 0)[name]
    # Not test_aot_dispatch_dynamic: it adds all outputs up, and fails to add doubles to the int64 counts.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    operator = getattr(torch.ops.cas_ext, name).default
    torch.library.opcheck(operator, (input.requires_grad_(), *others), test_utils=checks)


@on_real_devices
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)])
def test_operators_keep_their_contract_for_empty_inputs(device, shape):
    input = torch.zeros(shape, device=device.torch_device)
    target = torch.zeros(shape[0], shape[2], dtype=torch.uint8, device=device.torch_device)
    torch.library.opcheck(torch.ops.cas_ext.accumulate.default, (input, target, 3, -100, False))
