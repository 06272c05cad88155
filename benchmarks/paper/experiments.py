"""The four experiments: which runs they consist of.

Each is a generator: it yields lists of runs, is sent their results, and returns what to report. Later lists may depend on
earlier results: a sweep chooses by its validation scores what is then run with all seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .jobs import Job
from .losses import ALPHA, ALPHAS, CAS, SPECS, Setting
from .options import Options
from .pool import Results

TWO = 2  # channels of a saliency network: S and 1 - S
PRINTED = Setting("ordered", "sqeuclidean").name  # Eq. 1 with the authors' alpha
THEN = " then "
TRANSFERRED = ", trained on salient objects"
Choice = dict[str, Any]  # loss, outputs, validation


@dataclass
class Plan:
    """What is reported: the runs of the tables, those of the sweep, and what the sweep chose by family."""

    runs: list[Job]
    sweep: list[Job] = field(default_factory=list)
    chosen: dict[str, Choice] = field(default_factory=dict)


Experiment = Generator[list[Job], Results, Plan]


def _job(
    options: Options, kind: str, loss: str, seed: int, judge: str, outputs: int = TWO, noise: float = 0.0,
    folder: str = "", method: str | None = None, **more: str,
) -> Job:  # fmt: skip
    """A run; its folder is named by what its training is, so that commands that share a folder of runs share these."""
    weights = None if options.weights is None or more else str(options.weights)
    name = f"{folder or kind}/noise-{noise:g}/{loss}-{outputs}/seed-{seed}"
    settings = options.settings(loss, outputs, seed)
    return Job(name, method or loss, options.source(kind, seed, noise), settings, judge, weights=weights, **more)


def _salient(options: Options, losses: Sequence[str], noises: Sequence[float] = (0.0,)) -> list[Job]:
    return [
        _job(options, "salient", loss, seed, "saliency", noise=noise)
        for seed in options.seeds
        for noise in noises
        for loss in losses
    ]


def low_fidelity(options: Options) -> Experiment:
    """Table 1: region labels swapped in a share of the training images."""
    runs = _salient(options, options.losses, options.noise)
    yield runs
    return Plan(runs)


def high_fidelity(options: Options) -> Experiment:
    """Table 2: clean labels; beside each CAS loss, one that starts from the weights of the cross entropy."""
    runs = _salient(options, options.losses)
    yield runs
    onwards = [
        _job(
            options, "salient", job.settings.loss, job.source.seed, "saliency", folder="salient-from-ce",
            method=f"ce{THEN}{job.method}", initial=first.name,
        )
        for job in runs
        for first in runs
        if job.method in CAS and first.method == "ce" and first.source.seed == job.source.seed
    ]  # fmt: skip
    if onwards:
        yield onwards
    return Plan(runs + onwards)


def family(loss: str) -> str:
    """What the sweep chooses the best of: CAS of a softmax with one distance, CAS without a softmax, or a loss by its name."""
    if loss not in CAS:
        return loss
    return f"CAS, {CAS[loss].distance}" if CAS[loss].softmax else "CAS, no softmax"


def best_of_families(sweep: Iterable[Job], results: Results) -> dict[str, Choice]:
    """By family: the loss and outputs of the run with the highest validation covering, the first of equal ones."""
    chosen: dict[str, Choice] = {}
    for job in sweep:
        value, loss = results[job.name]["scores"]["validation"], job.settings.loss
        if family(loss) not in chosen or value > chosen[family(loss)]["validation"]:
            chosen[family(loss)] = {"loss": loss, "outputs": job.settings.outputs, "validation": value}
    return chosen


def _sweep(options: Options, kind: str, alphas: Sequence[float]) -> Generator[list[Job], Results, Plan]:
    """Choose settings one after the other, on one seed that is not reported: the losses, then alpha, then outputs.

    Alphas are tried with the best of each family of CAS, outputs with the best of each family. The paper's own setting stays
    as it is but for the outputs.
    """
    seed = max(options.seeds) + 1
    outputs = options.outputs
    sweep: list[Job] = []
    results: Results = {}

    def jobs(settings: Iterable[tuple[str, int]]) -> list[Job]:
        new = [_job(options, kind, loss, seed, "validation", count, folder="sweep/" + kind) for loss, count in settings]
        known = {job.name for job in sweep}
        return list({job.name: job for job in new if job.name not in known}.values())

    def best() -> dict[str, Choice]:
        printed = best_of_families((job for job in sweep if job.settings.loss == PRINTED), results)
        return {
            **{f"{name}, as printed": choice for name, choice in printed.items()},
            **best_of_families(sweep, results),
        }

    stages: list[Callable[[], Iterable[tuple[str, int]]]] = [
        lambda: ((loss, outputs[0]) for loss in options.losses),
        lambda: (
            (replace(CAS[choice["loss"]], alpha=alpha).name, outputs[0])
            for choice in best_of_families(sweep, results).values()
            if choice["loss"] in CAS
            for alpha in alphas
        ),
        lambda: ((choice["loss"], count) for choice in best().values() for count in outputs[1:]),
    ]
    for stage in stages:
        new = jobs(stage())
        sweep += new
        results |= (yield new) if new else {}
    return Plan([], sweep, best())


def _finals(options: Options, kind: str, plan: Plan, judge: str) -> list[Job]:
    """Every choice with every seed; two families that chose the same share a run."""
    runs = {}
    for seed in options.seeds:
        for choice in plan.chosen.values():
            loss, outputs = choice["loss"], choice["outputs"]
            job = _job(options, kind, loss, seed, judge, outputs, method=f"{loss}, M = {outputs}")
            runs[job.name] = job
    return list(runs.values())


def multi_region(options: Options) -> Experiment:
    """Table 3: the number of regions unknown."""
    plan = yield from _sweep(options, "voronoi", ALPHAS)
    plan.runs = _finals(options, "voronoi", plan, "regions")
    yield plan.runs
    return plan


def texture(options: Options) -> Experiment:
    """Table 4: two textures with arbitrary ids; networks trained on textures, and those trained on salient objects."""
    plan = yield from _sweep(options, "texture", ())
    salient = _salient(options, [loss for loss in options.losses if loss in ("ce", PRINTED)])
    transferred = [
        _job(
            options, "transfer", job.settings.loss, job.source.seed, "every region size",
            method=f"{job.method}{TRANSFERRED}",
            trained=job.name,
        )
        for job in salient
    ]  # fmt: skip
    finals = _finals(options, "texture", plan, "every region size")
    yield finals + salient
    if transferred:
        yield transferred
    plan.runs = finals + transferred
    return plan


EXPERIMENTS: dict[str, Callable[[Options], Experiment]] = {
    "low-fidelity": low_fidelity,
    "high-fidelity": high_fidelity,
    "multi-region": multi_region,
    "texture": texture,
}
# Losses of codes alone have saliency maps; those that take two labels alone suit only two regions.
CODES = tuple(name for name, spec in SPECS.items() if spec.output == "codes")
ALLOWED_LOSSES = {
    "low-fidelity": CODES,
    "high-fidelity": CODES,
    "multi-region": tuple(name for name, spec in SPECS.items() if spec.max_regions is None),
    "texture": tuple(SPECS),
}
# Channels M: the sweep begins with the first, and then tries the others. At most 8 regions lie in an image.
OUTPUTS = {"multi-region": (8, 16), "texture": (8, 2)}
# The sweep adds the other alphas of what is best.
START = tuple(name for name, setting in CAS.items() if setting.alpha == ALPHA)
DEFAULT_LOSSES = {
    "low-fidelity": ("ce", "cace", "authors", PRINTED),
    "high-fidelity": ("ce", "cace", PRINTED),
    "multi-region": (*START, "cace", "discriminative", "triplet", "magnet"),
    "texture": ("ce", PRINTED, Setting("mean", "log").name, Setting("mean", "log", softmax=False).name),
}
