"""Generated data sets: salient shapes, two textures, and Voronoi scenes (3 to 8 regions), each region with its own texture.

Brightness and contrast are drawn anew for every region of every image, so that only the texture tells regions apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from examples.demo.data import choose_swapped, swap_labels
from examples.demo.textures import AREA

from .data import Labelled
from .textures import TEXTURES, pixel_grid, textures, uniform

OBJECTS = ("dots",)  # one kind: what CAS and CACE make of several, docs/experiments.md says
BACKGROUNDS = ("grass", "gravel", "clouds", "grain")
REGIONS = (3, 8)  # of a Voronoi scene; as many as there are textures at most
SPLITS = ("train", "validation", "test")
CONTRAST = (30.0, 50.0)  # grey levels: the deviation of a region
BRIGHTNESS = (105.0, 150.0)  # grey levels: the mean of a region
MAX_BLOBS = 3  # of a salient object
WAVES = (2, 3, 4, 5)  # periods around the outline of a blob
SITE_GRID = 4  # Voronoi sites lie in different cells of a grid of 4 x 4,
SITE_JITTER = 0.4  # up to this share of a cell from its centre, so that no two coincide


def generator_of(seed: int, kind: str, split: str) -> torch.Generator:
    """A CPU generator of its own for each seed, kind of scene and split."""
    stream = ("salient", "voronoi", "texture").index(kind) * len(SPLITS) + SPLITS.index(split)
    return torch.Generator().manual_seed(seed * 16 + stream)


def blob_masks(generator: torch.Generator, count: int, size: int, device: torch.device) -> Tensor:
    """Masks (count, size, size) bool of one to three blobs each, which cover a share of the image within AREA.

    The blobs are a level set of one function: the distance to the nearest centre over the radius in that direction. The
    level is the quantile that gives the share drawn.
    """
    y, x = pixel_grid(size, device)
    number = torch.randint(1, MAX_BLOBS + 1, (count,), generator=generator).to(device)
    level = torch.full((count, size, size), torch.inf, device=device)
    for blob in range(MAX_BLOBS):
        centre = uniform(generator, 0.2 * size, 0.8 * size, 2, count, 1, 1).to(device)
        dy, dx = y - centre[0], x - centre[1]
        angle = torch.atan2(dy, dx)
        radius = uniform(generator, 0.6, 1.0, count, 1, 1).to(device).expand(count, size, size)
        for k in WAVES:
            height, phase = uniform(generator, 0, 1, 2, count, 1, 1).to(device)
            radius = radius * (1 + 0.5 / k * height * torch.cos(k * angle + 2 * math.pi * phase))
        distance = (dy.square() + dx.square()).sqrt() / radius
        level = torch.where((blob < number)[:, None, None], torch.minimum(level, distance), level)
    share = uniform(generator, *AREA, count)
    rank = (share * size * size).long().clamp(min=1)  # pixels of the object
    ordered = level.flatten(1).sort(1).values
    return level <= ordered.gather(1, rank.to(device)[:, None] - 1)[:, :, None]


def voronoi_regions(generator: torch.Generator, count: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Regions (count, size, size) int64, numbered 0, 1, ..., and how many (count,) each image has, none of them empty."""
    number = torch.randint(REGIONS[0], REGIONS[1] + 1, (count,), generator=generator)
    cells = torch.rand(count, SITE_GRID**2, generator=generator).argsort(1)[:, : REGIONS[1]]
    corners = torch.stack((cells // SITE_GRID, cells % SITE_GRID), 2)
    jitter = uniform(generator, -SITE_JITTER, SITE_JITTER, count, REGIONS[1], 2)
    sites = ((corners + 0.5 + jitter) * (size / SITE_GRID)).to(device)  # (count, sites, 2), pixels
    y, x = pixel_grid(size, device)
    dy, dx = y - sites[:, :, 0, None, None], x - sites[:, :, 1, None, None]
    squared = dy.square() + dx.square()
    squared[torch.arange(REGIONS[1]) >= number[:, None]] = torch.inf
    return squared.argmin(1), number


def compose(generator: torch.Generator, regions: Tensor, kinds: Tensor, names: tuple[str, ...], split: str) -> Tensor:
    """Fill region i of image b with a texture of kind names[kinds[b, i]].

    Args:
        regions: (n, H, H) int64. kinds: (n, N) int64 on the CPU.

    Returns: (n, 1, H, H) uint8 images on the device of `regions`.
    """
    count, size = len(regions), regions.shape[1]
    image = torch.zeros(regions.shape, device=regions.device)
    for region in range(kinds.shape[1]):
        filling = torch.empty_like(image)
        for kind, name in enumerate(names):
            chosen = (kinds[:, region] == kind).nonzero()[:, 0]
            if len(chosen):
                drawn = textures(generator, name, len(chosen), size, split, regions.device)
                filling[chosen.to(regions.device)] = drawn
        contrast = uniform(generator, *CONTRAST, count, 1, 1).to(image.device)
        brightness = uniform(generator, *BRIGHTNESS, count, 1, 1).to(image.device)
        image = torch.where(regions == region, contrast * filling + brightness, image)
    return image.round().clamp(0, 255).to(torch.uint8)[:, None]


def _check(function: str, count: int, size: int, split: str) -> None:
    if count < 1:
        raise ValueError(f"{function}: count must be at least 1, got {count}")
    if size < 32:
        raise ValueError(f"{function}: size must be at least 32 pixels, got {size}")
    if split not in SPLITS:
        raise ValueError(f"{function}: split must be one of {', '.join(SPLITS)}, got {split!r}")


def salient_scenes(count: int, size: int, split: str, seed: int, device: torch.device | str = "cpu") -> Labelled:
    """Objects (texture in OBJECTS) of random outline on a background (texture in BACKGROUNDS).

    Returns: Labelled, images (count, 1, size, size) uint8 and labels (count, size, size) uint8, 1 on the object.

    Raises:
        ValueError: for no images, a size below 32, or an unknown split.
    """
    _check("salient_scenes", count, size, split)
    generator = generator_of(seed, "salient", split)
    masks = blob_masks(generator, count, size, torch.device(device))
    kinds = torch.stack(
        (
            len(OBJECTS) + torch.randint(len(BACKGROUNDS), (count,), generator=generator),
            torch.randint(len(OBJECTS), (count,), generator=generator),
        ),
        1,
    )
    images = compose(generator, masks.long(), kinds, OBJECTS + BACKGROUNDS, split)
    return Labelled(images, masks.to(torch.uint8), f"generated: {count} salient shapes of {size} x {size} pixels")


def voronoi_scenes(count: int, size: int, split: str, seed: int, device: torch.device | str = "cpu") -> Labelled:
    """Voronoi diagrams of 3 to 8 regions, each of another texture, with arbitrary region ids.

    The ids of an image are drawn from 0..7 without regard to texture or place: the same texture has another id in the
    next image, and ids are left out.

    Returns: Labelled, images (count, 1, size, size) uint8 and labels (count, size, size) uint8 in [0, 8).

    Raises:
        ValueError: as `salient_scenes`.
    """
    _check("voronoi_scenes", count, size, split)
    generator = generator_of(seed, "voronoi", split)
    regions, _ = voronoi_regions(generator, count, size, torch.device(device))
    kinds = torch.rand(count, len(TEXTURES), generator=generator).argsort(1)[:, : REGIONS[1]]
    images = compose(generator, regions, kinds, TEXTURES, split)
    ids = torch.rand(count, REGIONS[1], generator=generator).argsort(1).to(regions.device)
    labels = ids.gather(1, regions.flatten(1)).view_as(regions)
    return Labelled(
        images, labels.to(torch.uint8), f"generated: {count} Voronoi scenes of {size} x {size} pixels, 3 to 8 regions"
    )


def texture_scenes(count: int, size: int, split: str, seed: int, device: torch.device | str = "cpu") -> Labelled:
    """Two different textures of TEXTURES, one in blobs on the other; which of them is region 1 is drawn for each image.

    So an id says nothing, as in a set that is annotated with regions and not with classes.

    Returns: Labelled, images (count, 1, size, size) uint8 and labels (count, size, size) uint8, 0 or 1.

    Raises:
        ValueError: as `salient_scenes`.
    """
    _check("texture_scenes", count, size, split)
    generator = generator_of(seed, "texture", split)
    masks = blob_masks(generator, count, size, torch.device(device)).to(torch.uint8)
    kinds = torch.rand(count, len(TEXTURES), generator=generator).argsort(1)[:, :2]
    images = compose(generator, masks.long(), kinds, TEXTURES, split)
    swapped = (torch.rand(count, generator=generator) < 0.5).to(masks.device)
    return Labelled(
        images,
        swap_labels(masks, swapped),
        f"generated: {count} images of two textures, {size} x {size} pixels, arbitrary ids",
    )


def with_region_noise(data: Labelled, noise: float, seed: int) -> Labelled:
    """Exchange the two labels in a share `noise` of the images, which the seed chooses; the outlines stay.

    Fixed: the same images are wrong in every epoch. data: labels 0 and 1.

    Raises:
        ValueError: for a share outside [0, 1] or other labels.
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"with_region_noise: noise must be a share in [0, 1], got {noise}")
    if bool((data.labels > 1).any()) or bool((data.labels < 0).any()):
        raise ValueError("with_region_noise: data must have labels 0 and 1, got others")
    swapped = choose_swapped(len(data), noise, seed).to(data.labels.device)
    return Labelled(data.images, swap_labels(data.labels, swapped), data.description)
