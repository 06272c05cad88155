"""What is measured: the grid of shapes and its axes, the random inputs, and the bytes that no implementation can avoid.

case     shape and number of regions; `SIZES` has the sizes scaled down for a CPU and for tests
dtype    of the descriptors
layout   "nchw" (contiguous) or "channels_last"
labels   "small" (uint8, or int16 for more than 256 regions) or "int64"
mask     how the regions lie (masks.py); "ragged" is coherent with a pixel count that is no multiple of 8
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .masks import make_mask

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = ("nchw", "channels_last")
LABELS = ("small", "int64")
MASKS = ("coherent", "random", "giant", "checkerboard", "absent", "ragged")
ADVERSARIAL_MASKS = ("random", "giant", "checkerboard")
PHASES = ("forward", "backward", "both")
SCALES = ("full", "cpu", "tiny")

# (B, M, *spatial). "cpu": 20 to 140 MB of float32, so that the slowest peer takes seconds; buffers rotate over more
# than the last-level cache all the same. "tiny": for tests; its times mean nothing.
SIZES = {
    "paper": {"full": (40, 2, 256, 256), "cpu": (40, 2, 256, 256), "tiny": (3, 2, 16, 20)},
    "voc": {"full": (16, 21, 512, 512), "cpu": (2, 21, 512, 512), "tiny": (2, 5, 16, 20)},
    "embedding": {"full": (8, 64, 512, 512), "cpu": (1, 64, 512, 512), "tiny": (1, 9, 20, 16)},
    "superpixel": {"full": (4, 32, 1024, 1024), "cpu": (1, 32, 512, 512), "tiny": (1, 4, 48, 48)},
    "tiny": {"full": (1, 2, 64, 64), "cpu": (1, 2, 64, 64), "tiny": (1, 2, 12, 12)},
    "huge": {"full": (1, 2, 16384, 16384), "cpu": (1, 2, 4096, 4096), "tiny": (1, 2, 40, 40)},
    "volume": {"full": (1, 4, 256, 256, 256), "cpu": (1, 4, 128, 128, 128), "tiny": (1, 3, 12, 10, 8)},
}
REGIONS = {"paper": 2, "voc": 20, "embedding": 100, "superpixel": 1000, "tiny": 2, "huge": 2, "volume": 64}
SMALL_CASES = ("tiny",)  # these measure the cost of a call, not of a byte

SWEEP_SIZES = {"full": (8, 512, 512), "cpu": (1, 512, 512), "tiny": (1, 16, 16)}  # (B, *spatial)
SWEEP_REGIONS = {"full": (2, 8, 32, 128, 512, 2048), "cpu": (2, 8, 32, 128, 512), "tiny": (2, 8)}
SWEEP_CHANNELS = {"full": (1, 2, 4, 16, 64, 128), "cpu": (1, 2, 4, 16, 64), "tiny": (1, 4)}
SWEEPS = ("regions", "channels")
SWEPT_CHANNELS, SWEPT_REGIONS = 16, 16  # what stays fixed while the other grows


@dataclass(frozen=True)
class Case:
    """A shape of the grid. `sweep` names the axis that this case is a point of, if any."""

    name: str
    shape: tuple[int, ...]  # (B, M, *spatial)
    regions: int
    sweep: str | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def pixels(self) -> int:
        return self.elements // self.shape[1]

    def ragged(self) -> Case:
        """The same with odd spatial sizes, so that neither rows nor images begin at a multiple of 8 pixels."""
        batch, channels, *spatial = self.shape
        return replace(self, shape=(batch, channels, *(max(1, n - 1 + n % 2) for n in spatial)))


@dataclass(frozen=True)
class Setting:
    """One combination of the grid: what an implementation is given."""

    case: Case
    dtype: str
    layout: str
    labels: str
    mask: str

    @property
    def label_dtype(self) -> torch.dtype:
        if self.labels == "int64":
            return torch.int64
        return torch.uint8 if self.case.regions <= 256 else torch.int16

    @property
    def input_bytes(self) -> int:
        return self.case.elements * DTYPES[self.dtype].itemsize

    @property
    def target_bytes(self) -> int:
        return self.case.pixels * self.label_dtype.itemsize

    def differences(self, base: Setting) -> int:
        """On how many of the axes dtype, layout, labels and mask it differs."""
        axes = ("dtype", "layout", "labels", "mask")
        return sum(getattr(self, axis) != getattr(base, axis) for axis in axes)


def case(name: str, scale: str) -> Case:
    return Case(name, SIZES[name][scale], REGIONS[name])


def sweep_cases(sweep: str, scale: str) -> list[Case]:
    """The points of the sweep over "regions" or "channels"."""
    batch, *spatial = SWEEP_SIZES[scale]
    if sweep == "regions":
        return [Case(f"{n} regions", (batch, SWEPT_CHANNELS, *spatial), n, sweep) for n in SWEEP_REGIONS[scale]]
    return [Case(f"{m} channels", (batch, m, *spatial), SWEPT_REGIONS, sweep) for m in SWEEP_CHANNELS[scale]]


def settings(cases: list[Case], dtypes, layouts, labels, masks) -> Iterator[Setting]:
    """The cross product. A case that is a point of a sweep takes the first value of every axis only.

    Settings that share an input (case, ragged or not, dtype, layout) follow each other.
    """
    for point in cases:
        axes = (dtypes, layouts, labels, masks)
        point_dtypes, point_layouts, point_labels, point_masks = [axis[:1] for axis in axes] if point.sweep else axes
        for dtype in point_dtypes:
            for layout in point_layouts:
                for mask in sorted(point_masks, key=lambda name: name == "ragged"):
                    shaped = point.ragged() if mask == "ragged" else point
                    for label in point_labels:
                        yield Setting(shaped, dtype, layout, label, mask)


def make_input(setting: Setting, device: str, seed: int = 0) -> Tensor:
    """(B, M, *spatial) normal values around a wave along the first spatial axis, a leaf that requires grad.

    The wave, another one in each channel, keeps the means of regions apart: in pure noise the discriminator would
    drown, and a wrong one would pass for right.
    """
    _, channels, height, *rest = setting.case.shape
    generator = torch.Generator(device).manual_seed(seed)
    values = torch.randn(setting.case.shape, generator=generator, device=device)
    row = torch.linspace(0, 2 * math.pi, height, device=device)
    phase = torch.arange(channels, device=device)
    values += torch.sin(row + phase[:, None]).reshape(1, channels, height, *[1] * len(rest))
    values = values.to(DTYPES[setting.dtype])
    if setting.layout == "channels_last":
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        values = values.to(memory_format=formats[values.dim()])
    return values.requires_grad_()


def make_target(setting: Setting, device: str, seed: int = 0) -> Tensor:
    """(B, *spatial) labels in [0, regions)."""
    batch, _, *spatial = setting.case.shape
    kind = "coherent" if setting.mask == "ragged" else setting.mask
    mask = make_mask(kind, (batch, *spatial), setting.case.regions, device=device, seed=seed)
    return mask.to(setting.label_dtype)


def floor_bytes(setting: Setting, phase: str) -> int:
    """What must move: forward reads input and target; backward reads both again and writes the gradient."""
    forward = setting.input_bytes + setting.target_bytes
    backward = forward + setting.input_bytes
    return {"forward": forward, "backward": backward, "both": forward + backward}[phase]
