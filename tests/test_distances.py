"""distance="euclidean" and "log": the reference's loss and derivatives, and finite ones where two means coincide."""

from __future__ import annotations

import math

import pytest
import torch
from devices import for_all_cases, on_devices, on_every_device
from oracle import double_leaf, expected_terms, random_like
from strategies import DTYPES, PAIRS, REDUCTIONS, Case
from tolerances import TOLERANCE, assert_gradient_close, result_dtype, square_floor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import cas_ext
from cas_ext import reference
from cas_ext.distances import BLOCK

DISTANCES = ("euclidean", "log")
VALUES = ("normal", "softmax", "offset", "one-hot")


def means_of(case, input, target):
    """Reference moments in float64, and how far a kernel's mean may be from them."""
    num_regions = case.num_regions or int(target.max().clamp(min=0)) + 1 if target.numel() else 1
    moments = reference.region_moments(
        double_leaf(input).detach(), target.cpu(), num_regions, ignore_index=case.ignore_index
    )
    spread = (moments.scatter / moments.count.clamp(min=1)).sqrt().amax().item() if moments.count.numel() else 0.0
    return moments, TOLERANCE[case.dtype].loss * spread + square_floor(input) ** 0.5


@for_all_cases(examples=1000, values=VALUES, distances=DISTANCES)
def test_loss_and_terms_equal_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    options = case.options | {"reduction": "none"}
    actual = cas_ext.cas_loss(input, target, return_terms=True, **options)
    _, expected = expected_terms(input, target, **options)

    _, mean_error = means_of(case, input, target)
    tolerance = TOLERANCE[case.dtype].loss
    loss, uniformer, discriminator = (term.detach() for term in expected)
    of_uniformer = tolerance * uniformer + 100 * mean_error**2
    of_discriminator = tolerance * discriminator + case.regions**2 * mean_error
    bounds = (case.alpha * of_uniformer + (1 - case.alpha) * of_discriminator, of_uniformer, of_discriminator)
    for got, want, bound in zip(actual, (loss, uniformer, discriminator), bounds, strict=True):
        assert got.dtype == result_dtype(case.dtype) and got.shape == want.shape
        rounded = 2.0**-24 * want.abs() if got.dtype == torch.float32 else 0.0
        error = (got.detach().cpu().double() - want).abs()
        assert bool((error <= bound + rounded).all()), (got, want, bound)


@for_all_cases(examples=100, values=VALUES, distances=DISTANCES)
def test_reductions_reduce_the_loss_of_each_image(device, case):
    input, target = case.tensors(device.torch_device)
    options = case.options | {"return_terms": True}
    each = cas_ext.cas_loss(input, target, **options | {"reduction": "none"})
    reduced = cas_ext.cas_loss(input, target, **options)
    by_hand = {"none": lambda v: v, "sum": torch.sum, "mean": lambda v: v.sum() / max(len(v), 1)}[case.reduction]
    for a, b in zip(reduced, each, strict=True):
        torch.testing.assert_close(a, by_hand(b), rtol=1e-6, atol=1e-6)
    assert torch.equal(cas_ext.cas_loss(input, target, **options | {"return_terms": False}), reduced[0])


@for_all_cases(examples=1000, values=VALUES, distances=DISTANCES)
def test_gradient_equals_the_reference(device, case):
    input, target = case.tensors(device.torch_device)
    loss = cas_ext.cas_loss(input, target, **case.options)
    upstream = random_like(loss, case.seed + 1)
    (actual,) = torch.autograd.grad(loss, input, upstream)

    leaf, (loss, _, _) = expected_terms(input, target, **case.options)
    (expected,) = torch.autograd.grad(loss, leaf, upstream.cpu().double())
    # A pair of means d apart, each off by e, pulls in a direction off by up to 2 e / d: any, where the means coincide.
    moments, mean_error = means_of(case, input, target)
    distances = reference.pair_distances(moments.mean, "euclidean")
    present = moments.count > 0
    off = (4 * mean_error / distances.clamp(min=mean_error + 1e-300)).clamp(max=2)
    off = torch.where(present[:, None] & present[:, :, None], off, 0).sum(2)
    slack = 4 * (1 - case.alpha) * off * max(float(u.abs()) for u in upstream.reshape(-1)) if upstream.numel() else 0.0
    assert_gradient_close(actual, expected, input, target, ignore_index=case.ignore_index, slack=slack)


