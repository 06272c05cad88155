"""Scores of saliency maps: F_beta, MAE, S- and E-measure, as the salient-object field's toolkit computes them.

Which channel is salient, and the thresholds, are those of `cas_ext.saliency`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cas_ext.saliency import VARIANTS, adaptive_threshold, select_channel

BETA_SQUARED = 0.3


@dataclass(frozen=True)
class SaliencyScores:
    """Averages over the images of a set; all in [0, 1], larger is better except for the two errors.

    f_paper, f_capped: F_beta (beta^2 = 0.3) of the mask that `adaptive_threshold` makes, by its variants; f_max: at the one
    of 256 fixed thresholds that suits the set best. mae: of the continuous map; mae_paper: of the mask by the paper's
    threshold, which is what the authors' code computes. s_measure (Fan et al., 2017), alpha 0.5. e_adaptive, e_mean and
    e_max: the E-measure (Fan et al., 2018) at the capped threshold, and the mean and maximum over 256 thresholds.
    """

    f_paper: float
    f_capped: float
    f_max: float
    mae: float
    mae_paper: float
    s_measure: float
    e_adaptive: float
    e_mean: float
    e_max: float


def _check_maps(saliency: Tensor, masks: Tensor) -> None:
    if saliency.dim() != 3 or saliency.shape != masks.shape or len(saliency) == 0:
        raise ValueError(
            f"score_saliency: saliency and masks must have one shape (n, H, W) with n at least 1, "
            f"got {tuple(saliency.shape)} and {tuple(masks.shape)}"
        )
    if not bool(((saliency >= 0) & (saliency <= 1)).all()):
        raise ValueError("score_saliency: saliency must have values in [0, 1], got others")


def score_saliency(saliency: Tensor, masks: Tensor) -> SaliencyScores:
    """Score maps against clean masks with `py_sod_metrics`.

    Args:
        saliency: (n, H, W) in [0, 1], any floating-point dtype and device. Scored as they are: nothing is stretched.
        masks: (n, H, W), nonzero on the object.

    Raises:
        ValueError: for other shapes or values, NaN among them.
    """
    import py_sod_metrics as sod

    _check_maps(saliency, masks)

    def f_measure(**which: bool) -> sod.FmeasureV2:
        options = {"with_dynamic": False, "with_adaptive": False, **which}
        return sod.FmeasureV2({"f": sod.FmeasureHandler(beta=BETA_SQUARED, **options)})

    binary = {variant: adaptive_threshold(saliency, variant=variant).cpu().numpy() for variant in VARIANTS}
    fixed = f_measure(with_dynamic=True)
    masked = {variant: f_measure(with_binary=True) for variant in VARIANTS}
    mae, mae_paper, structure, alignment = sod.MAE(), sod.MAE(), sod.Smeasure(), sod.Emeasure()
    maps, truths = saliency.double().cpu().numpy(), (masks != 0).cpu().numpy()
    for index, (prediction, truth) in enumerate(zip(maps, truths, strict=True)):
        for metric in (fixed, mae, structure, alignment):
            metric.step(prediction, truth, normalize=False)
        for variant in VARIANTS:
            masked[variant].step(binary[variant][index].astype(np.float64), truth, normalize=False)
        mae_paper.step(binary["paper"][index].astype(np.float64), truth, normalize=False)
    e_measure = alignment.get_results()["em"]
    return SaliencyScores(
        f_paper=float(masked["paper"].get_results()["f"]["binary"]),
        f_capped=float(masked["capped"].get_results()["f"]["binary"]),
        f_max=float(fixed.get_results()["f"]["dynamic"].max()),
        mae=float(mae.get_results()["mae"]),
        mae_paper=float(mae_paper.get_results()["mae"]),
        s_measure=float(structure.get_results()["sm"]),
        e_adaptive=float(e_measure["adp"]),
        e_mean=float(e_measure["curve"].mean()),
        e_max=float(e_measure["curve"].max()),
    )


def score_channels(
    validation: Tensor, validation_masks: Tensor, test: Tensor, test_masks: Tensor
) -> tuple[int, SaliencyScores]:
    """Select the salient channel on validation images and score it on test images.

    Args:
        validation, test: (n, M, H, W) probabilities. validation_masks, test_masks: (n, H, W) clean masks.

    Returns: the channel, and its scores on the test images.
    """
    channel = select_channel(validation, (validation_masks != 0).to(torch.uint8))
    return channel, score_saliency(test[:, channel], test_masks)
