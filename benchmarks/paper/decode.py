"""From descriptors to regions at test time, with the number of regions unknown.

Codes (softmax outputs) become regions by the largest channel and connected components, embeddings by clustering.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

MAX_SAMPLES = 2000  # pixels that a clustering sees; the others join what is nearest
SHIFTED = 16  # samples from which mean shift sets out, far from each other; all samples pull
MAX_CLUSTERS = 64  # that `thresholding` looks for
MAX_SHIFTS = 20  # of one centre; it stands still earlier, as a rule
NOISE = -1  # DBSCAN's label of pixels that belong to no cluster


def components(labels: np.ndarray, min_pixels: int = 1) -> np.ndarray:
    """Number the connected components (4 neighbours) of a label map (H, W): 0, 1, ...

    Components of fewer than `min_pixels` pixels are dissolved: each of their pixels joins the component of the nearest
    pixel of a larger one. If all are smaller, they stay.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import label

    numbered = label(labels, background=labels.min() - 1, connectivity=1) - 1
    small = np.bincount(numbered.ravel())[numbered] < min_pixels
    if small.any() and not small.all():
        nearest = distance_transform_edt(small, return_distances=False, return_indices=True)
        numbered = label(numbered[tuple(nearest)], background=NOISE, connectivity=1) - 1
    return numbered


def regions_of_codes(probabilities: Tensor, min_pixels: int = 1) -> np.ndarray:
    """Regions (n, H, W) int64 of probabilities or logits (n, M, H, W): components of equal largest channel."""
    codes = probabilities.argmax(1).cpu().numpy()
    return np.stack([components(image, min_pixels) for image in codes])


def _samples(pixels: np.ndarray, seed: int) -> np.ndarray:
    """At most MAX_SAMPLES of pixels (P, M), without replacement."""
    if len(pixels) <= MAX_SAMPLES:
        return pixels
    return pixels[np.random.default_rng(seed).choice(len(pixels), MAX_SAMPLES, replace=False)]


def mean_shift(embedding: Tensor, bandwidth: float, seed: int = 0) -> np.ndarray:
    """Clusters (H, W) int64 of an embedding (M, H, W): every pixel joins the nearest mode.

    Modes are found by mean shift with a flat kernel of radius `bandwidth`, in units of the embedding, on MAX_SAMPLES pixels,
    from SHIFTED of them that k-means++ draws: as many drawn at random miss small regions.
    """
    from sklearn import config_context
    from sklearn.cluster import MeanShift, kmeans_plusplus

    pixels = embedding.flatten(1).T.double().cpu().numpy()
    samples = _samples(pixels, seed)
    starts, _ = kmeans_plusplus(samples, min(SHIFTED, len(samples)), random_state=seed)
    # Its inner loop checks its arguments anew in each of thousands of calls.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        shift = MeanShift(bandwidth=bandwidth, seeds=starts).fit(samples)
    return shift.predict(pixels).reshape(embedding.shape[1:]).astype(np.int64)


def dbscan(embedding: Tensor, radius: float, min_samples: int = 10, seed: int = 0) -> np.ndarray:
    """Clusters (H, W) int64 of an embedding (M, H, W): every pixel joins the cluster of the nearest core sample.

    DBSCAN runs on MAX_SAMPLES pixels; without any core sample, all pixels are one region.
    """
    from scipy.spatial import cKDTree
    from sklearn.cluster import DBSCAN

    pixels = embedding.flatten(1).T.double().cpu().numpy()
    samples = _samples(pixels, seed)
    found = DBSCAN(eps=radius, min_samples=min_samples).fit(samples)
    cores = found.core_sample_indices_
    if len(cores) == 0:
        return np.zeros(embedding.shape[1:], np.int64)
    _, nearest = cKDTree(samples[cores]).query(pixels)
    return found.labels_[cores][nearest].reshape(embedding.shape[1:]).astype(np.int64)


def thresholding(embedding: Tensor, radius: float, seed: int = 0) -> np.ndarray:
    """Clusters (H, W) int64 of an embedding (M, H, W), found one after another as De Brabandere et al. (2017) do.

    A ball of `radius` around a random pixel without a cluster moves to the mean of those in it until it stands still; they
    become a cluster. After MAX_CLUSTERS the pixels left join the nearest centre.
    """
    from scipy.spatial.distance import cdist

    pixels = embedding.flatten(1).T.double().cpu().numpy()
    rng = np.random.default_rng(seed)
    labels = np.full(len(pixels), NOISE)
    centres: list[np.ndarray] = []
    while len(centres) < MAX_CLUSTERS and len(left := np.flatnonzero(labels == NOISE)):
        points = pixels[left]
        first = rng.integers(len(left))
        centre, inside = points[first], None
        for _ in range(MAX_SHIFTS):
            now = np.square(points - centre).sum(1) <= radius**2
            if (inside is not None and np.array_equal(now, inside)) or not now.any():
                break
            inside, centre = now, points[now].mean(0)
        inside[first] = True
        labels[left[inside]] = len(centres)
        centres.append(centre)
    rest = labels == NOISE
    if rest.any():
        labels[rest] = cdist(pixels[rest], np.stack(centres)).argmin(1)
    return labels.reshape(embedding.shape[1:])
