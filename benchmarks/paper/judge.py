"""Scores of a trained network: saliency maps, or regions with the way of decoding chosen on the validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from cas_ext.saliency import code_usage, select_channel

from . import decode, region_scores
from .evaluate import score_saliency
from .losses import IGNORED, SPECS
from .region_scores import ContourCount
from .sources import Splits
from .train import predict

PICTURES = 4  # test images that are drawn, the first ones
MIN_PIXELS = (
    1,
    8,
    24,
    64,
    128,
)  # of a region; smaller ones join their surroundings. For images of 64 x 64, scaled to others
REFERENCE_PIXELS = 64 * 64
# Radii that are tried, as shares of the embedding's deviation within an image.
RADII = {"thresholding": (0.35, 0.5, 0.7, 0.9), "mean shift": (0.5, 0.7), "dbscan": (0.07, 0.1, 0.13)}
CLUSTERINGS = {"thresholding": decode.thresholding, "mean shift": decode.mean_shift, "dbscan": decode.dbscan}
SAMPLE = 16  # validation images on which decoders are compared, for every loss alike

Scores = dict[str, object]


@dataclass(frozen=True)
class Decoder:
    """kind: "codes" or a key of CLUSTERINGS. radius: in units of the embedding; 0 for codes. pixels: of the smallest region."""

    kind: str
    radius: float
    pixels: int


@dataclass(frozen=True)
class Judged:
    """scores: numbers that JSON holds. pictures: (at most PICTURES, H, W), saliency maps or region ids."""

    scores: Scores
    pictures: np.ndarray


def judge_saliency(network: nn.Module, loss: str, splits: Splits) -> Judged:
    """Select the channel on the validation images and score its maps on every test set."""
    maps = {name: predict(network, test.images).softmax(1) for name, test in splits.tests.items()}
    seen = predict(network, splits.validation.images).softmax(1)
    channel = select_channel(seen, (splits.validation.labels != 0).to(torch.uint8).cpu())
    tests = {
        name: asdict(score_saliency(maps[name][:, channel], test.labels.cpu())) for name, test in splits.tests.items()
    }
    first = next(iter(maps.values()))[:PICTURES, channel]
    return Judged({"channel": channel, "tests": tests}, first.numpy().astype(np.float16))


def smallest_regions(pixels: int) -> list[int]:
    """MIN_PIXELS for images of so many pixels."""
    return [max(round(least * pixels / REFERENCE_PIXELS), 1) for least in MIN_PIXELS]


def descriptors(network: nn.Module, loss: str, images: Tensor) -> Tensor:
    """(n, M, H, W): probabilities for losses of codes, else embeddings, of length 1 where only the direction counts."""
    output, found = SPECS[loss].output, predict(network, images)
    if output == "codes":
        return found.softmax(1)
    return torch.nn.functional.normalize(found, dim=1) if output == "direction" else found


def deviation(embeddings: Tensor) -> float:
    """Root mean square distance of the pixels (n, M, H, W) from the mean of their image."""
    return float((embeddings - embeddings.mean((2, 3), keepdim=True)).square().sum(1).mean().sqrt())


def labels_by(kind: str, radius: float, found: Tensor) -> np.ndarray:
    """Labels (n, H, W): codes or clusters, before components are taken."""
    if kind == "codes":
        return found.argmax(1).numpy()
    return np.stack([CLUSTERINGS[kind](embedding, radius) for embedding in found])


def best_decoders(found: Tensor, truth: np.ndarray, codes: bool) -> list[tuple[float, Decoder]]:
    """The best decoder of each kind by GT covering on validation images, with that covering; the best kind first."""
    if codes:
        tried = [("codes", 0.0)]
    else:
        scale = deviation(found)
        tried = [(kind, share * scale) for kind, shares in RADII.items() for share in shares]
    best: dict[str, tuple[float, Decoder]] = {}
    for kind, radius in tried:
        labels = labels_by(kind, radius, found)
        for pixels in smallest_regions(truth[0].size):
            coverings = [
                region_scores.gt_covering(true, decode.components(image, pixels))
                for true, image in zip(truth, labels, strict=True)
            ]
            value = float(np.mean(coverings))
            if kind not in best or value > best[kind][0]:
                best[kind] = value, Decoder(kind, radius, pixels)
    return sorted(best.values(), key=lambda pair: -pair[0])


def _contours(truth: np.ndarray, predicted: Sequence[np.ndarray]) -> list[ContourCount] | None:
    """Counts for each setting; None for a truth with ignored pixels, which has no contour."""
    if (truth == IGNORED).any():
        return None
    return [region_scores.count_contours(truth, labels) for labels in predicted]


def score_decoder(
    found: Tensor, truth: np.ndarray, decoder: Decoder, every: bool = False
) -> tuple[Scores, list[np.ndarray]]:
    """Scores of a decoder on test images, and its regions.

    "at": at the decoder's smallest region. With `every`, "ods" and "ois" (covering, rand, information, contour) at the best of
    all MIN_PIXELS for the set and for each image, which by definition is chosen on the images it is scored on.
    """
    sizes = smallest_regions(truth[0].size) if every else [decoder.pixels]
    chosen = sizes.index(decoder.pixels)
    labels = labels_by(decoder.kind, decoder.radius, found)
    values, contours, regions = [], [], []
    for true, image in zip(truth, labels, strict=True):
        settings = [decode.components(image, pixels) for pixels in sizes]
        values.append([list(asdict(region_scores.score_regions(true, one)).values()) for one in settings])
        contours.append(_contours(true, settings))
        regions.append(settings[chosen])
    table = np.array(values)  # (images, settings, scores)
    known = [row for row in contours if row is not None]
    whole = len(known) == len(contours)
    at = dict(zip(("covering", "rand", "information", "precision"), map(float, table.mean(0)[chosen]), strict=True))
    at["contour"] = region_scores.contour_f([[row[chosen]] for row in known])[0] if whole else None
    scores: Scores = {"at": at, "decoder": asdict(decoder)}
    if every:
        pairs = {
            "covering": region_scores.ods_ois(table[:, :, 0]),
            "rand": region_scores.ods_ois(table[:, :, 1]),
            "information": region_scores.ods_ois(table[:, :, 2], larger_is_better=False),
            "contour": region_scores.contour_f(known) if whole else (None, None),
        }
        scores["ods"], scores["ois"] = ({name: pair[k] for name, pair in pairs.items()} for k in (0, 1))
    return scores, regions


def usage(found: Tensor, labels: Tensor) -> Scores:
    """How many codes the regions of an image use: means over images of regions, codes, and the share that shares a code."""
    labels = labels.cpu()
    bound = int(labels.max()) + 1
    seen = code_usage(found, labels, bound, ignore_index=IGNORED)
    regions = (seen.code >= 0).sum(1).double()
    codes = (seen.regions > 0).sum(1).double()
    shared = seen.collapsed / regions.clamp(min=1)
    return {
        "regions": regions.mean().item(),
        "codes": codes.mean().item(),
        "shared": shared.mean().item(),
    }


def validate(network: nn.Module, loss: str, splits: Splits) -> tuple[list[tuple[float, Decoder]], Scores]:
    """The decoders chosen on the validation images, best first, and the usage of codes there (empty for embeddings)."""
    codes = SPECS[loss].output == "codes"
    sample = splits.validation.take(torch.arange(min(SAMPLE, len(splits.validation))))
    found = descriptors(network, loss, sample.images)
    best = best_decoders(found, sample.labels.cpu().numpy(), codes)
    return best, usage(found, sample.labels) if codes else {}


def judge_validation(network: nn.Module, loss: str, splits: Splits) -> Judged:
    """For a sweep: no test image is looked at."""
    best, codes = validate(network, loss, splits)
    covering, decoder = best[0]
    return Judged({"validation": covering, "decoder": asdict(decoder), "usage": codes}, np.empty((0, 0, 0)))


def judge_regions(network: nn.Module, loss: str, splits: Splits, every: bool = False) -> Judged:
    """Choose a decoder of each kind on the validation images and score it on the first test set.

    every: the kind that validates best also at every smallest region, see `score_decoder`.
    """
    best, _ = validate(network, loss, splits)
    (test,) = splits.tests.values()
    truth = test.labels.cpu().numpy()
    found = descriptors(network, loss, test.images)
    scored = [score_decoder(found, truth, decoder, every and rank == 0) for rank, (_, decoder) in enumerate(best)]
    first, regions = scored[0]
    scores: Scores = {
        **first,
        "validation": best[0][0],
        "decoders": {one.kind: {"at": mine["at"]} for (_, one), (mine, _) in zip(best, scored, strict=True)},
        "usage": usage(found, test.labels) if SPECS[loss].output == "codes" else {},
    }
    return Judged(scores, np.stack(regions[:PICTURES]).astype(np.int16))


JUDGES: dict[str, Callable[[nn.Module, str, Splits], Judged]] = {
    "saliency": judge_saliency,
    "validation": judge_validation,
    "regions": judge_regions,
    "every region size": partial(judge_regions, every=True),
}
