"""The four experiments: which runs they consist of.

Each is a generator: it yields lists of runs, is sent their results, and returns what to report. Later lists may depend on
earlier results: a sweep chooses by its validation scores what is then run with all seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from .jobs import Job
from .losses import SPECS
from .options import Options
from .pool import Results

TWO = 2  # channels of a saliency network: S and 1 - S
SWEEP_SEED = 1000  # of the runs that only choose settings; not among the seeds that are reported
MULTI_OUTPUTS = (8, 16)  # channels M that the sweep tries; at most 8 regions lie in an image
TEXTURE_OUTPUTS = (2, 8)
PAPER_SETTING = "cas-ordered-sqeuclidean"  # Eq. 1 with the authors' alpha
THEN = " then "


@dataclass
class Plan:
    """What is reported: the runs of the tables, those of the sweep, and what the sweep chose by family."""

    runs: list[Job]
    sweep: list[Job] = field(default_factory=list)
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)


Experiment = Generator[list[Job], Results, Plan]


def _job(
    options: Options, folder: str, method: str, kind: str, loss: str, seed: int, judge: str, outputs: int = TWO,
    noise: float = 0.0, initial: str | None = None,
) -> Job:  # fmt: skip
    weights = None if options.weights is None or initial is not None else str(options.weights)
    settings = options.settings(loss, outputs, seed)
    name = f"{folder}/seed-{seed}"
    return Job(name, method, options.source(kind, seed, noise), settings, judge, initial, weights)


def low_fidelity(options: Options) -> Experiment:
    """Table 1: region labels swapped in a share of the training images."""
    runs = [
        _job(options, f"noise-{noise:g}/{loss}", loss, "salient", loss, seed, "saliency", noise=noise)
        for seed in options.seeds
        for noise in options.noise
        for loss in options.losses
    ]
    yield runs
    return Plan(runs)


def high_fidelity(options: Options) -> Experiment:
    """Table 2: clean labels; beside each CAS loss, one that starts from the weights of the cross entropy."""
    runs = [
        _job(options, loss, loss, "salient", loss, seed, "saliency")
        for seed in options.seeds
        for loss in options.losses
    ]
    yield runs
    onwards = []
    if "ce" in options.losses:
        onwards = [
            _job(
                options, f"ce-then-{loss}", f"ce{THEN}{loss}", "salient", loss, seed, "saliency",
                initial=f"ce/seed-{seed}",
            )
            for seed in options.seeds
            for loss in options.losses
            if loss.startswith("cas-")
        ]  # fmt: skip
        yield onwards
    return Plan(runs + onwards)


def family(loss: str) -> str:
    """What the sweep chooses the best of: CAS with one distance, or a loss by its name."""
    return f"CAS, {loss.split('-')[2]}" if loss.startswith("cas-") else loss


def best_of_families(sweep: list[Job], results: Results) -> dict[str, dict[str, Any]]:
    """By family: the loss and outputs of the run with the highest validation covering, the first of equal ones."""
    chosen: dict[str, dict[str, Any]] = {}
    for job in sweep:
        value = results[job.name]["scores"]["validation"]
        loss = job.settings.loss
        key = family(loss)
        if key not in chosen or value > chosen[key]["validation"]:
            chosen[key] = {"loss": loss, "outputs": job.settings.outputs, "validation": value}
    return chosen


def _of_paper(sweep: list[Job], results: Results) -> dict[str, dict[str, Any]]:
    """The paper's own setting, with the outputs that suit it best."""
    mine = [job for job in sweep if job.settings.loss == PAPER_SETTING]
    return {"CAS as printed": found for found in best_of_families(mine, results).values()}


def _swept(
    options: Options, kind: str, outputs: tuple[int, ...]
) -> Generator[list[Job], Results, tuple[list[Job], dict[str, dict[str, Any]]]]:
    """Run every loss with every number of outputs on one seed of its own, and choose."""
    sweep = [
        _job(options, f"sweep/{loss}-{count}", loss, kind, loss, SWEEP_SEED, "validation", count)
        for count in outputs
        for loss in options.losses
    ]
    results = yield sweep
    chosen = {**_of_paper(sweep, results), **best_of_families(sweep, results)}
    return sweep, chosen


def _finals(options: Options, kind: str, chosen: dict[str, dict[str, Any]], folder: str = "") -> list[Job]:
    """Every choice with every seed; two families that chose the same share a run."""
    runs = {}
    for seed in options.seeds:
        for choice in chosen.values():
            loss, outputs = choice["loss"], choice["outputs"]
            method = f"{loss}, M = {outputs}"
            job = _job(options, f"{folder}{loss}-{outputs}", method, kind, loss, seed, "regions", outputs)
            runs[job.name] = job
    return list(runs.values())


def multi_region(options: Options) -> Experiment:
    """Table 3: the number of regions unknown."""
    sweep, chosen = yield from _swept(options, "voronoi", MULTI_OUTPUTS)
    runs = _finals(options, "voronoi", chosen)
    yield runs
    return Plan(runs, sweep, chosen)


def texture(options: Options) -> Experiment:
    """Table 4: two textures with arbitrary ids; networks trained on textures, and on salient objects."""
    sweep, chosen = yield from _swept(options, "texture", TEXTURE_OUTPUTS)
    runs = _finals(options, "texture", chosen)
    transfer = [
        _job(options, f"salient/{loss}", f"{loss}, trained on salient objects", "transfer", loss, seed, "regions")
        for seed in options.seeds
        for loss in options.losses
        if loss in ("ce", PAPER_SETTING)
    ]
    yield runs + transfer
    return Plan(runs + transfer, sweep, chosen)


EXPERIMENTS: dict[str, Callable[[Options], Experiment]] = {
    "low-fidelity": low_fidelity,
    "high-fidelity": high_fidelity,
    "multi-region": multi_region,
    "texture": texture,
}
CAS = tuple(name for name in SPECS if name.startswith("cas-"))
DEFAULT_LOSSES = {
    "low-fidelity": (
        "ce", "cace", "authors", PAPER_SETTING, "cas-unordered-sqeuclidean", "cas-ordered-euclidean", "cas-ordered-log",
    ),
    "high-fidelity": ("ce", "cace", PAPER_SETTING, "cas-ordered-euclidean"),
    "multi-region": (*CAS, "cace", "discriminative", "triplet", "magnet"),
    "texture": ("ce", "cace", PAPER_SETTING, "cas-mean-euclidean", "cas-mean-log"),
}  # fmt: skip
# Losses of codes alone have saliency maps; those that need two labels, or one name for each, suit only two regions.
ALLOWED_LOSSES = {
    "low-fidelity": tuple(name for name, spec in SPECS.items() if spec.output == "codes"),
    "high-fidelity": tuple(name for name, spec in SPECS.items() if spec.output == "codes"),
    "multi-region": tuple(name for name, spec in SPECS.items() if spec.max_regions is None),
    "texture": tuple(SPECS),
}
