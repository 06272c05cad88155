"""Scores of unnamed regions against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.segmentation import find_boundaries

from benchmarks.paper import region_scores as scores
from benchmarks.paper.losses import IGNORED
from benchmarks.paper.region_scores import ContourCount

HALVES = np.repeat([[0, 0, 1, 1]], 4, 0)  # two true regions of 8 pixels
QUARTERS = np.kron([[0, 1], [2, 3]], np.ones((2, 2), int))  # four regions of 4 pixels
SHIFTED = np.repeat([[0, 1, 1, 1]], 4, 0)  # 4 and 12 pixels


def entropy(*shares: float) -> float:
    return -sum(p * np.log2(p) for p in shares)


def test_perfect_segmentation_under_any_names() -> None:
    renamed = np.array([7, 3, 90, 0])[QUARTERS]
    result = scores.score_regions(QUARTERS, renamed)
    assert (result.covering, result.rand, result.precision) == (1, 1, 1)
    assert result.information == pytest.approx(0, abs=1e-12)


def test_every_region_split_in_two() -> None:
    result = scores.score_regions(HALVES, QUARTERS)
    assert result.covering == pytest.approx(0.5)  # each half is covered with IoU 4 / 8
    # Of 120 pairs, both join 4 * 6 = 24 and both part 8 * 8 = 64.
    assert result.rand == pytest.approx(88 / 120)
    assert result.information == pytest.approx(1)  # H(prediction | truth) is one bit, H(truth | prediction) 0
    # At IoU .50 two pairs match: 2 / (4 + 2 - 2); at the nine thresholds above none.
    assert result.precision == pytest.approx(0.05)


@pytest.mark.parametrize("predicted", [HALVES, QUARTERS, SHIFTED, np.zeros((4, 4), int)])
def test_covering_alone_is_the_covering_of_the_scores(predicted: np.ndarray) -> None:
    truth = np.where(np.arange(4) == 3, IGNORED, HALVES)
    assert scores.gt_covering(truth, predicted) == scores.score_regions(truth, predicted).covering


def test_one_region_for_everything() -> None:
    result = scores.score_regions(HALVES, np.zeros((4, 4), int))
    assert result.covering == pytest.approx(0.5)
    assert result.rand == pytest.approx(2 * 28 / 120)
    assert result.information == pytest.approx(1)
    assert result.precision == pytest.approx((1 / 2) / 10)


def test_a_shifted_border() -> None:
    result = scores.score_regions(HALVES, SHIFTED)
    # IoU 4 / 8 for the left half, 8 / 12 for the right one.
    assert result.covering == pytest.approx((8 * 0.5 + 8 * 2 / 3) / 16)
    assert result.rand == pytest.approx((6 + 6 + 28 + 4 * 8) / 120)
    assert result.information == pytest.approx(entropy(0.25, 0.25, 0.5) * 2 - entropy(0.5, 0.5) - entropy(0.25, 0.75))
    # IoU >= .50: both match; .55, .60 and .65: one, 1 / 3; above: none.
    assert result.precision == pytest.approx((1 + 3 / 3) / 10)


def test_precision_matches_one_to_one() -> None:
    table = np.array([[5, 5]])  # one true region, two predicted halves, both with IoU .5
    assert scores.average_precision(table) == pytest.approx((1 / 2) / 10)


def test_ignored_pixels_do_not_count() -> None:
    truth = HALVES.copy()
    truth[:, 0] = IGNORED
    predicted = SHIFTED.copy()
    predicted[:, 2:] = 9
    predicted[0, 0] = 55  # a region of ignored pixels only
    result = scores.score_regions(truth, predicted)
    assert (result.covering, result.rand, result.precision) == (1, 1, 1)


def test_nothing_to_score_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"truth must have pixels that are not ignored"):
        scores.score_regions(np.full((2, 2), IGNORED), np.zeros((2, 2), int))
    with pytest.raises(ValueError, match=r"shape of truth, \(4, 4\), got \(2, 2\)"):
        scores.score_regions(HALVES, np.zeros((2, 2), int))


def test_contour_lies_between_the_pixels() -> None:
    expected = np.zeros((7, 7), bool)
    expected[:, 3] = True
    assert np.array_equal(scores.contour(HALVES), expected)
    expected[3] = True
    assert np.array_equal(scores.contour(QUARTERS), expected)


def test_contour_is_that_of_scikit_image() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (7, 9))
    assert np.array_equal(scores.contour(labels), find_boundaries(labels + 1, mode="subpixel"))


def lines(size: int, *columns: int) -> np.ndarray:
    """Vertical stripes: a new region starts at each of the columns."""
    return np.repeat(np.searchsorted(columns, np.arange(size), "right")[None], size, 0)


def test_contours_match_within_the_tolerance_only() -> None:
    # 96 * sqrt(2) * .0075 = 1.018: a border one pixel off is found, one two pixels off is not.
    cells = 2 * 96 - 1
    assert scores.count_contours(lines(96, 40), lines(96, 41)) == ContourCount(cells, cells, cells)
    assert scores.count_contours(lines(96, 40), lines(96, 42)) == ContourCount(0, cells, cells)


def test_contours_match_one_to_one() -> None:
    cells = 2 * 96 - 1
    twice = scores.count_contours(lines(96, 40), lines(96, 40, 41))
    assert twice == ContourCount(cells, 2 * cells, cells)
    assert twice.f == pytest.approx(2 / 3)  # precision 1/2, recall 1


def test_no_contours_and_equal_ones() -> None:
    flat = np.zeros((8, 8), int)
    assert scores.count_contours(QUARTERS, QUARTERS) == ContourCount(13, 13, 13)
    assert scores.count_contours(flat, flat).f == 1
    assert scores.count_contours(lines(8, 4), flat) == ContourCount(0, 0, 15)
    assert scores.count_contours(flat, lines(8, 4)).f == 0


def test_contours_of_a_truth_with_ignored_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="no ignored pixels"):
        scores.count_contours(np.array([[0, IGNORED]]), np.array([[0, 1]]))


def test_ods_takes_one_setting_for_all_and_ois_one_for_each() -> None:
    good, poor = ContourCount(10, 10, 10), ContourCount(5, 10, 10)
    bad = ContourCount(0, 10, 10)
    assert scores.contour_f([[good, poor], [bad, poor]]) == (pytest.approx(0.5), pytest.approx(15 / 20))
    values = np.array([[1.0, 0.5], [0.0, 0.6]])
    assert scores.ods_ois(values) == (pytest.approx(0.55), pytest.approx(0.8))
    assert scores.ods_ois(values, larger_is_better=False) == (pytest.approx(0.5), pytest.approx(0.25))
