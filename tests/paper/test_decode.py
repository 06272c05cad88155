"""Descriptors to regions with the number of regions unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.paper import decode, region_scores

STRIPES = np.repeat([[0] * 8 + [1] * 8 + [0] * 8], 24, 0)  # three regions, two codes


def test_components_part_regions_of_one_code() -> None:
    numbered = decode.components(STRIPES)
    assert len(np.unique(numbered)) == 3
    assert numbered[0, 0] != numbered[0, 23]
    assert np.array_equal(np.unique(numbered), [0, 1, 2])


def test_components_touch_by_sides_not_by_corners() -> None:
    assert len(np.unique(decode.components(np.eye(2, dtype=int)))) == 4


def test_small_components_join_their_surroundings() -> None:
    specks = STRIPES.copy()
    specks[3, 3] = 5
    specks[20, 12:14] = 0
    assert len(np.unique(decode.components(specks))) == 5
    assert np.array_equal(decode.components(specks, 4), decode.components(STRIPES))
    assert np.array_equal(decode.components(STRIPES, 10**6), decode.components(STRIPES))  # all are small: they stay


def test_regions_of_codes_are_the_components_of_the_largest_channel() -> None:
    codes = torch.from_numpy(np.stack([STRIPES, STRIPES.T.copy()]))
    probabilities = torch.nn.functional.one_hot(codes, 4).movedim(-1, 1) * 0.6 + 0.1
    found = decode.regions_of_codes(probabilities)
    assert np.array_equal(found, [decode.components(STRIPES), decode.components(STRIPES.T)])


def embedding(noise: float) -> torch.Tensor:
    """(2, 24, 24): two clusters, a distance 3 apart."""
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0]])[torch.from_numpy(STRIPES)].movedim(-1, 0)
    return points + noise * torch.randn(2, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "cluster", [lambda e: decode.mean_shift(e, 0.8), lambda e: decode.dbscan(e, 0.5)], ids=["mean shift", "dbscan"]
)
def test_clusters_are_found_without_their_number(cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert region_scores.score_regions(STRIPES, cluster(embedding(0.1))).rand == 1
    assert region_scores.score_regions(np.zeros_like(STRIPES), cluster(0 * embedding(0.0))).rand == 1
    monkeypatch.setattr(decode, "MAX_SAMPLES", 100)  # of 576 pixels
    assert region_scores.score_regions(STRIPES, cluster(embedding(0.1))).rand == 1


def test_mean_shift_finds_regions_of_few_pixels() -> None:
    """Eight regions, seven of them of 1% of the pixels: most starts drawn at random would lie in the eighth."""
    truth = np.zeros((48, 48), int)
    for region in range(1, 8):
        truth[6 * region : 6 * region + 4, 6:12] = region
    noise = 0.05 * torch.randn(8, 48, 48, generator=torch.Generator().manual_seed(0))
    found = decode.mean_shift(3 * torch.eye(8)[torch.from_numpy(truth)].movedim(-1, 0) + noise, 0.8)
    assert region_scores.score_regions(truth, found).rand == 1


def test_dbscan_without_a_core_sample_is_one_region() -> None:
    assert not decode.dbscan(100 * embedding(1.0), 1e-6).any()


def test_clustering_is_decided_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_SAMPLES", 60)
    spread = embedding(1.0)
    assert np.array_equal(decode.mean_shift(spread, 0.5, seed=1), decode.mean_shift(spread, 0.5, seed=1))
    assert not np.array_equal(decode.mean_shift(spread, 0.5, seed=1), decode.mean_shift(spread, 0.5, seed=2))


def test_thresholding_finds_clusters_and_bounds_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert region_scores.score_regions(STRIPES, decode.thresholding(embedding(0.1), 0.8)).rand == 1
    assert not decode.thresholding(0 * embedding(0.0), 0.8).any()
    monkeypatch.setattr(decode, "MAX_CLUSTERS", 5)
    found = decode.thresholding(embedding(1.0), 1e-9)  # every pixel would be a cluster of its own
    assert len(np.unique(found)) == 5
