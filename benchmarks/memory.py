"""`python -m benchmarks.memory --out FILE`: the memory that a call of cas_ext and of its peers holds at once, on the CPU.

memray counts every allocation of the process, in C++ too: PyTorch's own count leaves out what a library takes past it.
The cases are those of the scale "cpu": float32, contiguous, coherent masks.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from . import cases, machine
from .cases import Setting
from .measure import BufferSet, gradient_of
from .peers import DEFAULT_PEERS, PEERS, Loss

SAMPLES = 2  # of which the less counts: Python's own heap grows now and then
MOST_BYTES = 16 << 30  # a peer that needs more is left out
MEMRAY = "memray"  # `memory` of a results file whose CPU figures count everything
MISSING = "memray is not installed: `pip install memray` (no wheels for Windows)"


def counted_by(device: str) -> str | None:
    """Who counts the bytes: "memray" or "caching allocator"; None where nobody can."""
    if device == "cuda":
        return "caching allocator"
    return MEMRAY if importlib.util.find_spec("memray") else None


def peaks(loss: Loss, buffers: BufferSet, regions: int, samples: int = SAMPLES) -> dict[str, int] | None:
    """Bytes at the peak beyond input and target: of forward alone, and of forward and backward, beyond the gradient too.

    On CUDA as the caching allocator counts, on the CPU as memray does. None on a CPU without memray.
    """
    if counted_by(buffers.input.device.type) is None:
        return None

    def forward() -> Tensor:
        return loss(buffers.input, buffers.target, regions)

    peak = cuda_peak if buffers.input.is_cuda else partial(cpu_peak, samples=samples)
    step = peak(lambda: gradient_of(forward(), buffers.input))
    return {"forward": peak(forward), "step": max(step - buffers.input.nbytes, 0)}


def peak_extra_bytes(loss: Loss, buffers: BufferSet, regions: int) -> dict[str, int | None]:
    """The most that a call holds at once beyond input, target and gradient, by phase; on a CPU by a single sample."""
    found = peaks(loss, buffers, regions, samples=1)
    if found is None:
        return dict.fromkeys(cases.PHASES)
    most = max(found.values())  # whichever side of the gradient's birth the peak is on
    return {"forward": found["forward"], "backward": most, "both": most}


def cuda_peak(call: Callable[[], Tensor]) -> int:
    """Bytes."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def cpu_peak(call: Callable[[], object], samples: int = SAMPLES) -> int:
    """Bytes that the call allocates and holds at once, whoever allocates them. What is older does not count.

    Raises: ImportError without memray.
    """
    import memray

    call()  # compiles, and fills caches that stay
    gc.collect()
    found = []
    for _ in range(samples):
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder) / "record"
            with memray.Tracker(record):
                call()
            with memray.FileReader(record) as reader:
                found.append(reader.metadata.peak_memory)
    return min(found)


def measure(setting: Setting, names: list[str]) -> list[dict]:
    """A row for every implementation."""
    torch._dynamo.reset()
    buffers = BufferSet(cases.make_input(setting, "cpu"), cases.make_target(setting, "cpu"))
    most = min(MOST_BYTES, machine.free_memory("cpu"))
    rows = []
    for name in names:
        row = {
            "case": setting.case.name,
            "shape": list(setting.case.shape),
            "regions": setting.case.regions,
            "dtype": setting.dtype,
            "layout": setting.layout,
            "labels": str(setting.label_dtype).removeprefix("torch."),
            "mask": setting.mask,
            "impl": name,
            "kind": PEERS[name].kind,
            "forward_bytes": None,
            "step_bytes": None,
            "note": None,
        }
        needed = PEERS[name].bytes_needed(setting)
        if needed > most:
            row["note"] = f"needs about {math.ceil(needed / 2**30)} GiB"
        else:
            try:
                found = peaks(PEERS[name].build(), buffers, setting.case.regions)
                assert found is not None  # main() has looked
                row["forward_bytes"], row["step_bytes"] = found["forward"], found["step"]
            except Exception as error:  # a peer that cannot be compiled loses its row, not the run
                row["note"] = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:160]
        rows.append(row)
        print(row_line(row), flush=True)
    return rows


def row_line(row: dict) -> str:
    """What a row says, as it is printed during a run."""
    name = f"{row['case']:12} {row['impl']:26} "
    if row["note"]:
        return name + f"not measured: {row['note']}"
    return name + f"forward {row['forward_bytes'] / 1e6:10.3f} MB  step {row['step_bytes'] / 1e6:10.3f} MB"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description="Measures the memory that a call of cas_ext and of its peers holds at once, on the CPU; some ten minutes.",
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file that is written")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--cases", nargs="+", choices=cases.SIZES, default=list(cases.SIZES), metavar="CASE",
        help=f"any of {', '.join(cases.SIZES)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--scale",
        choices=cases.SCALES,
        default="cpu",
        help="sizes of the cases; tiny is for tests (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    if counted_by("cpu") is None:
        print(f"error: {MISSING}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    result = {
        **machine.describe("cpu", shlex.join(["python", "-m", "benchmarks.memory", *argv])),
        "device_type": "cpu",
        "threads": options.threads,
        "scale": options.scale,
        "memory": MEMRAY,
        "rows": [],
    }
    names = [name for name in DEFAULT_PEERS if PEERS[name].why_unavailable() is None]
    for name in options.cases:
        setting = Setting(cases.case(name, options.scale), "float32", "nchw", "small", "coherent")
        result["rows"] += measure(setting, [peer for peer in names if PEERS[peer].applies(setting, "cpu")])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return 1 if any(row["note"] for row in result["rows"] if row["kind"] == "ours") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
