"""`python -m benchmarks.sanitize_case`: every kind of CUDA kernel, on images as small as its path allows.

For compute-sanitizer, under which everything is some hundred times slower. Exits with 1 where a result differs from the
reference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import cas_ext


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    regions: int
    dtype: torch.dtype = torch.float32
    labels: torch.dtype = torch.uint8
    channels_last: bool = False
    softmax: bool = False


# Odd sizes leave unaligned rows and ragged tiles, the others are loaded 16 bytes at a time; the region counts lie on both
# sides of every change of kernel.
CASES = (
    Case((2, 2, 33, 35), 2),
    Case((2, 2, 33, 35), 2, torch.bfloat16, torch.int64),
    Case((2, 2, 33, 35), 2, torch.float16, torch.bool, channels_last=True),
    Case((1, 4, 64, 64), 4, torch.float64, torch.int16),
    Case((1, 21, 31, 29), 20, torch.float32, torch.int32),
    Case((1, 21, 31, 29), 20, torch.bfloat16, channels_last=True),
    Case((1, 40, 24, 24), 100, torch.bfloat16),
    Case((1, 33, 24, 24), 100, torch.float32, channels_last=True),
    Case((1, 8, 40, 40), 1000, torch.float32, torch.int16),
    Case((1, 3, 9, 10, 11), 64, torch.float32, torch.int64),
    Case((3, 1, 1), 1, torch.float32),
    Case((2, 5, 0), 3, torch.float32),
    Case((2, 2, 130, 131), 2),  # several blocks of the small kernel, the last of which merges
    Case((2, 4, 40, 40), 20, torch.bfloat16),
    Case((2, 4, 40, 40), 20, torch.bfloat16, channels_last=True),
    Case((2, 8, 40, 40), 20),
    Case((1, 7, 40, 40), 20, torch.float64),
    Case((2, 2, 30, 31), 3, torch.float32, softmax=True),
    Case((2, 7, 30, 31), 3, torch.bfloat16, softmax=True),
    Case((2, 40, 30, 31), 3, torch.float16, channels_last=True, softmax=True),
    Case((2, 70, 30, 31), 3, torch.float64, softmax=True),
    Case((2, 2, 32, 32), 2),
    Case((2, 2, 32, 32), 2, channels_last=True),
    Case((2, 2, 32, 32), 2, torch.bfloat16),
    Case((2, 2, 32, 32), 2, torch.bfloat16, channels_last=True),
    Case((2, 2, 32, 32), 3, softmax=True),
    Case((1, 3, 8, 8, 8), 20),
    Case((1, 4, 64, 64), 20),
    Case((1, 4, 64, 64), 20, channels_last=True),
    Case((1, 21, 32, 32), 20),
    Case((1, 21, 32, 32), 20, torch.bfloat16),
    Case((1, 40, 24, 24), 20),
    Case((1, 40, 24, 24), 20, torch.bfloat16),
    Case((1, 32, 24, 24), 100, channels_last=True),
    Case((1, 32, 24, 24), 100, torch.bfloat16, channels_last=True),
    Case((2, 8, 40, 40), 20, torch.float16),
    Case((2, 8, 40, 40), 20, torch.float16, channels_last=True),
)
# Loss relative to its two terms, gradient relative to its largest element: rounding to the type of the gradient.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def tensors(case: Case, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Input and target: labels in runs, then drawn pixel by pixel, both with ignored pixels where the type has -100."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.shape[0], *case.shape[2:])
    input = torch.randn(case.shape, generator=generator, dtype=torch.float64).to(case.dtype)
    if case.channels_last:
        input = input.to(memory_format=torch.channels_last)
    pixels = max(1, torch.Size(shape).numel())
    runs = (torch.arange(torch.Size(shape).numel()) * case.regions // pixels).reshape(shape)
    for labels in (runs, torch.randint(case.regions, shape, generator=generator)):
        if case.labels.is_signed:
            labels = torch.where(torch.rand(shape, generator=generator) < 0.05, -100, labels)
        yield input.to(device).requires_grad_(), labels.to(case.labels).to(device)


def gradient(loss: Tensor, input: Tensor) -> Tensor:
    return torch.autograd.grad(loss, input)[0]


def worst_error(case: Case, input: Tensor, target: Tensor) -> float:
    """Of loss and gradient, against the float64 reference on the CPU."""
    options = {"num_regions": case.regions, "activation": "softmax" if case.softmax else None}
    loss = cas_ext.cas_loss(input, target, **options)
    actual = gradient(loss, input).cpu().double()
    wide = input.detach().cpu().double().requires_grad_()
    expected, *terms = cas_ext.reference.cas_loss(wide, target.cpu(), return_terms=True, **options)
    if not input.numel():
        return float(loss.item() != 0)
    size = max(sum(term.item() for term in terms), torch.finfo(torch.float64).tiny)
    of_loss = abs(loss.item() - expected.item()) / size
    wanted = gradient(expected, wide)
    largest = max(wanted.abs().max().item(), torch.finfo(torch.float64).tiny)
    return max(of_loss, (actual - wanted).abs().max().item() / largest)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitize_case", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options = parser.parse_args(argv)
    failed = 0
    for case in CASES:
        for input, target in tensors(case, options.device):
            error = worst_error(case, input, target)
            if not error <= TOLERANCE[case.dtype]:
                failed += 1
                print(f"{case}: error {error:.1e}, allowed {TOLERANCE[case.dtype]:.0e}")
    print(f"{2 * len(CASES) - failed} of {2 * len(CASES)} results agree with the reference")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
