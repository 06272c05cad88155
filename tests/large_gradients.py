"""Prints a digest of each of some gradients, all of them so large that they may be written past the caches."""

from __future__ import annotations

import hashlib
import json

import torch

import cas_ext

BYTES = 9 << 20  # of a gradient: streamed from 8 MB on
INPUTS = [(torch.float32, "nchw", m) for m in (1, 2, 21)]
INPUTS += [(torch.float32, "channels_last", m) for m in (1, 3, 16, 21)]
INPUTS += [(torch.bfloat16, "nchw", 5), (torch.bfloat16, "channels_last", 3), (torch.bfloat16, "channels_last", 64)]
INPUTS += [(torch.float64, "nchw", 4), (torch.float64, "channels_last", 3), (torch.float64, "channels_last", 8)]


def masks(height: int, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    row, column = torch.arange(height)[:, None], torch.arange(width)
    found = {
        "runs": (row // 7 + column // 37) % 20,
        "long runs": (row // 7 + column // 3000) % 20,
        "checkerboard": (row + column) % 2,
    }
    for regions in (2, 20, 100, 300):
        found[f"{regions} random"] = torch.randint(regions, (height, width), generator=generator)
    return {name: torch.where((row + 2 * column) % 97 < 3, -100, mask) for name, mask in found.items()}


def digest(input: torch.Tensor, target: torch.Tensor) -> str:
    leaf = input.clone().requires_grad_()  # keeps the layout
    cas_ext.cas_loss(leaf, target).backward()
    return hashlib.sha256(leaf.grad.contiguous().view(torch.uint8).numpy()).hexdigest()


def main() -> None:
    torch.set_num_threads(2)
    digests = {}
    for dtype, layout, channels in INPUTS:
        width = 1021  # a prime, so that lines of planes begin anywhere
        height = BYTES // (dtype.itemsize * channels * width) + 1
        generator = torch.Generator().manual_seed(channels)
        input = torch.randn(1, channels, height, width, generator=generator).to(dtype)
        if layout == "channels_last":
            input = input.to(memory_format=torch.channels_last)
        for name, mask in masks(height, width).items():
            digests[f"{dtype} {layout} {channels} {name}"] = digest(input, mask[None])
    print(json.dumps(digests))


if __name__ == "__main__":
    main()
