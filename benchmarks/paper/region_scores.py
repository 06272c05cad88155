"""Scores of a segmentation into unnamed regions: GT covering, Rand index, variation of information, average precision,
and the contour F-measure.

All are per image, of a truth (H, W) and a prediction (H, W), integer arrays of region ids without meaning; pixels where
the truth is IGNORED do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .losses import IGNORED

IOU_THRESHOLDS = np.arange(10, 20) / 20  # .50, .55, ..., .95
CONTOUR_TOLERANCE = 0.0075  # of the image's diagonal, as in the BSDS benchmark


@dataclass(frozen=True)
class RegionScores:
    """covering, rand and precision in [0, 1], larger is better; information in bits, smaller is better."""

    covering: float
    rand: float
    information: float
    precision: float


def counted_ids(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids 0, 1, ... of both segmentations, (P,) each, at the pixels that are not ignored.

    Raises:
        ValueError: for different shapes, or nothing but ignored pixels.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"score_regions: predicted must have the shape of truth, {truth.shape}, got {predicted.shape}")
    counted = truth != IGNORED
    if not counted.any():
        raise ValueError("score_regions: truth must have pixels that are not ignored, got none")
    true, found = (np.unique(labels[counted], return_inverse=True)[1].ravel() for labels in (truth, predicted))
    return true, found


def pairwise_iou(table: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair of regions, from the pixels (true regions, predicted regions) they share."""
    return table / (table.sum(1, keepdims=True) + table.sum(0, keepdims=True) - table)


def average_precision(table: np.ndarray) -> float:
    """AP of regions that have neither names nor confidences: the mean over IoU thresholds t of TP / (TP + FP + FN).

    table: the pixels (true regions, predicted regions) that they share. TP is the size of the largest one-to-one matching of
    true and predicted regions with IoU >= t, for t = .50, .55, ..., .95; the unmatched predicted regions are FP, the
    unmatched true ones FN. The paper does not define its AP (Table 3).
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    iou, total = pairwise_iou(table), sum(table.shape)
    values = []
    for threshold in IOU_THRESHOLDS:
        matched = int((maximum_bipartite_matching(csr_array(iou >= threshold), "column") >= 0).sum())
        values.append(matched / (total - matched))
    return float(np.mean(values))


def covering_of(table: np.ndarray) -> float:
    """GT covering from the pixels (true regions, predicted regions) that they share: see `score_regions`."""
    return float((table.sum(1) * pairwise_iou(table).max(1)).sum() / table.sum())


def shared_pixels(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The pixels (true regions, predicted regions) int64 that regions share, from ids 0, 1, ... (P,)."""
    shape = true.max() + 1, found.max() + 1
    return np.bincount(true * shape[1] + found, minlength=shape[0] * shape[1]).reshape(shape)


def gt_covering(truth: np.ndarray, predicted: np.ndarray) -> float:
    """The covering of `score_regions` alone.

    Raises:
        ValueError: as `counted_ids`.
    """
    return covering_of(shared_pixels(*counted_ids(truth, predicted)))


def score_regions(truth: np.ndarray, predicted: np.ndarray) -> RegionScores:
    """Score one image.

    covering: sum over true regions R of |R| / P times the largest IoU of R with a predicted region (Arbelaez et al., 2011).
    rand: the share of pixel pairs on which both segmentations agree. information: H(T | S) + H(S | T) in bits.

    Raises:
        ValueError: as `counted_ids`.
    """
    from skimage.metrics import variation_of_information
    from sklearn.metrics import rand_score

    true, found = counted_ids(truth, predicted)
    table = shared_pixels(true, found)
    return RegionScores(
        covering=covering_of(table),
        rand=float(rand_score(true, found)),
        information=float(sum(variation_of_information(true, found))),
        precision=average_precision(table),
    )


def contour(labels: np.ndarray) -> np.ndarray:
    """Where regions touch, on the grid between the pixels: (2 H - 1, 2 W - 1) bool, one cell thick.

    The same cells as `skimage.segmentation.find_boundaries(mode="subpixel")`, which visits them one by one in Python.
    """
    cells = np.zeros([2 * length - 1 for length in labels.shape], bool)
    cells[:, 1::2][::2] = labels[:, 1:] != labels[:, :-1]
    cells[1::2][:, ::2] = labels[1:] != labels[:-1]
    beside = cells[1::2, ::2]
    above = cells[::2, 1::2]
    cells[1::2, 1::2] = beside[:, 1:] | beside[:, :-1] | above[1:] | above[:-1]
    return cells


@dataclass(frozen=True)
class ContourCount:
    """Matched contour cells, and those of prediction and truth. f: their F-measure; 1 if neither has a contour."""

    matched: int
    predicted: int
    true: int

    def __add__(self, other: ContourCount) -> ContourCount:
        return ContourCount(self.matched + other.matched, self.predicted + other.predicted, self.true + other.true)

    @property
    def f(self) -> float:
        total = self.predicted + self.true
        return 2 * self.matched / total if total else 1.0


def count_contours(truth: np.ndarray, predicted: np.ndarray) -> ContourCount:
    """Match the contour cells of two segmentations one to one, within CONTOUR_TOLERANCE, as many as can be.

    Raises:
        ValueError: for different shapes or a truth with ignored pixels.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import cKDTree

    if truth.shape != predicted.shape:
        raise ValueError(
            f"count_contours: predicted must have the shape of truth, {truth.shape}, got {predicted.shape}"
        )
    if (truth == IGNORED).any():
        raise ValueError("count_contours: truth must have no ignored pixels, got some")
    true, found = (np.argwhere(contour(labels)) for labels in (truth, predicted))
    if len(true) == 0 or len(found) == 0:
        return ContourCount(0, len(found), len(true))
    radius = 2 * CONTOUR_TOLERANCE * np.hypot(*truth.shape)  # two cells a pixel
    near = cKDTree(true).sparse_distance_matrix(cKDTree(found), radius, output_type="coo_matrix")
    # An entry for every pair, also for those at distance 0, which a sparse matrix of distances would drop.
    pairs = csr_array((np.ones(near.nnz, bool), (near.row, near.col)), shape=near.shape)
    matched = int((maximum_bipartite_matching(pairs, "column") >= 0).sum())
    return ContourCount(matched, len(found), len(true))


def contour_f(counts: Sequence[Sequence[ContourCount]]) -> tuple[float, float]:
    """Contour F-measure (ODS, OIS) from the counts of each image at each setting of some parameter, [image][setting].

    ODS: the setting that is best for the set; OIS: the best one of each image, the first of equal ones. Both are the F
    of the summed counts. With one setting, they are equal.
    """
    by_setting = [sum(column[1:], column[0]) for column in zip(*counts, strict=True)]
    best = [max(row, key=lambda count: count.f) for row in counts]
    return max(count.f for count in by_setting), sum(best[1:], best[0]).f


def ods_ois(values: np.ndarray, larger_is_better: bool = True) -> tuple[float, float]:
    """(ODS, OIS) of a region score (images, settings): the best mean of a setting, and the mean of each image's best."""
    best = np.max if larger_is_better else np.min
    return float(best(values.mean(0))), float(best(values, axis=1).mean())
