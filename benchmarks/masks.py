"""Label images: regions as segmentations have them, and regions chosen to be hard."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOBS = 6  # ellipses in a two-region image
BLOB_RADIUS = (0.08, 0.25)  # of each side


def make_mask(kind: str, shape: tuple[int, ...], regions: int, *, device: str = "cpu", seed: int = 0) -> Tensor:
    """(B, *spatial) int32 labels in [0, regions), the same ones for the same seed and device.

    Kinds:
        coherent: few long borders: blobs on a background for two regions, else a Voronoi diagram; every label occurs.
        random: every pixel drawn on its own.
        giant: one region but for a single pixel of each other label.
        checkerboard: no two neighbours alike; labels cycle along every axis.
        absent: coherent, but every second label occurs nowhere. With two regions an image holds one of them only.
    """
    batch, *spatial = shape
    generator = torch.Generator().manual_seed(seed)
    mask = torch.empty(shape, dtype=torch.int32, device=device)
    if kind == "random":
        on_device = torch.Generator(device).manual_seed(seed)
        return mask.random_(0, regions, generator=on_device)
    for b in range(batch):
        mask[b] = _image(kind, spatial, regions, b, generator, device)
    return mask


def _image(kind: str, spatial: list[int], regions: int, b: int, generator: torch.Generator, device: str) -> Tensor:
    if kind == "coherent":
        return _coherent(spatial, regions, generator, device)
    if kind == "absent":
        if regions <= 2:
            return torch.full(spatial, b % regions, dtype=torch.int32, device=device)
        return 2 * _coherent(spatial, (regions + 1) // 2, generator, device)
    if kind == "checkerboard":
        return sum(_axes(spatial, device)).to(torch.int32) % regions
    if kind == "giant":
        pixels = math.prod(spatial)
        image = torch.zeros(pixels, dtype=torch.int32, device=device)
        present = min(regions, pixels)
        where = torch.arange(1, present, device=device) * pixels // present
        image[where] = torch.arange(1, present, dtype=torch.int32, device=device)
        return image.reshape(spatial)
    raise ValueError(f"make_mask: kind must be coherent, random, giant, checkerboard or absent, got {kind!r}")


def _axes(spatial: list[int], device: str) -> list[Tensor]:
    """The coordinates along each axis, shaped to broadcast against each other."""
    dims = len(spatial)
    return [
        torch.arange(n, device=device).reshape([-1 if d == axis else 1 for d in range(dims)])
        for axis, n in enumerate(spatial)
    ]


def _coherent(spatial: list[int], regions: int, generator: torch.Generator, device: str) -> Tensor:
    if regions == 1:
        return torch.zeros(spatial, dtype=torch.int32, device=device)
    axes = [axis.float() for axis in _axes(spatial, device)]
    if regions == 2:
        return _blobs(axes, spatial, generator, device)
    return _voronoi(axes, spatial, regions, generator, device)


def _blobs(axes: list[Tensor], spatial: list[int], generator: torch.Generator, device: str) -> Tensor:
    low, high = BLOB_RADIUS
    foreground = torch.zeros(spatial, dtype=torch.bool, device=device)
    for _ in range(BLOBS):
        center = torch.rand(len(spatial), generator=generator).tolist()
        radius = (low + (high - low) * torch.rand(len(spatial), generator=generator)).tolist()
        ellipse = zip(axes, spatial, center, radius, strict=True)
        foreground |= sum(((axis / n - c) / r) ** 2 for axis, n, c, r in ellipse) < 1
    return foreground.to(torch.int32)


def _voronoi(axes: list[Tensor], spatial: list[int], regions: int, generator: torch.Generator, device: str) -> Tensor:
    """Every pixel takes the label of the nearest of `regions` distinct random pixels."""
    pixels = math.prod(spatial)
    stride = max(1, pixels // regions)  # a seed in each stretch of rows: distinct, and no cell is huge
    seeds = torch.arange(regions) * pixels // regions + torch.randint(stride, (regions,), generator=generator)
    seeds = seeds[torch.randperm(regions, generator=generator)].clamp(max=pixels - 1)
    nearest = torch.full(spatial, float("inf"), device=device)
    label = torch.zeros(spatial, dtype=torch.int32, device=device)
    for i, seed in enumerate(seeds.tolist()):
        distance: Tensor | int = 0
        for axis, n in reversed(list(zip(axes, spatial, strict=True))):
            distance = distance + (axis - seed % n) ** 2
            seed //= n
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        label.masked_fill_(closer, i)
    return label
