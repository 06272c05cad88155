"""Problems for property tests. A `Case` is a description: its repr, pasted into a shell, rebuilds its tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LABEL_DTYPES = (torch.int64, torch.uint8, torch.int32, torch.int16, torch.int8, torch.bool)
PAIRS = ("ordered", "unordered", "mean")
DISTANCES = ("sqeuclidean", "euclidean", "log")
REDUCTIONS = ("mean", "sum", "none")
VALUES = ("normal", "softmax", "offset", "one-hot", "constant")
MASKS = ("random", "runs", "half absent", "one region", "checkerboard", "one pixel", "empty images")
LAYOUTS = (
    "contiguous",
    "channels_last",
    "channel slice",
    "batch slice",
    "channels_last slice",
    "misaligned",
    "pixel slice",
    "transposed",
    "expanded pixels",
    "expanded channels",
    "expanded batch",
)
TARGET_LAYOUTS = ("contiguous", "strided", "transposed", "expanded", "channel slice", "misaligned")

# Pixel counts on both sides of the sizes a kernel may work in: vectors, warps, blocks, tiles, chunks.
PIXELS = tuple(sorted({1, 2, 3, 0, 5} | {max(0, (1 << k) + d) for k in range(3, 13) for d in (-1, 0, 1)}))
MAX_REFERENCE_ELEMENTS = 3_000_000  # of the (B, N, M, P) tensor the reference builds: 24 MB

BAD_LABEL = 101  # in the gaps of strided targets: a kernel that reads it reports an error


@dataclass(frozen=True)
class Case:
    """One call of cas_loss."""

    batch: int = 2
    channels: int = 3
    spatial: tuple[int, ...] = (5,)
    regions: int = 3
    dtype: torch.dtype = torch.float32
    label_dtype: torch.dtype = torch.int64
    values: str = "normal"
    mask: str = "random"
    layout: str = "contiguous"
    target_layout: str = "contiguous"
    ignored: float = 0.0  # share of pixels
    ignore_index: int = -100
    num_regions: int | None = 3
    alpha: float = 0.5
    pairs: str = "ordered"
    distance: str = "sqeuclidean"
    activation: str | None = None
    reduction: str = "mean"
    seed: int = 0

    @property
    def options(self) -> dict:
        names = ("alpha", "num_regions", "ignore_index", "pairs", "distance", "activation", "reduction")
        return {name: getattr(self, name) for name in names}

    def tensors(self, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """(input, target); input is a leaf that requires grad, in the layout asked for."""
        generator = torch.Generator().manual_seed(self.seed)
        target = lay_out_target(self._labels(generator).to(self.label_dtype).to(device), self.target_layout)
        values = self._descriptors(generator).to(self.dtype).to(device)
        return lay_out(values, self.layout).detach().requires_grad_(), target

    def _descriptors(self, generator: torch.Generator) -> Tensor:
        shape = (self.batch, self.channels, *self.spatial)
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.values == "softmax":
            return (3 * normal).softmax(1)
        if self.values == "offset":
            return 100 + normal
        if self.values == "one-hot":
            return (normal == normal.amax(1, keepdim=True)).double() if normal.numel() else normal
        return torch.full_like(normal, 0.3) if self.values == "constant" else normal

    def _labels(self, generator: torch.Generator) -> Tensor:
        pixels = torch.Size(self.spatial).numel()
        shape = (self.batch, pixels)
        labels = torch.randint(self.regions, shape, generator=generator)
        if self.mask == "runs":
            labels = labels.repeat_interleave(37, 1)[:, :pixels]
        elif self.mask == "half absent":
            labels = labels // 2 * 2
        elif self.mask == "one region":
            labels = torch.full(shape, self.regions - 1)
        elif self.mask == "checkerboard":
            labels = torch.arange(pixels).remainder(self.regions).expand(shape).clone()
        elif self.mask == "one pixel":
            labels = torch.where(torch.arange(pixels) == pixels // 2, self.regions - 1, 0).expand(shape).clone()
        if representable(self.ignore_index, self.label_dtype):
            labels[torch.rand(shape, generator=generator) < self.ignored] = self.ignore_index
            if self.mask == "empty images":
                labels[::2] = self.ignore_index
        return labels.reshape(self.batch, *self.spatial)


def representable(label: int, dtype: torch.dtype) -> bool:
    if dtype == torch.bool:
        return label in (0, 1)
    return torch.iinfo(dtype).min <= label <= torch.iinfo(dtype).max


def lay_out(values: Tensor, layout: str) -> Tensor:
    """`values` (B, M, *spatial) with the strides asked for. Gaps hold NaN, so that reading one is noticed."""
    spatial_dims = values.dim() - 2
    if layout == "expanded channels":
        return values[:, :1].expand_as(values)
    if layout == "expanded pixels" and spatial_dims and values.numel():
        return values.flatten(2)[:, :, :1].reshape(*values.shape[:2], *[1] * spatial_dims).expand_as(values)
    if layout == "expanded batch":
        return values[:1].expand_as(values)
    if layout == "channels_last":
        return values.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed" and spatial_dims >= 2:
        return values.mT.contiguous().mT
    shape = list(values.shape)
    if layout == "misaligned":
        gappy = values.new_full((values.numel() + 1,), torch.nan)[1:].view(shape)
    elif layout == "channel slice":
        gappy = values.new_full((shape[0], shape[1] + 3, *shape[2:]), torch.nan)[:, 2:-1]
    elif layout == "batch slice":
        gappy = values.new_full((2 * shape[0], *shape[1:]), torch.nan)[::2]
    elif layout == "channels_last slice":
        gappy = values.new_full((shape[0], *shape[2:], shape[1] + 3), torch.nan).movedim(-1, 1)[:, 1:-2]
    elif layout == "pixel slice" and spatial_dims:
        gappy = values.new_full((*shape[:-1], 2 * shape[-1]), torch.nan)[..., ::2]
    else:
        return values.contiguous()
    return gappy.copy_(values)


def lay_out_target(labels: Tensor, layout: str) -> Tensor:
    shape = list(labels.shape)
    if layout == "expanded":
        return labels[:1].expand_as(labels)
    if layout == "transposed" and labels.dim() >= 3:
        return labels.mT.contiguous().mT
    if layout == "strided":
        gappy = labels.new_full((*shape[:-1], 2 * shape[-1]), BAD_LABEL)[..., ::2]
    elif layout == "channel slice":
        gappy = labels.new_full((shape[0], 2, *shape[1:]), BAD_LABEL)[:, 1]
    elif layout == "misaligned":
        gappy = labels.new_full((labels.numel() + 1,), BAD_LABEL)[1:].view(shape)
    else:
        return labels.contiguous()
    return gappy.copy_(labels)


@st.composite
def _spatial_shapes(draw: st.DrawFn, max_pixels: int) -> tuple[int, ...]:
    """Zero to three dimensions; all but the last are short, the last is one of PIXELS."""
    dims = draw(st.sampled_from((1, 2, 3, 0)))
    shape: list[int] = []
    for dim in range(dims):
        sizes = PIXELS if dim == dims - 1 else (2, 1, 3, 4, 7, 16, 17, 33)
        room = max_pixels // max(1, torch.Size(shape).numel())
        shape.append(draw(st.sampled_from([size for size in sizes if size <= room])))
    return tuple(shape)


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    max_elements: int,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    values: tuple[str, ...] = VALUES,
    distances: tuple[str, ...] = ("sqeuclidean",),
    activations: tuple[str | None, ...] = (None,),
) -> Case:
    """Any legal call of cas_loss whose input has at most `max_elements` elements."""
    batch = draw(st.sampled_from((1, 2, 3, 0)))
    channels = draw(st.integers(1, 17))
    label_dtype = draw(st.sampled_from(LABEL_DTYPES))
    regions = draw(st.integers(1, 2 if label_dtype == torch.bool else 40))
    image_elements = max(1, batch) * channels
    max_pixels = min(MAX_REFERENCE_ELEMENTS // (image_elements * regions), max_elements // image_elements)
    ignore_index = draw(st.sampled_from((-100, -1, 255, 0, regions - 1, regions, 300)))
    return Case(
        batch=batch,
        channels=channels,
        spatial=draw(_spatial_shapes(max_pixels)),
        regions=regions,
        dtype=draw(st.sampled_from(dtypes)),
        label_dtype=label_dtype,
        values=draw(st.sampled_from(values)),
        mask=draw(st.sampled_from(MASKS)),
        layout=draw(st.sampled_from(LAYOUTS)),
        target_layout=draw(st.sampled_from(TARGET_LAYOUTS)),
        ignored=draw(st.sampled_from((0.0, 0.1, 0.9))),
        ignore_index=ignore_index,
        num_regions=draw(st.sampled_from((regions, regions + 3, None))),
        alpha=draw(st.sampled_from((0.5, 0.0, 1.0, 0.3))),
        pairs=draw(st.sampled_from(PAIRS)),
        distance=draw(st.sampled_from(distances)),
        activation=draw(st.sampled_from(activations)),
        reduction=draw(st.sampled_from(REDUCTIONS)),
        seed=draw(st.integers(0, 1 << 16)),
    )