def square(device, dtype=torch.float64):
    """Two images of four pixels, one channel; region means 0, 3 and -1 in the first, 2 and 2 in the second."""
    values = [[1.0, -1.0, 3.0, -1.0], [1.0, 3.0, 2.0, 2.0]]
    input = torch.tensor(values, dtype=dtype, device=device.torch_device).unsqueeze(1).requires_grad_()
    target = torch.tensor([[0, 0, 1, 2], [0, 0, 1, 1]], device=device.torch_device)
    return input, target


@on_every_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("pairs", "factor"), [("ordered", (2, 2)), ("unordered", (1, 1)), ("mean", (1, 2))])
def test_distances_computed_by_hand(device, dtype, pairs, factor):
    input, target = square(device, dtype)
    options = dict(pairs=pairs, reduction="none", return_terms=True)
    for distance, of in (("euclidean", lambda d: d), ("log", math.log1p)):
        loss, uniformer, discriminator = cas_ext.cas_loss(input, target, distance=distance, alpha=0.25, **options)
        assert uniformer.tolist() == [1.0, 1.0]
        expected = [factor[0] * (of(3) + of(1) + of(4)), factor[1] * of(0)]
        assert discriminator.tolist() == pytest.approx(expected, rel=1e-7)
        assert loss.tolist() == pytest.approx([0.25 - 0.75 * d for d in expected], rel=1e-6)


@on_every_device
@pytest.mark.parametrize("distance", DISTANCES)
def test_absent_regions_take_no_part(device, distance):
    input, target = Case(spatial=(30,), regions=3).tensors(device.torch_device)
    tight = cas_ext.cas_loss(input, target, distance=distance, pairs="mean")
    inferred = cas_ext.cas_loss(input, 2 * target, distance=distance, pairs="mean")  # 0, 2 and 4; no num_regions
    roomy = cas_ext.cas_loss(input, target, distance=distance, pairs="mean", num_regions=50)
    for loss in (inferred, roomy):
        assert loss.item() == pytest.approx(tight.item(), rel=1e-6)


