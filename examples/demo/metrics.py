"""Scores of saliency maps against clean masks, as the salient-object field computes them.

The figures equal those of pysodmetrics (`normalize=False`), which is no requirement here because it brings OpenCV and
scikit-learn and is pinned to old versions of numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cas_ext.saliency import adaptive_threshold

BETA_SQUARED = 0.3
THRESHOLDS = 101  # fixed thresholds 0, 0.01, ..., 1 for the best F_beta


@dataclass(frozen=True)
class Scores:
    """Averages over the images of a test set; `per_image` (n,) holds each image's F_beta."""

    f_beta: float
    best_f_beta: float
    mae: float
    per_image: Tensor


def f_beta(predicted: Tensor, masks: Tensor) -> Tensor:
    """F_beta of each image: (n, H, W) bool twice -> (n,) float64; 0 where nothing is hit."""
    hits = (predicted & masks).sum((1, 2)).double()
    precision = hits / predicted.sum((1, 2)).clamp(min=1)
    recall = hits / masks.sum((1, 2)).clamp(min=1)
    denominator = BETA_SQUARED * precision + recall
    return torch.where(hits > 0, (1 + BETA_SQUARED) * precision * recall / denominator, 0.0)


def best_f_beta(saliency: Tensor, masks: Tensor) -> float:
    """Mean F_beta at the one fixed threshold that suits the whole set best: what any choice of threshold can give."""
    return max(f_beta(saliency >= t, masks).mean().item() for t in torch.linspace(0, 1, THRESHOLDS))


def mean_absolute_error(saliency: Tensor, masks: Tensor) -> float:
    """Mean of |S - mask| on the continuous maps."""
    return (saliency.double() - masks.double()).abs().mean().item()


def score(saliency: Tensor, masks: Tensor) -> Scores:
    """Score maps (n, H, W) in [0, 1] against masks (n, H, W) bool."""
    per_image = f_beta(adaptive_threshold(saliency, variant="capped"), masks)
    return Scores(
        f_beta=per_image.mean().item(),
        best_f_beta=best_f_beta(saliency, masks),
        mae=mean_absolute_error(saliency, masks),
        per_image=per_image,
    )
