"""Saliency scores against hand-computed values, and against the demo's own computation of the same figures."""

from __future__ import annotations

import pytest
import torch

from benchmarks.paper.evaluate import score_channels, score_saliency
from examples.demo import metrics


def example() -> tuple[torch.Tensor, torch.Tensor]:
    """Two maps (2, 8, 4) and their masks."""
    masks = torch.tensor([[[1, 1, 0, 0]] * 8, [[1, 0, 0, 0]] * 8], dtype=torch.bool)
    saliency = torch.tensor([[[0.75, 0.25, 0.5, 0.0]] * 8, [[0.625, 0.875, 0.5, 0.5]] * 8])
    return saliency, masks


def test_scores_of_a_hand_computed_case() -> None:
    result = score_saliency(*example())
    # Means .375 and .625: S > .75 is empty and S >= .75 one column of two; S > 1.25 and S >= 1 are both empty.
    assert result.f_paper == 0
    assert result.f_capped == pytest.approx((1.3 * 0.5 / (0.3 + 0.5)) / 2)
    assert result.mae == pytest.approx(((0.25 + 0.75 + 0.5) / 4 + (0.375 + 0.875 + 0.5 + 0.5) / 4) / 2)
    assert result.mae_paper == pytest.approx((0.5 + 0.25) / 2)  # of empty masks


def test_perfect_maps_score_perfectly() -> None:
    _, masks = example()
    result = score_saliency(masks.double(), masks)
    assert result.f_capped == result.f_max == pytest.approx(1)
    assert result.mae == 0
    assert result.s_measure == pytest.approx(1)
    assert result.e_adaptive == pytest.approx(32 / 31)  # the toolkit divides by H W - 1, as the published code does


def test_nothing_is_stretched() -> None:
    _, masks = example()
    assert score_saliency(0.5 + 0.25 * masks, masks).mae == pytest.approx((0.25 * 6 + 0.5 * 10) / 16)
    flat = torch.full((1, 8, 4), 0.25)
    assert score_saliency(flat, masks[:1]).mae == pytest.approx((0.75 + 0.25) / 2)


def test_scores_equal_those_of_the_demo() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(5, 1, 1, generator=generator) > torch.rand(5, 16, 16, generator=generator)
    saliency = (0.4 * masks + 0.6 * torch.rand(5, 16, 16, generator=generator)) ** 2
    ours, theirs = score_saliency(saliency, masks), metrics.score(saliency, masks)
    assert ours.f_capped == pytest.approx(theirs.f_beta, abs=1e-9)
    assert ours.mae == pytest.approx(theirs.mae, abs=1e-7)
    assert ours.f_max == pytest.approx(theirs.best_f_beta, abs=0.01)  # 256 thresholds there, 101 here
    assert 0.2 < ours.f_capped < 1


@pytest.mark.parametrize("bad", [1.01, -0.01, float("nan")])
def test_values_outside_of_0_to_1_are_refused(bad: float) -> None:
    saliency, masks = example()
    saliency[0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        score_saliency(saliency, masks)


def test_shapes_are_checked() -> None:
    saliency, masks = example()
    with pytest.raises(ValueError, match=r"got \(2, 8, 4\) and \(1, 8, 4\)"):
        score_saliency(saliency, masks[:1])
    with pytest.raises(ValueError, match="n at least 1"):
        score_saliency(saliency[:0], masks[:0])


def test_channel_is_selected_on_the_validation_set_and_scored_on_the_test_set() -> None:
    saliency, masks = example()
    good, bad = masks.float(), 1 - masks.float()
    channel, result = score_channels(torch.stack((bad, good), 1), masks, torch.stack((good, saliency), 1), masks)
    assert channel == 1
    assert result == score_saliency(saliency, masks)