@on_every_device
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_regions_of_one_mean_do_not_pull_on_each_other(device, distance, dtype):
    # Regions 0 and 1 both have mean (1, 2), exactly; region 2 has mean (4, 6), 5 away.
    codes = torch.tensor([[0.0, 2], [2, 2], [1, 1], [1, 3], [4, 6]], dtype=dtype, device=device.torch_device)
    input = codes.T.unsqueeze(0).requires_grad_()
    target = torch.tensor([[0, 0, 1, 1, 2]], device=device.torch_device)
    loss = cas_ext.cas_loss(input, target, distance=distance, alpha=0.0)
    (gradient,) = torch.autograd.grad(loss, input, create_graph=True)
    slope = {"euclidean": 1.0, "log": 1 / 6}[distance]
    pull = torch.tensor([0.6, 0.8], dtype=torch.float64) * slope * 2  # d(-2 |m_i - m_2|) by m_i
    pixels = [pull / 2] * 4 + [-2 * pull]
    rounding = {torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(dtype, 1e-7)
    torch.testing.assert_close(gradient[0].T.cpu().double(), torch.stack(pixels), rtol=rounding, atol=1e-7)
    # The second derivative is that of the pairs that are apart.
    tangent = random_like(input, 1)
    (product,) = torch.autograd.grad(gradient, input, tangent)
    leaf, (loss, _, _) = expected_terms(input, target, distance=distance, alpha=0.0)
    (wanted,) = torch.autograd.grad(loss, leaf, create_graph=True)
    (wanted,) = torch.autograd.grad(wanted, leaf, tangent.cpu().double())
    assert torch.isfinite(product).all()
    assert_gradient_close(product, wanted, input, target, operand=tangent)


@on_every_device
@pytest.mark.parametrize("distance", DISTANCES)
def test_image_of_one_code_has_a_finite_gradient_of_zero(device, distance):
    input = torch.full((1, 3, 12), 0.25, device=device.torch_device, requires_grad=True)
    target = torch.arange(12, device=device.torch_device)[None] % 4
    loss = cas_ext.cas_loss(input, target, distance=distance)
    (gradient,) = torch.autograd.grad(loss, input, create_graph=True)
    (product,) = torch.autograd.grad(gradient.square().sum() + gradient.sum(), input)
    assert loss.item() == 0 and not gradient.any() and not product.any()


@on_every_device
@pytest.mark.parametrize("distance", DISTANCES)
def test_nearly_equal_codes_are_pushed_apart_with_a_force_that_does_not_vanish(device, distance):
    # What the two are for: a squared distance pushes a pair d apart with a force of d, which dies as codes collapse.
    target = torch.tensor([[0, 1]], device=device.torch_device)

    def force(gap, distance):
        input = torch.tensor([[[0.5, 0.5 + gap]]], device=device.torch_device, requires_grad=True)
        (gradient,) = torch.autograd.grad(cas_ext.cas_loss(input, target, alpha=0.0, distance=distance), input)
        return gradient[0, 0].tolist()

    assert force(2.0**-20, "sqeuclidean") == pytest.approx([4 * 2.0**-20, -4 * 2.0**-20], rel=1e-6)
    assert force(2.0**-20, distance) == pytest.approx([2.0, -2.0], rel=1e-5)
    assert abs(force(1e4, "log")[0]) < 1e-3  # and log lets go of what is far apart


@on_every_device
@pytest.mark.parametrize("distance", DISTANCES)
def test_distance_of_near_means_far_from_zero_keeps_its_digits(device, distance):
    # 2^-10 apart at 4096 and a third of 2^-10: in float64, |a|^2 + |b|^2 - 2 <a, b> would be off by a thousandth.
    gap = 2.0**-10
    values = 4096 + gap * torch.tensor([0, 0, 1, 1, 1, 2], device=device.torch_device)
    input = values.expand(1, 3, 6)
    target = torch.tensor([[0, 0, 0, 1, 1, 1]], device=device.torch_device)
    length = math.sqrt(3) * gap
    expected = -2 * (length if distance == "euclidean" else math.log1p(length))
    assert cas_ext.cas_loss(input, target, alpha=0.0, distance=distance).item() == pytest.approx(expected, rel=1e-6)


@on_devices("cpu", "cuda")
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_autocast_leaves_the_tables_in_double(device, distance, half):
    input, target = Case(spatial=(40,)).tensors(device.torch_device)

    def everything():
        loss = cas_ext.cas_loss(input, target, distance=distance)
        (gradient,) = torch.autograd.grad(loss, input, create_graph=True)
        return loss, gradient, torch.autograd.grad(gradient.square().sum(), input)[0]

    expected = everything()
    with torch.autocast(device.torch_device, half):
        assert all(torch.equal(a, b) for a, b in zip(everything(), expected, strict=True))


@on_every_device
@pytest.mark.parametrize("distance", DISTANCES)
def test_permuting_the_labels_changes_nothing(device, distance):
    input, target = Case(spatial=(40,), regions=5, num_regions=5).tensors(device.torch_device)
    order = torch.tensor([3, 0, 4, 1, 2], device=device.torch_device)

    def both(labels):
        loss = cas_ext.cas_loss(input, labels, distance=distance, num_regions=5)
        return loss.detach(), torch.autograd.grad(loss, input)[0]

    torch.testing.assert_close(both(order[target]), both(target), rtol=1e-6, atol=1e-8)


@on_every_device
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_descriptor_reaches_the_loss_of_its_image_only(device, distance, value):
    input, target = Case(batch=3, spatial=(17,)).tensors(device.torch_device)

    def both():
        loss = cas_ext.cas_loss(input, target, distance=distance, reduction="none")
        return loss.detach(), torch.autograd.grad(loss.sum(), input)[0]

    clean = both()
    with torch.no_grad():
        input[1, 0, 3] = value
    loss, gradient = both()
    assert torch.isfinite(loss).tolist() == [True, False, True]
    assert torch.equal(gradient[::2], clean[1][::2]) and torch.equal(loss[::2], clean[0][::2])


# Three regions, one of them absent from the second image, ignored pixels, two images.
SMALL = Case(batch=2, channels=2, spatial=(6,), regions=4, mask="half absent", ignored=0.2, dtype=torch.float64, seed=5)


@on_devices("cpu", "cuda")
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_derivatives_of_the_loss_and_its_terms(device, check, distance, pairs, reduction):
    input, target = SMALL.tensors(device.torch_device)
    options = dict(alpha=0.3, num_regions=4, pairs=pairs, reduction=reduction, distance=distance, return_terms=True)
    assert check(lambda input: cas_ext.cas_loss(input, target, **options), (input,))


@on_every_device
@pytest.mark.parametrize("distance", DISTANCES)
def test_third_derivative_equals_the_reference(device, distance):
    input, target = SMALL.tensors(device.torch_device)

    def third(loss, at):
        for order in range(3):
            (derivative,) = torch.autograd.grad(loss, at, create_graph=True)
            loss = (derivative * random_like(derivative, order)).sum()
        return derivative

    leaf, (loss, _, _) = expected_terms(input, target, distance=distance)
    actual = third(cas_ext.cas_loss(input, target, distance=distance), input)
    torch.testing.assert_close(actual.detach().cpu(), third(loss, leaf).detach(), rtol=1e-9, atol=1e-11)


class LargestResult(TorchDispatchMode):
    """The largest tensor that any operation makes, in bytes."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and not function.is_view:
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


@on_devices("cpu", "cuda")
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_thousand_regions_need_no_table_of_all_differences(device, distance):
    case = Case(batch=1, channels=32, spatial=(4000,), regions=1000, num_regions=1000, mask="checkerboard")
    input, target = case.tensors(device.torch_device)
    with LargestResult() as largest:
        loss = cas_ext.cas_loss(input, target, num_regions=1000, distance=distance)
        (gradient,) = torch.autograd.grad(loss, input, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), input)
    assert largest.bytes <= 8 * BLOCK  # 16 MB; all differences would be 256 MB

    _, (expected, _, _) = expected_terms(input[:, :, :], target, num_regions=1000, distance=distance)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@on_devices("cpu", "cuda")
@pytest.mark.parametrize("distance", DISTANCES)
def test_blocks_of_regions_change_no_result(device, distance, monkeypatch):
    case = Case(channels=3, spatial=(60,), regions=7, num_regions=7, dtype=torch.float64)
    input, target = case.tensors(device.torch_device)

    def everything():
        loss = cas_ext.cas_loss(input, target, distance=distance)
        (gradient,) = torch.autograd.grad(loss, input, create_graph=True)
        (product,) = torch.autograd.grad(gradient.square().sum(), input)
        return loss.detach(), gradient.detach(), product

    whole = everything()
    for block in (1, 2 * 7 * 3 * 2, 2 * 7 * 3 * 4):  # rows of 1, 2 and 4 regions: 7 is a multiple of neither
        monkeypatch.setattr(cas_ext.distances, "BLOCK", block)
        for a, b in zip(everything(), whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)
