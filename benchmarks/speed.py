"""`python -m benchmarks.speed --device cpu|cuda --out FILE`: cas_ext against its peers over the grid of cases.py.

speed_options.py says what is measured; the file is rewritten after every setting.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import shlex
import statistics
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from . import cases, machine, measure, memory, report
from .cases import Setting
from .measure import BufferSet
from .oracle import Oracle, OwnFormula
from .peers import Loss, after_softmax, scatter_add
from .speed_options import PEER_DISTANCE, parse, peers_of

TINY_ROTATION = 1 << 20  # bytes, for the scale "tiny"
# Farther off than this, an implementation computes something else: rounding to the type, times a large sum.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 5e-3}


def progress(steps: Iterable, total: int) -> Iterator:
    """A progress bar where tqdm is installed."""
    if importlib.util.find_spec("tqdm") is None:
        return iter(steps)
    from tqdm import tqdm

    return iter(tqdm(steps, total=total, unit="setting", dynamic_ncols=True, disable=None))


def say(line: str) -> None:
    if importlib.util.find_spec("tqdm") is None:
        print(line, flush=True)
    else:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stdout)


class Run:
    """One invocation: its options, the machine's figures, and the rows so far."""

    def __init__(self, options: argparse.Namespace, command: str) -> None:
        self.options, self.device, self.peers = options, options.device, peers_of(options)
        if options.threads:
            torch.set_num_threads(options.threads)
        kept = self.device == "cpu" and options.allocator == "keep" and machine.keep_freed_memory()
        cache = machine.last_level_cache(self.device)
        self.rotation = TINY_ROTATION if options.scale == "tiny" else machine.ROTATIONS * cache
        buffers = machine.Memory(self.device, self.rotation)
        self.memory = buffers if self.device == "cpu" else None  # looked at while rows are measured
        self.result = {
            **machine.describe(self.device, command),
            "device_type": self.device,
            "threads": torch.get_num_threads() if self.device == "cpu" else None,
            "scale": options.scale,
            "activation": options.activation,
            "last_level_cache_bytes": cache,
            "rotation_bytes": self.rotation,
            "memory": memory.counted_by(
                self.device
            ),  # who counts peak_extra_bytes; files without it count too little on a CPU
            "allocator": ("keeps freed memory" if kept else "default") if self.device == "cpu" else "caching",
            "ceilings": (ceilings := buffers.ceilings()),
            "ceilings_at_start": ceilings,
            "ceilings_at_end": None,
            "unavailable_peers": unavailable(options),
            "rows": [],
        }
        self.sets: list[BufferSet] = []
        self.losses: dict[str, Loss] = {}
        self.inputs_of: tuple | None = None

    def measure(self, setting: Setting, peers: list[str]) -> None:
        self._prepare(setting)
        regions = setting.case.regions
        free = machine.free_memory(self.device)
        needed = {name: self.peers[name].bytes_needed(setting) for name in peers}
        absent = {name: f"needs about {n / 2**30:.0f} GiB" if n > free else None for name, n in needed.items()}
        present = [name for name in peers if absent[name] is None]
        first = self.sets[0]
        oracle: Oracle | OwnFormula
        if self.options.activation == "softmax":
            oracle = OwnFormula(after_softmax(scatter_add), first.input, first.target, regions)
        else:
            oracle = Oracle(first.input, first.target, regions)
        errors = {}
        for name in list(present):
            with self._reporting_failure(name, absent):
                if name not in self.losses:
                    self.losses[name] = self.peers[name].build()
                judge = oracle
                if self.peers[name].kind == "authors":
                    judge = OwnFormula(self.peers[name].loss, first.input, first.target, regions)
                errors[name] = self._errors(self.losses[name], judge, regions)
        present = [name for name in present if name in errors]
        peaks = {}
        for name in present:
            with self._reporting_failure(name, absent):
                peaks[name] = memory.peak_extra_bytes(self.losses[name], first, regions)
        present = [name for name in present if name in peaks]
        for phase in self.options.phases:
            timings = self._time(present, regions, phase, absent)
            ceilings = self.memory.seen() if self.memory is not None and timings else self.result["ceilings"]
            for name in peers:
                if name in timings:
                    figures = errors[name][phase], peaks[name][phase]
                    self._add_row(setting, name, phase, ceilings, timings[name], *figures)
                else:
                    self._add_row(setting, name, phase, ceilings, None, None, None, absent[name])

    @contextmanager
    def _reporting_failure(self, name: str, absent: dict[str, str | None]) -> Iterator[None]:
        """An implementation that cannot be compiled or runs out of memory loses its rows, not the run."""
        try:
            yield
        except Exception as error:
            absent[name] = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:160]
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def _prepare(self, setting: Setting) -> None:
        """Buffer sets for this setting; inputs and compiled peers stay while case, dtype and layout do."""
        key = (setting.case, setting.dtype, setting.layout)
        if key != self.inputs_of:
            self.sets, self.losses, self.inputs_of = [], {}, key
            torch._dynamo.reset()
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()
            size = setting.input_bytes + setting.target_bytes
            count = max(1, min(measure.MAX_CALLS, math.ceil(self.rotation / size)))
            first = cases.make_input(setting, self.device)
            inputs = [first, *(first.detach().clone().requires_grad_() for _ in range(1, count))]
            self.sets = [BufferSet(input, torch.empty(0)) for input in inputs]
        target = cases.make_target(setting, self.device)
        for i, s in enumerate(self.sets):
            s.target, s.gradient = target.clone() if i else target, None

    def _errors(self, loss: Loss, oracle: Oracle | OwnFormula, regions: int) -> dict[str, float]:
        first = self.sets[0]
        value = loss(first.input, first.target, regions)
        of_loss = oracle.loss_error(value)
        of_gradient = oracle.gradient_error(measure.gradient_of(value, first.input))
        both = max(of_loss, of_gradient) if math.isfinite(of_loss + of_gradient) else math.inf
        return {"forward": of_loss, "backward": of_gradient, "both": both}

    def _time(
        self, names: list[str], regions: int, phase: str, absent: dict[str, str | None]
    ) -> dict[str, measure.Timing]:
        budget = self.options.budget
        if self.memory is not None:
            losses = {name: self.losses[name] for name in names}
            return measure.time_cpu(losses, self.sets, regions, phase, budget, self.memory.flush, self.memory.look)
        timings = {}
        for name in names:
            with self._reporting_failure(name, absent):
                timings[name] = measure.time_cuda(self.losses[name], self.sets, regions, phase, budget)
        return timings

    def _add_row(
        self,
        setting: Setting,
        name: str,
        phase: str,
        ceilings: dict[str, float],
        timing: measure.Timing | None,
        error: float | None,
        peak: int | None,
        note: str | None = None,
    ) -> None:
        row = {
            "case": setting.case.name,
            "shape": list(setting.case.shape),
            "regions": setting.case.regions,
            "sweep": setting.case.sweep,
            "dtype": setting.dtype,
            "layout": setting.layout,
            "labels": str(setting.label_dtype).removeprefix("torch."),
            "mask": setting.mask,
            "impl": name,
            "kind": self.peers[name].kind,
            "phase": phase,
            **dict.fromkeys(
                ("ms", "eager_ms", "gbps", "ceilings", "share_of_ceiling", "rel_error", "peak_extra_bytes")
            ),
            **dict.fromkeys(("spread", "samples", "timer")),
            "note": note,
        }
        if timing is not None:
            row |= vars(timing)
            row["gbps"] = cases.floor_bytes(setting, phase) / timing.ms / 1e6
            row["ceilings"] = ceilings
            row["share_of_ceiling"] = share(row, ceilings)
            row["rel_error"] = error if math.isfinite(error) else None
            row["peak_extra_bytes"] = peak
            if not error <= TOLERANCE[setting.dtype]:
                row["note"] = f"wrong result: error {error:.1e}"
        self.result["rows"].append(row)
        say(report.row_line(row))

    def finish(self) -> None:
        self.sets, self.losses = [], {}
        settle(self.result, machine.Memory(self.device, self.rotation).ceilings())
        self.write()

    def write(self) -> None:
        partial = self.options.out.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(self.result, indent=1, allow_nan=False) + "\n")
        partial.replace(self.options.out)


