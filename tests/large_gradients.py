"""Prints a digest of each of some gradients, all of them so large that they may be written past the caches."""

from __future__ import annotations

import hashlib
import itertools
import json

import torch

import cas_ext

BYTES = 9 << 20  # of a gradient: streamed from 8 MB on
INPUTS = [(torch.float32, "nchw", m) for m in (1, 2, 21)]
INPUTS += [(torch.float32, "channels_last", m) for m in (1, 3, 16, 21)]
INPUTS += [(torch.bfloat16, "nchw", 5), (torch.bfloat16, "channels_last", 3), (torch.bfloat16, "channels_last", 64)]
INPUTS += [(torch.float32, "images side by side", 24)]  # whole lines from pixel to pixel, which have less
INPUTS += [(torch.float64, "nchw", 4), (torch.float64, "channels_last", 3), (torch.float64, "channels_last", 8)]


def masks(height: int, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    row, column = torch.arange(height)[:, None], torch.arange(width)
    found = {
        "runs": (row // 7 + column // 37) % 20,
        "long runs": (row // 7 + column // 3000) % 20,
        "checkerboard": (row + column) % 2,
    }
    for regions in (2, 20, 100):
        found[f"{regions} random"] = torch.randint(regions, (height, width), generator=generator)
    return {name: torch.where((row + 2 * column) % 97 < 3, -100, mask) for name, mask in found.items()}


SOFTMAX_INPUTS = [(torch.float32, "nchw", 3), (torch.float32, "nchw", 21), (torch.float64, "nchw", 9)]


def large_input(dtype: torch.dtype, layout: str, channels: int, width: int) -> torch.Tensor:
    height = BYTES // (dtype.itemsize * channels * width) + 1
    if layout == "images side by side":
        generator = torch.Generator().manual_seed(channels)
        return torch.randn(height, width, 2, channels, generator=generator).to(dtype).permute(2, 3, 0, 1)
    values = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(channels)).to(dtype)
    return values.to(memory_format=torch.channels_last) if layout == "channels_last" else values


def digest(input: torch.Tensor, target: torch.Tensor, activation: str | None) -> str:
    leaf = input.clone().requires_grad_()  # keeps the layout
    cas_ext.cas_loss(leaf, target, activation=activation).backward()
    return hashlib.sha256(leaf.grad.contiguous().view(torch.uint8).numpy()).hexdigest()


def main() -> None:
    torch.set_num_threads(2)
    digests = {}
    # 1021 is a prime, so that planes begin anywhere in a line; of 1024 they begin where one does.
    for activation, inputs, widths in [(None, INPUTS, [1021]), ("softmax", SOFTMAX_INPUTS, [1021, 1024])]:
        for (dtype, layout, channels), width in itertools.product(inputs, widths):
            input = large_input(dtype, layout, channels, width)
            few = 2 if activation else None  # masks: what is written behind a softmax does not depend on them
            for name, mask in list(masks(input.shape[2], width).items())[:few]:
                case = f"{activation} {dtype} {layout} {channels} {width} {name}"
                digests[case] = digest(input, mask.expand(len(input), -1, -1), activation)
    print(json.dumps(digests))


if __name__ == "__main__":
    main()
