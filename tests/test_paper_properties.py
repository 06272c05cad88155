"""The four properties the paper claims: sparsity, immunity to class imbalance, bounds, label-agnosticism."""

from __future__ import annotations

import itertools

import pytest
import torch
from devices import for_all_cases, on_devices, on_every_device
from oracle import expected_terms
from strategies import PAIRS, Case
from tolerances import assert_gradient_close, assert_losses_close

import cas_ext

SLACK = 1e-6  # float32 rounding of a loss, relative to its lower bound


def lower_bound(regions: int, channels: int, alpha: float, pairs: str) -> float:
    """-2 (1 - alpha) (N^2 - sum_m c_m^2), with c_m = N split as evenly as possible over the channels."""
    share, rest = divmod(regions, channels)
    squares = rest * (share + 1) ** 2 + (channels - rest) * share**2
    ordered = -2 * (1 - alpha) * (regions**2 - squares)
    return ordered / {"ordered": 1, "unordered": 2, "mean": max(regions - 1, 1)}[pairs]


def upper_bound(regions: int, channels: int, alpha: float) -> float:
    return alpha * regions * (1 - 1 / channels)


def one_hot_images(codes, target, channels: int) -> torch.Tensor:
    """(images, M, P): every pixel of region i of image b carries the one-hot code `codes[b][i]`."""
    codes = torch.as_tensor(codes, device=target.device)
    return torch.nn.functional.one_hot(codes[:, target], channels).movedim(-1, 1).float()


@on_every_device
@pytest.mark.parametrize(("regions", "channels"), [(2, 2), (3, 3), (2, 4), (3, 4), (4, 2), (5, 3), (1, 3)])
@pytest.mark.parametrize("pairs", PAIRS)
def test_best_of_all_one_hot_codes_attain_the_lower_bound(device, regions, channels, pairs):
    target = torch.arange(3 * regions, device=device.torch_device) % regions
    codes = list(itertools.product(range(channels), repeat=regions))  # every assignment of codes to regions
    input = one_hot_images(codes, target, channels)
    losses = cas_ext.cas_loss(input, target.expand(len(codes), -1), alpha=0.3, pairs=pairs, reduction="none")
    bound = lower_bound(regions, channels, 0.3, pairs)
    assert losses.min().item() == pytest.approx(bound, rel=SLACK)
    if regions <= channels:  # then, and only then, the codes are distinct
        best = losses <= bound + SLACK
        assert best.tolist() == [len(set(code)) == regions for code in codes]


@for_all_cases(examples=300, values=("softmax", "one-hot"))
def test_softmax_descriptors_stay_within_the_bounds(device, case):
    input, target = case.tensors(device.torch_device)
    if case.layout == "expanded channels":
        return  # no longer on the simplex
    options = case.options | {"reduction": "none"}
    losses = cas_ext.cas_loss(input, target, **options)
    # float16 and bfloat16 descriptors sum to 1 within their rounding only.
    slack = {torch.float16: 4e-3, torch.bfloat16: 4e-2}.get(case.dtype, 4e-6)
    for labels, loss in zip(target, losses, strict=True):
        regions = labels[labels.long() != case.ignore_index].unique().numel()
        if regions == 0:
            assert loss.item() == 0.0
            continue
        low = lower_bound(regions, case.channels, case.alpha, case.pairs)
        high = upper_bound(regions, case.channels, case.alpha)
        assert low - slack * (regions**2 + 1) <= loss.item() <= high + slack * regions


@on_every_device
@pytest.mark.parametrize(("regions", "channels"), [(1, 2), (2, 2), (3, 5), (6, 3)])
def test_regions_spread_evenly_over_all_codes_attain_the_upper_bound(device, regions, channels):
    target = torch.arange(regions, device=device.torch_device).repeat_interleave(2 * channels)
    codes = torch.arange(channels, device=device.torch_device).repeat(2 * regions)
    input = torch.nn.functional.one_hot(codes, channels).T[None].float()
    loss = cas_ext.cas_loss(input, target[None], alpha=0.7)
    assert loss.item() == pytest.approx(upper_bound(regions, channels, 0.7), rel=SLACK)


