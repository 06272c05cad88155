"""Images composed of real photographs of textures, with exact masks.

Every image shows one to three brick objects of random shape on grass or on gravel. Contrast and brightness are drawn
anew for every region, so that only the texture tells object from background. The photographs (512 x 512, grey) ship
with scikit-image; training, validation and test images are cut from disjoint strips of them.
"""

from __future__ import annotations

import numpy as np
import skimage.data
import skimage.draw
import skimage.transform
import torch

from .data import Data, Split

OBJECT = "brick"
BACKGROUNDS = ("grass", "gravel")
STRIPS = {"train": slice(0, 256), "validation": slice(256, 384), "test": slice(384, 512)}  # columns of the photographs
COUNTS = {"train": 400, "validation": 48, "test": 96}
AREA = (0.10, 0.45)  # share of the image the objects may cover
ZOOM = (1.0, 1.35)  # photograph pixels per image pixel


def cut_texture(rng: np.random.Generator, strip: np.ndarray, size: int) -> np.ndarray:
    """Cut a random, randomly turned and zoomed square out of `strip`; returns (size, size), mean 0, deviation 1."""
    side = min(round(size * rng.uniform(*ZOOM)), *strip.shape)
    top, left = (rng.integers(0, length - side + 1) for length in strip.shape)
    crop = np.rot90(strip[top : top + side, left : left + side], rng.integers(4))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    crop = skimage.transform.resize(crop, (size, size), anti_aliasing=side > size)
    return (crop - crop.mean()) / crop.std()


def draw_shape(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw one random ellipse, polygon or smooth blob; returns (size, size) bool."""
    kind = rng.choice(["ellipse", "polygon", "blob"])
    centre = rng.uniform(0.2, 0.8, 2) * size
    radius = rng.uniform(0.14, 0.34) * size
    mask = np.zeros((size, size), dtype=bool)
    if kind == "ellipse":
        rows, columns = skimage.draw.ellipse(
            *centre, radius, radius * rng.uniform(0.5, 1.0), mask.shape, rotation=rng.uniform(-np.pi, np.pi)
        )
    else:
        if kind == "polygon":
            corners = rng.integers(3, 8)
            angle = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * (2 * np.pi / corners)
            angle += rng.uniform(0, 2 * np.pi)
            reach = radius * rng.uniform(0.8, 1.2, corners)
        else:
            angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
            waves = sum(rng.uniform(0, 0.5 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
            reach = radius * (1 + waves)
        rows, columns = skimage.draw.polygon(
            centre[0] + reach * np.sin(angle), centre[1] + reach * np.cos(angle), mask.shape
        )
    mask[rows, columns] = True
    return mask


def draw_mask(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw one to three shapes that together cover a share of the image within AREA."""
    while True:
        mask = np.any([draw_shape(rng, size) for _ in range(rng.integers(1, 4))], axis=0)
        if AREA[0] <= mask.mean() <= AREA[1]:
            return mask


def compose(
    rng: np.random.Generator, photographs: dict[str, np.ndarray], strip: slice, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compose one image (size, size) uint8 and its mask (size, size) bool."""
    mask = draw_mask(rng, size)
    regions = []
    for name in (OBJECT, rng.choice(BACKGROUNDS)):
        texture = cut_texture(rng, photographs[name][:, strip], size)
        regions.append(rng.uniform(30, 50) * texture + rng.uniform(105, 150))
    image = np.where(mask, *regions)
    return np.clip(image, 0, 255).astype(np.uint8), mask


def texture_data(size: int, seed: int) -> Data:
    """Compose the three splits; the same seed gives the same images."""
    photographs = {name: getattr(skimage.data, name)() / 255 for name in (OBJECT, *BACKGROUNDS)}
    splits = {}
    for index, (name, strip) in enumerate(STRIPS.items()):
        rng = np.random.default_rng([seed, 0, index])
        pairs = [compose(rng, photographs, strip, size) for _ in range(COUNTS[name])]
        images, masks = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*pairs, strict=True))
        splits[name] = Split(images[:, None], masks)
    description = f"{OBJECT} objects on {' or '.join(BACKGROUNDS)}, each split from its own part of the photographs"
    return Data(**splits, description=description)
