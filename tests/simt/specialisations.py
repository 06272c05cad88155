"""One small case for every specialisation of the CUDA kernels, and what the emulator counted while it ran."""

from __future__ import annotations

import itertools
import re
import subprocess
from dataclasses import dataclass

import torch

from . import emulated

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LABELS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
NAMES = {torch.float16: "half", torch.bfloat16: "bfloat16", torch.float32: "float", torch.float64: "double"}
IGNORED = 1
BLOCK_BYTES = (
    128  # of the channels that accumulate_table.cuh stages at a time: kBlockChannels in the type of arithmetic
)
BLOCK_PIXELS = 256  # kTilePixels of tile_groups.cuh
MATRIX_REGIONS, PILOT_CELLS = 112, 7296  # at most, of matrix_tile.cuh
STRIP_REGIONS, STRIP_CHUNK, STRIP_PIXELS = 112, 512, 16  # of strips_table.cuh; 16-bit values: twice as many pixels
SMALL_PIXELS = (256 * 16, 256 * 256)  # least and most of a block of accumulate_small.cuh
HELD_CHANNELS = 128  # kHeldChannels of apply_softmax.cuh
MOST_ARRIVALS = 4095  # kMostArrivals of arrival.cuh
RESULTS = ("loss", "uniformer", "discriminator", "scale", "center", "offset", "count", "mean", "scatter")  # of forward


@dataclass(frozen=True)
class Case:
    """A shape that selects one regime of accumulate and one of apply."""

    regime: str
    dtype: torch.dtype
    labels: torch.dtype
    interleaved: bool
    channels: int
    regions: int
    width: int  # images are 2 x width x width; an odd width forbids vector accesses
    softmax: bool = False  # in front of accumulate and apply

    @property
    def activation(self) -> int:
        return int(self.softmax)  # enum Activation

    def input_loads(self) -> tuple[int, int]:
        """How often accumulate and apply load each element of the input; beyond the first time, from L1 or L2."""
        if not self.softmax or (self.channels <= 4 and self.regions <= 4):
            return 1, 1
        staged = self.channels * (8 if self.dtype == torch.float64 else 4) <= BLOCK_BYTES
        return 1 if staged else 2, 1 if self.channels <= HELD_CHANNELS else 3

    def descriptors(self, input: torch.Tensor) -> torch.Tensor:
        return torch.softmax(input, 1) if self.softmax else input

    def __str__(self) -> str:
        layout = "interleaved" if self.interleaved else "planar"
        labels = str(self.labels).removeprefix("torch.")
        shape = f"M{self.channels}-N{self.regions}-W{self.width}"
        regime = f"softmax-{self.regime}" if self.softmax else self.regime
        return f"{regime}-{NAMES[self.dtype]}-{labels}-{layout}-{shape}"

    def tensors(self, height: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """input, target with ignored pixels (label IGNORED), the same for every call."""
        height = height or self.width
        random = torch.Generator().manual_seed(self.channels * 1000 + self.regions)
        input = torch.rand(2, self.channels, height, self.width, generator=random, dtype=torch.float64)
        input = ((input - 0.5) * 8 if self.softmax else input).to(self.dtype)
        target = torch.randint(0, min(self.regions, 120), (2, height, self.width), generator=random).to(self.labels)
        if self.interleaved:
            input = input.to(memory_format=torch.channels_last)
        return input, target


def every_case() -> list[Case]:
    """Every regime x dtype x layout x alignment; the label types take turns, and each meets every regime once."""
    regimes = [("small", M, N) for M, N in itertools.product((2, 4), (2, 3))]
    # An even number of channels lets accumulate_matrix and accumulate_bfloat16 load two of a pixel (interleaved). What is
    # not float32 or bfloat16 goes to the table, and so does what is double where others go to accumulate_strips.
    regimes += [("matrix", 9, 5), ("matrix", 10, 40), ("matrix", 9, 40), ("matrix-shared", 40, 2)]
    regimes += [("matrix", 21, 5)]  # three channels a lane
    regimes += [("strips", 2, 5), ("strips", 4, 40), ("table", 9, 200), ("table", 40, 130)]
    found = []
    turn = itertools.cycle(LABELS[1:])
    for (regime, M, N), dtype, interleaved, width in itertools.product(regimes, DTYPES, (False, True), (16, 15)):
        found.append(Case(regime, dtype, next(turn), interleaved, M, N, width))
    # In front of a softmax: threads alone, teams of 2, 4 and 8 that hold their pixels, and of 8 that do not.
    for M, N in ((2, 2), (2, 3), (4, 2), (4, 3), (2, 5), (4, 5), (6, 3), (9, 5), (21, 3), (40, 2), (70, 3), (130, 3)):
        regime = "small" if M <= 4 and N <= 4 else "strips" if M <= 4 else "table"
        for dtype, interleaved, width in itertools.product(DTYPES, (False, True), (16, 15)):
            found.append(Case(regime, dtype, next(turn), interleaved, M, N, width, softmax=True))
    # An even number of channels makes vectors of interleaved elements again, an odd one does not.
    found += [Case("small-odd", dtype, torch.uint8, True, M, N, 15) for dtype in DTYPES for M in (1, 3) for N in (2, 3)]
    found += [Case("small-odd", dtype, torch.uint8, True, M, 3, 15, softmax=True) for dtype in DTYPES for M in (1, 3)]
    found += [
        Case("strips-odd", dtype, torch.int8, interleaved, M, 7, 15, softmax=softmax)
        for dtype, M, interleaved, softmax in itertools.product(DTYPES[:3], (1, 3), (False, True), (False, True))
    ]
    found += [Case("small", torch.float32, labels, False, 2, 2, 16) for labels in LABELS]
    found += [Case("matrix", torch.float32, labels, False, 9, 5, 16) for labels in LABELS[1:]]
    found += [Case("strips", torch.float32, labels, False, 4, 5, 16) for labels in LABELS[1:]]
    found += [Case("table", torch.float32, labels, False, 9, 200, 16) for labels in LABELS[1:]]
    return found


def run(case: Case, height: int | None = None) -> dict[str, torch.Tensor]:
    """forward and apply of one case on the emulator: everything they return, by name."""
    input, target = case.tensors(height)
    results = emulated.forward(input, target, case.regions, IGNORED, False, case.activation, 0.3, 0, 0)
    found = dict(zip(RESULTS, results, strict=True))
    weight = torch.ones(1, dtype=found["loss"].dtype).expand(2)
    coefficients = (found["scale"], found["center"], found["offset"])
    gradient = emulated.apply(input, target, weight, True, *coefficients, IGNORED, case.activation)
    return {"gradient": gradient, **found}


def images(number: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of three pixels of three regions, one of them IGNORED."""
    random = torch.Generator().manual_seed(number)
    input = torch.rand(number, 2, 3, generator=random, dtype=torch.float64).to(dtype)
    return input, torch.tensor([[0, 2, IGNORED]], dtype=torch.uint8).expand(number, 3)


def compiled_kernels() -> set[str]:
    """The kernels that csrc/cuda/*.cu instantiate, from the symbols of the emulator's module."""
    symbols = subprocess.run(
        ["nm", "-C", "--defined-only", emulated.kernels().__file__], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"cas_ext::(\w+_kernel(?:<[^()]*>)?)\(cas_ext::\w+Params\)$", symbols.stdout, re.MULTILINE))