@on_every_device
@pytest.mark.parametrize(("regions", "channels"), [(2, 2), (3, 3), (2, 5), (5, 2)])
def test_no_descriptors_on_the_simplex_beat_the_best_one_hot_codes(device, regions, channels):
    # Random search, from almost uniform descriptors to almost one-hot ones.
    images = 64 if device.name == "emulated" else 4096
    generator = torch.Generator().manual_seed(0)
    sharpness = torch.logspace(-1, 2, images, dtype=torch.float64)[:, None, None]
    input = (sharpness * torch.randn(images, channels, 2 * regions, generator=generator)).softmax(1).float()
    target = (torch.arange(2 * regions) % regions).expand(images, -1)
    input, target = input.to(device.torch_device), target.to(device.torch_device)
    losses = cas_ext.cas_loss(input, target, reduction="none")
    bound = lower_bound(regions, channels, 0.5, "ordered")
    assert losses.min().item() >= bound * (1 + SLACK)


def project_to_simplex(points: torch.Tensor) -> torch.Tensor:
    """Euclidean projection of each pixel's descriptor (dimension 1) onto the probability simplex."""
    ordered, _ = points.sort(dim=1, descending=True)
    excess = (ordered.cumsum(1) - 1) / torch.arange(1, points.shape[1] + 1, device=points.device).view(1, -1, 1)
    support = (ordered > excess).sum(1, keepdim=True)
    return (points - excess.gather(1, support - 1)).clamp(min=0)


@on_devices("cpu", "cuda")
@pytest.mark.parametrize(("regions", "channels"), [(2, 2), (2, 3), (3, 3), (3, 4)])
def test_projected_gradient_descent_ends_at_corners_of_the_simplex(device, regions, channels):
    generator = torch.Generator().manual_seed(0)
    starts = 50
    descriptors = torch.randn(starts, channels, 4 * regions, generator=generator, dtype=torch.float64).softmax(1)
    descriptors = descriptors.to(device.torch_device)
    target = (torch.arange(4 * regions) % regions).expand(starts, -1).to(device.torch_device)
    for _ in range(500):
        descriptors.requires_grad_()
        loss = cas_ext.cas_loss(descriptors, target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, descriptors)
        descriptors = project_to_simplex(descriptors.detach() - 0.2 * gradient)

    losses = cas_ext.cas_loss(descriptors, target, reduction="none")
    bound = lower_bound(regions, channels, 0.5, "ordered")
    assert descriptors.amax(1).min().item() > 1 - 1e-6, "some pixel did not end at a corner"
    assert losses.min().item() == pytest.approx(bound, rel=1e-9)
    if regions == 2:  # with more, two regions may come to share a code and stay there
        assert losses.max().item() == pytest.approx(bound, rel=1e-9)


@on_every_device
@pytest.mark.parametrize("copies", [2, 7, 100])
def test_duplicating_every_pixel_of_a_region_leaves_the_loss_unchanged(device, copies):
    case = Case(batch=1, channels=5, spatial=(40,), regions=3, values="softmax")
    input, target = case.tensors(device.torch_device)
    repeats = torch.where(target[0] == 1, copies, 1)
    larger = input.repeat_interleave(repeats, dim=2)
    expected = cas_ext.cas_loss(input, target, return_terms=True)
    actual = cas_ext.cas_loss(larger, target.repeat_interleave(repeats, dim=1), return_terms=True)
    assert_losses_close(actual, [term.double() for term in expected], input, alpha=0.5)

    # Nor does the whole region's pull change: each copy gets its share of the gradient.
    (gradient,) = torch.autograd.grad(expected[0], input)
    (through_copies,) = torch.autograd.grad(actual[0], input)  # sums over the copies
    torch.testing.assert_close(through_copies, gradient, rtol=2e-6, atol=1e-6 * gradient.abs().max().item())


@for_all_cases(examples=200)
def test_permuting_the_region_ids_changes_neither_loss_nor_gradient(device, case):
    if case.label_dtype == torch.bool:
        return
    input, target = case.tensors(device.torch_device)
    options = case.options | {"num_regions": case.regions + 3}  # ids may also move to unused ones
    renamed = torch.randperm(case.regions + 3, generator=torch.Generator().manual_seed(case.seed))
    labels = target.cpu().long()
    kept = labels != case.ignore_index
    ignore_index = 120  # fits every label type and names no region
    permuted = torch.full_like(labels, ignore_index)
    permuted[kept] = renamed[labels[kept]]
    permuted = permuted.to(case.label_dtype).to(device.torch_device)

    actual = cas_ext.cas_loss(input, permuted, return_terms=True, **(options | {"ignore_index": ignore_index}))
    leaf, expected = expected_terms(input, target, **options)  # under the original ids
    assert_losses_close(actual, expected, input, alpha=case.alpha)
    (gradient,) = torch.autograd.grad(actual[0].sum(), input)
    (wanted,) = torch.autograd.grad(expected[0].sum(), leaf)
    assert_gradient_close(gradient, wanted, input, target, ignore_index=case.ignore_index)