def share(row: dict, ceilings: dict[str, float]) -> float:
    """The time of the floor's bytes at the ceilings over the row's. Forward only reads; backward is like a copy."""
    labels = "int64" if row["labels"] == "int64" else "small"
    case = cases.Case(row["case"], tuple(row["shape"]), row["regions"], row["sweep"])
    setting = Setting(case, row["dtype"], row["layout"], labels, row["mask"])
    forward = cases.floor_bytes(setting, "forward") / ceilings["read_gbps"]
    backward = cases.floor_bytes(setting, "backward") / ceilings["copy_gbps"]
    ideal = {"forward": forward, "backward": backward, "both": forward + backward}[row["phase"]]
    return ideal / row["ms"] / 1e6


def settle(result: dict, at_end: dict[str, float]) -> None:
    """Shares and ceilings of the whole run.

    CPU: shares are of what the memory did while a row was measured, the run's ceilings are the medians of that. CUDA:
    both are the higher of the ceilings at the start and at the end: the machine has what it has shown to have.
    """
    at_start, rows = result["ceilings_at_start"], [row for row in result["rows"] if row["ms"] is not None]
    result["ceilings_at_end"] = at_end
    if result["device_type"] == "cpu":
        if rows:
            result["ceilings"] = {name: statistics.median(row["ceilings"][name] for row in rows) for name in at_start}
        return
    result["ceilings"] = {name: max(at_start[name], at_end[name]) for name in at_start}
    for row in rows:
        row["ceilings"] = result["ceilings"]
        row["share_of_ceiling"] = share(row, row["ceilings"])


def unavailable(options: argparse.Namespace) -> dict[str, str]:
    """The peers asked for that cannot run in this environment, and why."""
    reasons = {name: peers_of(options)[name].why_unavailable() for name in options.peers}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def plan(options: argparse.Namespace) -> list[tuple[Setting, list[str]]]:
    """The settings in the order in which they are measured, each with its implementations."""
    available = [name for name in options.peers if name not in unavailable(options)]
    peers = peers_of(options)
    points = [cases.case(name, options.scale) for name in options.cases]
    points += [point for sweep in options.sweep for point in cases.sweep_cases(sweep, options.scale)]
    base = {axis: getattr(options, axis)[0] for axis in ("labels", "masks", "dtypes", "layouts")}
    planned = []
    for setting in cases.settings(points, options.dtypes, options.layouts, options.labels, options.masks):
        origin = Setting(setting.case, base["dtypes"], base["layouts"], base["labels"], base["masks"])
        with_peers = setting.differences(origin) <= PEER_DISTANCE[options.peer_grid]
        names = [name for name in available if with_peers or peers[name].kind == "ours"]
        names = [name for name in names if peers[name].applies(setting, options.device)]
        if names:
            planned.append((setting, names))
    return planned


def main(argv: list[str]) -> int:
    options = parse(argv)
    planned = plan(options)
    run = Run(options, shlex.join(["python", "-m", "benchmarks.speed", *argv]))
    for setting, names in progress(planned, len(planned)):
        run.measure(setting, names)
        run.write()
    run.finish()
    print(report.summary(run.result))
    return 1 if any(row["note"] for row in run.result["rows"] if row["kind"] == "ours") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
