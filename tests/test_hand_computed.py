"""Eq. 1 and Eq. 2 with the numbers worked out by hand, on problems small enough to check by eye.

Most tests use this image of one channel and four pixels:

    s      0   2 | 5   9          m_0 = 1    deviations -1  1    scatter 2    uniformer_0 = 2/2 = 1
    label  0   0 | 1   1          m_1 = 7    deviations -2  2    scatter 8    uniformer_1 = 8/2 = 4

    uniformer = 5, discriminator (both orders) = 2 * 6^2 = 72
"""

from __future__ import annotations

import pytest
import torch
from devices import on_every_device

import cas_ext

VALUES = [0.0, 2.0, 5.0, 9.0]
LABELS = [0, 0, 1, 1]


def problem(device, values=VALUES, labels=LABELS):
    """One image of one channel."""
    input = torch.tensor(values, device=device.torch_device).reshape(1, 1, -1).requires_grad_()
    return input, torch.tensor(labels, device=device.torch_device).reshape(1, -1)


def gradient_of(loss, input):
    return torch.autograd.grad(loss, input)[0].flatten().tolist()


@on_every_device
@pytest.mark.parametrize(
    ("alpha", "pairs", "expected"),
    [
        (0.5, "ordered", 0.5 * 5 - 0.5 * 72),  # -33.5
        (0.25, "ordered", 0.25 * 5 - 0.75 * 72),  # -52.75: alpha weighs the uniformer
        (1.0, "ordered", 5.0),
        (0.0, "ordered", -72.0),
        (0.5, "unordered", 0.5 * 5 - 0.5 * 36),  # -15.5: each pair once
        (0.5, "mean", 0.5 * 5 - 0.5 * 72 / (2 - 1)),  # N - 1 = 1
    ],
)
def test_loss_of_two_regions(device, alpha, pairs, expected):
    input, target = problem(device)
    assert cas_ext.cas_loss(input, target, alpha=alpha, pairs=pairs).item() == pytest.approx(expected, rel=1e-7)


@on_every_device
def test_defaults_are_half_alpha_ordered_pairs_and_mean(device):
    input, target = problem(device)
    assert cas_ext.cas_loss(input, target).item() == pytest.approx(-33.5, rel=1e-7)


@on_every_device
@pytest.mark.parametrize(
    ("alpha", "pairs", "expected"),
    [
        # ( 2 alpha (s - m_i) - 4 (1-alpha) (N m_i - sum_j m_j) ) / n_i;
        # N = 2, sum_j m_j = 8, so N m_i - sum = -6 and 6.
        (0.5, "ordered", [(-1 + 12) / 2, (1 + 12) / 2, (-2 - 12) / 2, (2 - 12) / 2]),
        (0.5, "unordered", [(-1 + 6) / 2, (1 + 6) / 2, (-2 - 6) / 2, (2 - 6) / 2]),
        (0.5, "mean", [(-1 + 12) / 2, (1 + 12) / 2, (-2 - 12) / 2, (2 - 12) / 2]),
        (1.0, "ordered", [-1.0, 1.0, -2.0, 2.0]),
        (0.0, "ordered", [12.0, 12.0, -12.0, -12.0]),
        (0.25, "ordered", [(-0.5 + 18) / 2, (0.5 + 18) / 2, (-1 - 18) / 2, (1 - 18) / 2]),
    ],
)
def test_gradient_of_two_regions(device, alpha, pairs, expected):
    input, target = problem(device)
    loss = cas_ext.cas_loss(input, target, alpha=alpha, pairs=pairs)
    assert gradient_of(loss, input) == pytest.approx(expected, rel=1e-6)


@on_every_device
def test_hessian_vector_product_of_two_regions(device):
    # The gradient is linear in s, so H v is the gradient formula with v for s. v = (1, 0 | 0, 0) has the means 1/2 and
    # 0, their sum 1/2, N m_i - sum = 1/2 and -1/2, so that 2 alpha (v - m_i) - 2 (N m_i - sum) is
    # 1/2 - 1, -1/2 - 1, 0 + 1, 0 + 1; all over n_i = 2.
    input, target = problem(device)
    (gradient,) = torch.autograd.grad(cas_ext.cas_loss(input, target), input, create_graph=True)
    assert gradient_of(gradient[0, 0, 0], input) == pytest.approx([-0.25, -0.75, 0.5, 0.5], rel=1e-6)


