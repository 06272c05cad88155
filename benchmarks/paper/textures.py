"""Textures for generated images: crops of photographs and procedural patterns, standardised, composed on any device.

All random numbers are drawn on the CPU, from the generator given, so that a seed means the same scenes on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from examples.demo.textures import STRIPS, ZOOM

PHOTOGRAPHS = ("brick", "grass", "gravel")  # 512 x 512, grey, in scikit-image's wheel
PATTERNS = ("stripes", "checks", "dots", "clouds", "grain")
TEXTURES = PHOTOGRAPHS + PATTERNS
FREQUENCY = (0.09, 0.14)  # cycles a pixel of the periodic patterns: 7 to 11 pixels a period
CLOUDS = 0.04  # cycles a pixel: where the spectrum of clouds has fallen to exp(-1/2)
GRAIN = (0.22, 0.04)  # cycles a pixel: centre and width of the spectral band of grain


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Numbers (*shape) in [low, high), float32, on the CPU."""
    return torch.rand(shape, generator=generator) * (high - low) + low


def standardise(textures: Tensor) -> Tensor:
    """Mean 0 and deviation 1 for each of textures (n, H, W)."""
    deviation, mean = torch.std_mean(textures, dim=(1, 2), keepdim=True)
    return (textures - mean) / deviation


def pixel_grid(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (size, 1) and columns (1, size) of an image's pixels."""
    steps = torch.arange(size, device=device, dtype=torch.float32)
    return steps[:, None], steps[None]


def photograph_crops(
    generator: torch.Generator, name: str, count: int, size: int, split: str, device: torch.device
) -> Tensor:
    """Squares (count, size, size) out of the split's strip of a photograph, zoomed, turned by quarters and mirrored."""
    import skimage.data

    photograph = torch.from_numpy(getattr(skimage.data, name)()).to(device).float()[:, STRIPS[split]]
    limit = torch.tensor(photograph.shape) - 1  # pixels from the first to the last
    zoom = uniform(generator, *ZOOM, count)
    side = (zoom * (size - 1)).clamp(max=float(limit.min()))
    corner = torch.rand(count, 2, generator=generator) * (limit - side[:, None])
    flips = torch.rand(count, 3, generator=generator) < 0.5

    along = torch.linspace(0, 1, size)[None].repeat(count, 1)
    down = torch.where(flips[:, :1], 1 - along, along) * side[:, None] + corner[:, :1]
    across = torch.where(flips[:, 1:2], 1 - along, along) * side[:, None] + corner[:, 1:]
    down, across = (2 * axis / length - 1 for axis, length in zip((down, across), limit, strict=True))
    grid = torch.stack(torch.broadcast_tensors(across[:, None], down[:, :, None]), 3)  # (count, size, size, 2): x, y
    grid = torch.where(flips[:, 2, None, None, None], grid.transpose(1, 2), grid).to(device)
    strip = photograph[None, None].expand(count, 1, -1, -1)
    return grid_sample(strip, grid, mode="bilinear", align_corners=True)[:, 0]


def filtered_noise(generator: torch.Generator, count: int, size: int, response: Tensor) -> Tensor:
    """White noise with the spectrum `response` (size, size // 2 + 1)."""
    noise = torch.randn(count, size, size, generator=generator).to(response.device)
    return torch.fft.irfft2(torch.fft.rfft2(noise) * response, s=(size, size))


def patterns(generator: torch.Generator, name: str, count: int, size: int, device: torch.device) -> Tensor:
    """Procedural textures (count, size, size)."""
    if name in ("clouds", "grain"):
        fy = torch.fft.fftfreq(size, device=device)[:, None]
        fx = torch.fft.rfftfreq(size, device=device)[None]
        radius = (fy.square() + fx.square()).sqrt()
        centre, width = (0.0, CLOUDS) if name == "clouds" else GRAIN
        return filtered_noise(generator, count, size, torch.exp(-((radius - centre) / width).square() / 2))
    angle = uniform(generator, 0, math.pi, count, 1, 1).to(device)
    frequency = 2 * math.pi * uniform(generator, *FREQUENCY, count, 1, 1).to(device)
    phase = uniform(generator, 0, 2 * math.pi, 2, count, 1, 1).to(device)
    y, x = pixel_grid(size, device)
    one = torch.cos(frequency * (x * angle.cos() + y * angle.sin()) + phase[0])
    if name == "stripes":
        return one
    two = torch.cos(frequency * (y * angle.cos() - x * angle.sin()) + phase[1])
    return torch.sign(one * two) if name == "checks" else torch.exp(2 * (one + two))


def textures(generator: torch.Generator, name: str, count: int, size: int, split: str, device: torch.device) -> Tensor:
    """Draw `count` textures of one kind.

    Args:
        name: one of TEXTURES.
        split: "train", "validation" or "test": photographs are cut from disjoint strips for each.

    Returns: (count, size, size) float32 on `device`, each of mean 0 and deviation 1.
    """
    if name in PHOTOGRAPHS:
        return standardise(photograph_crops(generator, name, count, size, split, device))
    return standardise(patterns(generator, name, count, size, device))
