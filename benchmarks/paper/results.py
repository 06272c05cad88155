"""results.json: everything that the report of a command says, and no more."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine

from . import parallel
from .experiments import EXPERIMENTS, Experiment, Plan
from .jobs import Job, write_text
from .options import Options
from .pool import Pool, Results, Together
from .report import RESULTS
from .sources import load

LIBRARIES = ("numpy", "scipy", "scikit-image", "scikit-learn", "pysodmetrics", "pytorch-metric-learning")
DIGITS, CURVE_DIGITS = 6, 4


def gather(experiment: Experiment, pool: Pool | Together, title: str) -> tuple[Plan, Results]:
    """Run an experiment's lists of runs one after the other; its plan, and the results of all runs by name."""
    everything: Results = {}
    stage = 1
    try:
        jobs = next(experiment)
        while True:
            found = pool.results(jobs, f"{title}, part {stage}")
            everything |= found
            stage += 1
            jobs = experiment.send(found)
    except StopIteration as end:
        return end.value, everything


def versions(device: torch.device) -> dict[str, Any]:
    """Machine, commit and libraries; no date, so that a run that was killed reports the same."""
    known = machine.describe(device.type, "")
    names = ("device", "torch", "cuda", "driver", "commit")
    return {**{name: known[name] for name in names}, **{name: version(name) for name in LIBRARIES}}


def _run(job: Job, results: Results) -> dict[str, Any]:
    settings, source = job.settings, job.source
    return {
        "method": job.method,
        "loss": settings.loss,
        "outputs": settings.outputs,
        "noise": source.noise,
        "seed": source.seed,
        "scores": results[job.name]["scores"],
    }


def mean_curves(runs: list[Job], results: Results) -> dict[str, dict[str, list[float]]]:
    """By method, at the highest noise: the curves averaged over seeds."""
    noise = max(job.source.noise for job in runs)
    by_method: dict[str, list[dict[str, list[float]]]] = {}
    for job in runs:
        found = results[job.name]["curves"]
        if job.source.noise == noise and found["step"]:
            by_method.setdefault(job.method, []).append(found)
    return {
        method: {name: np.mean([one[name] for one in found], 0).round(CURVE_DIGITS).tolist() for name in found[0]}
        for method, found in by_method.items()
    }


def collect(options: Options, plan: Plan, results: Results, device: torch.device) -> dict[str, Any]:
    """The content of results.json."""
    splits = load(plan.runs[0].source, device)
    return {
        "command": options.command,
        "options": options.described(),
        "versions": versions(device),
        "sets": {
            "train": splits.train.description,
            "validation": f"{len(splits.validation)} images",
            **{name: test.description for name, test in splits.tests.items()},
        },
        "runs": [_run(job, results) for job in plan.runs],
        "sweep": [_run(job, results) for job in plan.sweep],
        "chosen": plan.chosen,
        "curves": mean_curves(plan.runs, results),
    }


def rounded(value: Any) -> Any:
    """Every float in lists and dicts, rounded to DIGITS."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def as_json(content: dict[str, Any]) -> str:
    """JSON with one run, or one curve, a line."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list):
            lines = [json.dumps(one, allow_nan=False) for one in value]
        elif isinstance(value, dict):
            lines = [f"{json.dumps(name)}: {json.dumps(one, allow_nan=False)}" for name, one in value.items()]
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
            continue
        left, right = "[]" if isinstance(value, list) else "{}"
        parts.append(f"{json.dumps(key)}: {left}\n  " + ",\n  ".join(lines) + f"\n {right}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def execute(options: Options, runs: Path, out: Path, device: torch.device, workers: int) -> tuple[dict[str, Any], Plan]:
    """Run a command and write OUT/results.json; returns its content and the plan."""
    with Pool(runs, device, workers) if parallel.size() == 1 else Together(runs, device) as pool:
        plan, results = gather(EXPERIMENTS[options.command](options), pool, options.command)
    content = json.loads(as_json(rounded(collect(options, plan, results, device))))  # as a reader of the file has it
    if parallel.is_first():
        write_text(out / RESULTS, as_json(content))
    return content, plan
