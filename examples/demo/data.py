"""What every data source gives the demo, and the label noise.

Images are kept as uint8 and standardised inside the network, so that a folder of ten thousand images fits in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


class DemoError(Exception):
    """Something the user can put right; its message is one line."""


@dataclass(frozen=True)
class Split:
    """images (n, channels, size, size) uint8 and masks (n, size, size) bool, True on the salient object."""

    images: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.masks.to(device))


@dataclass(frozen=True)
class Data:
    """Three splits that share no pixel; all masks are clean."""

    train: Split
    validation: Split
    test: Split
    description: str


def choose_swapped(count: int, noise: float, seed: int) -> Tensor:
    """Choose which of `count` training images get swapped labels: (count,) bool with round(noise * count) True."""
    swapped = np.zeros(count, dtype=bool)
    swapped[np.random.default_rng([seed, 1]).permutation(count)[: round(noise * count)]] = True
    return torch.from_numpy(swapped)


def swap_labels(masks: Tensor, swapped: Tensor) -> Tensor:
    """Region noise: in the chosen images object and background exchange their labels, in every pixel.

    The outlines stay right; only the names of the two regions are wrong.
    """
    return masks ^ swapped[:, None, None]
