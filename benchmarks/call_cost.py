"""`python -m benchmarks.call_cost --out FILE`: where the time of one call goes when the input is tiny (1x2x64x64).

Wall time of a forward and backward on one thread, in microseconds: what the operators cost by themselves, what PyTorch's
dispatcher and an autograd.Function that does nothing cost, and what is left for the Python of cas_ext.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import cas_ext
from cas_ext import ops

from . import cases, machine
from .cases import Setting

CALLS, SAMPLES = 500, 21
PARTS = {  # name in the file -> what it is
    "forward operator": "operator `forward`, called directly",
    "apply operator": "operator `apply`, called directly",
    "dispatch": "an operator that does nothing, through the dispatcher (included in each of the two)",
    "autograd": "forward and backward of an autograd.Function that only allocates its results",
    "forward": "`cas_loss`, nothing requires a gradient",
    "both": "`cas_loss` and its backward",
}


class Nothing(torch.autograd.Function):
    """What any autograd.Function costs: a scalar from an input, and a gradient like it."""

    @staticmethod
    def forward(ctx, input: Tensor) -> Tensor:
        ctx.save_for_backward(input)
        return input.new_empty(())

    @staticmethod
    def backward(ctx, of_result: Tensor) -> Tensor:
        return torch.empty_like(ctx.saved_tensors[0])


def microseconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Medians over interleaved samples."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(CALLS):
            call()
    for _ in range(SAMPLES):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            samples[name].append(1e6 * (time.perf_counter() - start) / CALLS)
    return {name: statistics.median(values) for name, values in samples.items()}


def parts(device: str) -> dict[str, float]:
    """Microseconds of each of PARTS."""
    setting = Setting(cases.case("tiny", "cpu"), "float32", "nchw", "small", "coherent")
    input, target = cases.make_input(setting, device), cases.make_target(setting, device)
    regions, plain = setting.case.regions, input.detach()
    how = (regions, -100, False, ops.ACTIVATIONS[None], 0.5, ops.PAIRS["ordered"], ops.REDUCTIONS["mean"])
    coefficients = ops.forward(plain, target, *how)[3:6]
    weight = torch.ones(1, device=device)
    calls: dict[str, Callable[[], object]] = {
        "forward operator": lambda: ops.forward(plain, target, *how),
        "apply operator": lambda: ops.apply(plain, target, weight, True, *coefficients, -100),
        "dispatch": torch.ops.cas_ext.cpu_kernels,
        "autograd": lambda: torch.autograd.grad(Nothing.apply(input), input),
        "forward": lambda: cas_ext.cas_loss(plain, target, num_regions=regions),
        "both": lambda: torch.autograd.grad(cas_ext.cas_loss(input, target, num_regions=regions), input),
    }
    return microseconds(calls)


def table(result: dict) -> str:
    """The parts, and what they leave over, as Markdown."""
    us = result["microseconds"]
    operators = us["forward operator"] + us["apply operator"]
    lines = [
        f"{result['device']}, torch {result['torch']}, {result['date'][:10]}, `{result['command']}`:",
        "",
        "| part | us |",
        "|---|---|",
    ]
    lines += [f"| {text} | {us[name]:.1f} |" for name, text in PARTS.items()]
    lines.append(
        f"| left for cas_ext's own Python: all minus operators and autograd | {us['both'] - operators - us['autograd']:.1f} |"
    )
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.call_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    result = machine.describe("cpu", shlex.join(["python", "-m", "benchmarks.call_cost", *argv]))
    result["microseconds"] = parts("cpu")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
