"""Results of benchmarks: measured on sizes that take no time, and made up for tests of what becomes of them."""

from __future__ import annotations

import subprocess
import sys

from benchmarks import readme

FIGURES = {"ms", "eager_ms", "gbps", "share_of_ceiling", "rel_error", "peak_extra_bytes"}
ARGUMENTS = "--device cpu --scale tiny --budget 0.002 --dtypes float32 --layouts nchw --labels small int64"


def measure_tiny(path):
    """Writes a results file of the command-line program, on sizes that take no time."""
    chosen = "--threads 1 --cases paper voc --masks coherent random ragged --sweep regions channels"
    chosen += " --peers cas_ext onehot authors"
    command = [sys.executable, "-m", "benchmarks.speed", *ARGUMENTS.split(), *chosen.split(), "--out", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=readme.ROOT)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    assert "x compiled" in process.stdout and "error" in process.stdout


def row(impl, kind, ms, phase="both", **changes):
    base = {"case": "paper", "shape": [40, 2, 256, 256], "regions": 2, "sweep": None, "dtype": "float32"}
    base |= {"layout": "nchw", "labels": "uint8", "mask": "coherent", "impl": impl, "kind": kind, "phase": phase}
    base |= {"ms": ms, "eager_ms": ms, "share_of_ceiling": 0.8, "rel_error": 1e-7, "peak_extra_bytes": 0}
    return base | changes


def made_up(*rows):
    ceilings = {"read_gbps": 10.0, "copy_gbps": 8.0}
    described = {"device": "A", "torch": "2", "date": "2026-01-01", "commit": None, "threads": 1, "scale": "cpu"}
    described["command"] = "python -m benchmarks.speed"
    return {**described, "device_type": "cpu", "ceilings": ceilings, "unavailable_peers": {}, "rows": list(rows)}


def memory_rows():
    rows = []
    for case, impl, kind, forward, step in [
        ("paper", "cas_ext", "ours", 300_000, 20_000),
        ("paper", "onehot", "eager", 80_000_000, 90_000_000),
        ("paper", "scatter_add", "eager", 70_000_000, 60_000_000),
        ("paper", "onehot_compiled", "compiled", 50_000_000, 40_000_000),
        ("paper", "authors", "authors", 1, 1),
        ("voc", "cas_ext", "ours", 800_000, 40_000),
        ("tiny", "cas_ext", "ours", 43_000, 10_000),
    ]:
        measured = {"forward_bytes": forward, "step_bytes": step}
        rows.append({k: v for k, v in row(impl, kind, None, case=case).items() if k not in FIGURES} | measured)
    return [r | {"note": None} for r in rows] + [rows[1] | {"note": "needs 20 GiB", "forward_bytes": None}]
