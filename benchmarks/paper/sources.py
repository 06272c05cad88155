"""Where the images of a run come from: generated, or a data set of the paper below --data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import torch

from . import data, scenes
from .data import DataError, Labelled

GENERATORS: dict[str, Callable[..., Labelled]] = {
    "salient": scenes.salient_scenes,
    "voronoi": scenes.voronoi_scenes,
    "texture": scenes.texture_scenes,
}
KINDS = (*GENERATORS, "transfer")  # transfer: train on salient objects, test on textures
SHARE = 1 / 8  # of the training images: how many are generated to validate, and how many to test
HELD_OUT = 0.9  # of a data set's training images that are trained on; the others validate
MSRA_TRAINING = 0.6  # the paper splits MSRA-B 6:4
FEWEST_IMAGES = 8


@dataclass(frozen=True)
class Source:
    """kind: one of KINDS. images: to train on, if generated. noise: share of training images with swapped labels.

    data: folder of the paper's data sets, or None for generated ones.
    """

    kind: str
    size: int
    images: int
    seed: int
    noise: float = 0.0
    data: str | None = None


@dataclass(frozen=True)
class Splits:
    """tests: by the name of their data set. The labels of validation and tests are clean."""

    train: Labelled
    validation: Labelled
    tests: dict[str, Labelled]


def _generated(source: Source, device: torch.device) -> Splits:
    trained, tested = ("salient", "texture") if source.kind == "transfer" else (source.kind, source.kind)

    def make(kind: str, split: str, count: float) -> Labelled:
        return GENERATORS[kind](max(round(count), FEWEST_IMAGES), source.size, split, source.seed, device)

    return Splits(
        make(trained, "train", source.images),
        make(tested, "validation", source.images * SHARE),
        {"generated": make(tested, "test", source.images * SHARE)},
    )


@cache
def _read(name: str, root: str, size: int) -> Labelled:
    return data.load(name, Path(root), size)


def _salient_sets(source: Source, root: str) -> tuple[Labelled, dict[str, Labelled]]:
    """The training part of MSRA-B; its other part and all other data sets that are there."""
    msra, test = data.divide(_read("MSRA-B", root, source.size), MSRA_TRAINING, source.seed)
    tests = {"MSRA-B": test}
    for name in data.SALIENCY[1:]:
        if (Path(root) / data.LAYOUTS[name].images).is_dir():
            tests[name] = _read(name, root, source.size)
    return msra, tests


def _data_set(source: Source, device: torch.device) -> Splits:
    root, size = str(source.data), source.size
    if source.kind == "salient":
        full, tests = _salient_sets(source, root)
    elif source.kind == "voronoi":
        full, tests = _read("VOC2012-train", root, size), {"VOC2012-val": _read("VOC2012-val", root, size)}
    else:
        tests = {"texture-test": _read("texture-test", root, size)}
        full = _read("texture-train", root, size)
    train, validation = data.divide(full, HELD_OUT, source.seed)
    if source.kind == "transfer":  # validated on textures all the same
        train, _ = data.divide(_salient_sets(source, root)[0], HELD_OUT, source.seed)
    return Splits(
        train.to(device), validation.to(device), {name: labelled.to(device) for name, labelled in tests.items()}
    )


@lru_cache(maxsize=2)
def load(source: Source, device: torch.device) -> Splits:
    """The images of a run, on the device. The last two sources are kept.

    Raises:
        DataError: as `data.load`.
        ValueError: for an unknown kind, or sizes that `scenes` refuses.
    """
    if source.kind not in KINDS:
        raise ValueError(f"load: kind must be one of {', '.join(KINDS)}, got {source.kind!r}")
    if source.noise == 0:
        return _generated(source, device) if source.data is None else _data_set(source, device)
    clean = load(replace(source, noise=0.0), device)
    return Splits(scenes.with_region_noise(clean.train, source.noise, source.seed), clean.validation, clean.tests)


__all__ = ["KINDS", "DataError", "Source", "Splits", "load"]