THREE_CODES = [[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]  # one pixel per region; squared distances 9, 16, 25, together 50


@on_every_device
@pytest.mark.parametrize(
    ("pairs", "loss", "factor"),
    # Eq. 2: -4 (1 - alpha) (N m_i - sum_j m_j) with N = 3, sum = (3, 4): -2 (-3,-4), -2 (6,-4), -2 (-3,8).
    [("ordered", -50.0, 1.0), ("unordered", -25.0, 0.5), ("mean", -25.0, 0.5)],  # mean: divided by N - 1 = 2
)
def test_loss_and_gradient_of_three_single_pixels(device, pairs, loss, factor):
    input = torch.tensor(THREE_CODES, device=device.torch_device).T[None].contiguous().requires_grad_()
    target = torch.tensor([[0, 1, 2]], device=device.torch_device)
    actual = cas_ext.cas_loss(input, target, pairs=pairs)
    assert actual.item() == pytest.approx(loss, rel=1e-7)
    expected = [factor * g for g in (6, -12, 6, 8, 8, -16)]  # channel by channel
    assert gradient_of(actual, input) == pytest.approx(expected, rel=1e-6)


@on_every_device
@pytest.mark.parametrize("foreground", [1, 2, 7])
@pytest.mark.parametrize(("pairs", "expected"), [("ordered", -2.0), ("unordered", -1.0), ("mean", -2.0)])
def test_perfect_two_region_prediction_scores_the_minimum_whatever_its_area(device, foreground, pairs, expected):
    # ||(1,0) - (0,1)||^2 = 2, times 2 orders, times 1/2. The authors' eps spoils this for a single pixel.
    target = (torch.arange(8) < foreground).to(device.torch_device)[None]
    input = torch.stack([target, ~target], 1).float()
    assert cas_ext.cas_loss(input, target, pairs=pairs).item() == pytest.approx(expected, rel=1e-7)


@on_every_device
@pytest.mark.parametrize(
    ("reduction", "loss", "uniformer", "discriminator"),
    [("none", [-33.5, 0.5], [5, 1], [72, 0]), ("sum", -33.0, 6, 72), ("mean", -16.5, 3, 36)],
)
def test_reductions_of_the_loss_and_its_terms(device, reduction, loss, uniformer, discriminator):
    # The second image is one region: m = 2, uniformer = (1 + 1 + 1 + 1) / 4 = 1, no pair.
    input, target = problem(device, [VALUES, [1.0, 1.0, 3.0, 3.0]], [LABELS, [0, 0, 0, 0]])
    input, target = input.reshape(2, 1, 4), target.reshape(2, 4)
    terms = cas_ext.cas_loss(input, target, reduction=reduction, return_terms=True)
    for actual, expected in zip(terms, (loss, uniformer, discriminator), strict=True):
        assert actual.tolist() == pytest.approx(expected, rel=1e-7)


@on_every_device
def test_mean_reduction_divides_the_gradient_by_the_batch(device):
    input, target = problem(device, [VALUES, [1.0, 1.0, 3.0, 3.0]], [LABELS, [0, 0, 0, 0]])
    loss = cas_ext.cas_loss(input.reshape(2, 1, 4), target.reshape(2, 4))
    # Image 0 as above; image 1: 2 alpha (s - m) / n = -+1/4. Half of each.
    expected = [2.75, 3.25, -3.5, -2.5, -0.125, -0.125, 0.125, 0.125]
    assert gradient_of(loss, input) == pytest.approx(expected, rel=1e-6)


@on_every_device
@pytest.mark.parametrize("ignore_index", [-100, 255, 1])
def test_ignored_pixel_changes_nothing_and_gets_no_gradient(device, ignore_index):
    labels = [0, 0, 2, 2, ignore_index]
    input, target = problem(device, [*VALUES, 1000.0], labels)
    loss = cas_ext.cas_loss(input, target, ignore_index=ignore_index, num_regions=3)
    assert loss.item() == pytest.approx(-33.5, rel=1e-7)
    gradient = gradient_of(loss, input)
    assert gradient[:4] == pytest.approx([5.5, 6.5, -7.0, -5.0], rel=1e-6)
    assert gradient[4] == 0.0


@on_every_device
@pytest.mark.parametrize(("labels", "num_regions"), [([0, 0, 3, 3], 5), ([4, 4, 2, 2], None), ([1, 1, 39, 39], 40)])
def test_absent_labels_contribute_nothing(device, labels, num_regions):
    input, target = problem(device, labels=labels)
    for pairs, expected in (("ordered", -33.5), ("unordered", -15.5), ("mean", -33.5)):  # mean: N counts those present
        loss = cas_ext.cas_loss(input, target, num_regions=num_regions, pairs=pairs)
        assert loss.item() == pytest.approx(expected, rel=1e-7)
    gradient = gradient_of(cas_ext.cas_loss(input, target, num_regions=num_regions), input)
    assert gradient == pytest.approx([5.5, 6.5, -7.0, -5.0], rel=1e-6)


@on_every_device
def test_moments_of_two_regions_and_an_absent_one(device):
    input, target = problem(device)
    count, mean, scatter = cas_ext.region_moments(input, target, 3)
    assert count.tolist() == [[2, 2, 0]]
    assert mean.tolist() == [[[1.0], [7.0], [0.0]]]
    assert scatter.tolist() == [[2.0, 8.0, 0.0]]
